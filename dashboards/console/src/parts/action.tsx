// Things that change something: they say what, wait for the gateway, and show what it said.
import { Button, type ButtonProps, Code, Group, Modal, Stack, Text } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, type MouseEvent, type ReactNode, useState } from "react";
import { Failed } from "./states";
import { words } from "../words";

const t = words.action;

interface Asked {
  label: string;
  title: string;
  children?: ReactNode;
  confirm: string;
  danger?: boolean;
  size?: ButtonProps["size"];
  variant?: ButtonProps["variant"];
  disabled?: boolean;
  act: (given: FormData) => Promise<unknown>;
  /** What is shown instead of closing, with the gateway's answer. */
  shows?: (answer: never) => ReactNode;
}

/** A button that opens a form or a question, and does what it says only after that. */
export function Action({ label, title, children, confirm, danger, act, shows, size = "sm", variant, disabled }: Asked) {
  const [open, setOpen] = useState(false);
  const queries = useQueryClient();
  const run = useMutation({
    mutationFn: act,
    onSuccess: async () => {
      if (!shows) setOpen(false);
      await queries.invalidateQueries({ predicate: (query) => query.queryKey[0] !== "session" });
    },
  });
  const close = () => {
    if (run.isPending) return;
    setOpen(false);
    run.reset();
  };
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    event.stopPropagation();
    run.mutate(new FormData(event.currentTarget));
  };
  const shown = run.isSuccess && shows;
  return (
    <>
      <Button
        size={size}
        disabled={disabled}
        color={danger ? "red.9" : undefined}
        variant={variant ?? (danger ? "outline" : "filled")}
        className={danger ? "danger" : undefined}
        onClick={() => { run.reset(); setOpen(true); }}
      >
        {label}
      </Button>
      <Modal
        opened={open}
        onClose={close}
        title={title}
        closeOnClickOutside={!shown}
        closeButtonProps={{ "aria-label": t.close }}
      >
        {shown ? (
          <Stack>{shows(run.data as never)}<Button onClick={close}>{t.done}</Button></Stack>
        ) : (
          <form onSubmit={submit}>
            <Stack>
              {children}
              {run.error && <Failed error={run.error} />}
              <Group justify="flex-end">
                <Button variant="default" onClick={close}>{t.cancel}</Button>
                <Button type="submit" color={danger ? "red.9" : undefined} loading={run.isPending}>{confirm}</Button>
              </Group>
            </Stack>
          </form>
        )}
      </Modal>
    </>
  );
}

/** A text that will not be seen again. */
export function Secret({ name, text, children }: { name: string; text: string; children?: ReactNode }) {
  return (
    <Stack gap="xs">
      <Text size="sm">{t.copyItNowItIs(name)}</Text>
      <Code block className="code" style={{ whiteSpace: "pre-wrap" }}>{text}</Code>
      <Copy text={text} label={t.copy} />
      {children}
    </Stack>
  );
}

export function Copy({ text, label }: { text: string; label: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async (event: MouseEvent<HTMLButtonElement>) => {
    const button = event.currentTarget;
    setCopied(await put(text, button));
    setTimeout(() => setCopied(false), 2_000);
  };
  return <Button size="xs" variant="default" onClick={(event) => void copy(event)} w="fit-content">{copied ? t.copied : label}</Button>;
}

/** Put a text on the clipboard. Browsers keep theirs from pages that came over plain HTTP: there, as in older days. */
async function put(text: string, beside: HTMLElement): Promise<boolean> {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "skip";
  beside.after(field); // where the focus may go, also within a dialog
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  beside.focus();
  return done;
}

/** Which version a form is about: the one that it was opened on, whatever is read meanwhile. */
export function Version({ of }: { of: string }) {
  const [at] = useState(of);
  return <input type="hidden" name="version" value={at} readOnly />;
}

export function versionOf(given: FormData): { "if-match": string } {
  return { "if-match": String(given.get("version")) };
}
