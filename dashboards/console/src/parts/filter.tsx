// One field that narrows a list; its value lives in the address, and what it shows follows the address.
import { TextInput } from "@mantine/core";
import { words } from "../words";

const t = words.filter;

interface Props { label: string; value: string | undefined; set: (value: string) => void; width?: number; hint?: string }

export function Filter({ label, value = "", set, width = 132, hint = t.any }: Props) {
  const took = (text: string) => text.trim() !== value && set(text.trim());
  return (
    <TextInput
      key={value} size="xs" w={width} label={label} defaultValue={value} placeholder={hint}
      onBlur={(event) => took(event.currentTarget.value)}
      onKeyDown={(event) => event.key === "Enter" && took(event.currentTarget.value)}
    />
  );
}
