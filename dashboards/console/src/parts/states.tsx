// What is shown while there is nothing yet, nothing at all, or no answer.
import { Alert, Button, Group, Loader, Stack, Text, Title, VisuallyHidden } from "@mantine/core";
import type { ReactNode } from "react";
import { Failure } from "../api/client";
import { words } from "../words";

const t = words.states;

export function Loading() {
  return <div role="status"><Loader size="sm" /><VisuallyHidden>{t.loading}</VisuallyHidden></div>;
}

const ADVICE: Record<number, string> = {
  0: t.noAnswer,
  403: t.youMayNotDoThis,
  404: t.thereIsNoSuchThing,
  409: t.thatIsNotPossibleNow,
  412: t.somebodyWasFasterLoadAgain,
  429: t.tooManyAttempts,
  503: t.theDatabaseIsAwayRequests,
};

export function Failed({ error, again }: { error: unknown; again?: () => void }) {
  const status = error instanceof Failure ? error.status : -1;
  const text = error instanceof Error ? error.message : String(error);
  return (
    <Alert color="red" variant="light" role="alert" title={ADVICE[status] ?? t.thatDidNotWork}>
      <Stack gap="xs" align="flex-start">
        <Text size="sm">{text}</Text>
        {error instanceof Failure && error.param && <Text size="sm">{t.field(error.param)}</Text>}
        {again && <Button size="xs" variant="default" onClick={again}>{t.tryAgain}</Button>}
      </Stack>
    </Alert>
  );
}

/** A page of one thing that is not there, or not for who looks: what is missing, and the way back. */
export function Missing({ what, id, children }: { what: keyof typeof t.missing; id: string; children: ReactNode }) {
  return <><Heading title={t.missing[what]} about={t.nothingHasTheId(id)} /><Text size="sm" component="div">{children}</Text></>;
}

/** Whether there is no such thing: 404, or a text that no id has the form of. */
export function isMissing(error: unknown): boolean {
  return error instanceof Failure && (error.status === 404 || error.status === 400);
}

/** Says what would stand here, and what to do so that something does. */
export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <Stack align="center" gap={4} py="xl" px="md" ta="center">
      <Text fw={600}>{title}</Text>
      <Text c="dimmed" size="sm" maw={440} component="div">{children}</Text>
    </Stack>
  );
}

export function Heading({ title, about, children }: { title: ReactNode; about?: ReactNode; children?: ReactNode }) {
  return (
    <Group justify="space-between" align="flex-start" mb="md" gap="sm">
      <div style={{ minWidth: 0 }}>
        <Title order={1} size="h3" style={{ overflowWrap: "anywhere" }}>{title}</Title>
        {about && <Text c="dimmed" size="sm" component="div">{about}</Text>}
      </div>
      {children && <Group gap="xs">{children}</Group>}
    </Group>
  );
}

export function Card({ title, side, children }: { title?: ReactNode; side?: ReactNode; children: ReactNode }) {
  return (
    <section className="card">
      {title && (
        <Group justify="space-between" mb="sm" gap="xs">
          <Title order={2} size="h5">{title}</Title>
          {side}
        </Group>
      )}
      {children}
    </section>
  );
}
