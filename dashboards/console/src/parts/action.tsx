// Things that change something: they say what, wait for the gateway, and show what it said.
import { Button, type ButtonProps, Code, CopyButton, Group, Modal, Stack, Text } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, type ReactNode, useState } from "react";
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
  return (
    <CopyButton value={text}>
      {({ copied, copy }) => (
        <Button size="xs" variant="default" onClick={copy} w="fit-content">{copied ? t.copied : label}</Button>
      )}
    </CopyButton>
  );
}
