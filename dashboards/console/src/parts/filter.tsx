// Fields that narrow a list; their values live in the address, and what they show follows the address.
import { Button, Group, TextInput } from "@mantine/core";
import { type ReactNode, useId, useState } from "react";
import { words } from "../words";

const t = words.filter;

interface Props { label: string; value: string | undefined; set: (value: string) => void; width?: number; hint?: string }

export function Filter({ label, value = "", set, width = 128, hint = t.any }: Props) {
  const took = (text: string) => text.trim() !== value && set(text.trim());
  return (
    <TextInput
      key={value} size="xs" w={width} label={label} defaultValue={value} placeholder={hint}
      onBlur={(event) => took(event.currentTarget.value)}
      onKeyDown={(event) => event.key === "Enter" && took(event.currentTarget.value)}
    />
  );
}

/** Many fields. A narrow screen has no room for them above the list: there a button unfolds them, and tells how many are set. */
export function Filters({ label, active, children }: { label: string; active: number; children: ReactNode }) {
  const [open, setOpen] = useState(false);
  const id = useId();
  return (
    <>
      <Button hiddenFrom="xs" size="xs" mb="sm" variant="default" aria-expanded={open} aria-controls={id} onClick={() => setOpen(!open)}>{t.filters(active)}</Button>
      <Group id={id} gap="xs" mb="md" align="flex-end" role="search" aria-label={label} visibleFrom={open ? undefined : "xs"}>{children}</Group>
    </>
  );
}
