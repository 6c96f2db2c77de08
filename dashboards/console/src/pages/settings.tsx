// The configuration file: a change is staged, looked at, applied once, and can be taken back. And one's own account.
import { Alert, Button, Group, PasswordInput, Stack, Text, Textarea } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { api, got, type Schemas } from "../api/client";
import { moment } from "../format";
import { Action } from "../parts/action";
import { Diff } from "../parts/diff";
import { To } from "../parts/link";
import { Card, Empty, Failed, Heading, Loading } from "../parts/states";
import { useSession } from "../session";
import { stage, useStaged } from "../staged";

type File = Schemas["Configuration"];

export default function Settings() {
  const { session, may } = useSession();
  const person = session.actor.startsWith("person:");
  return (
    <>
      <Heading title="Settings" about={<>What works and what does not stands under <To to="/health">health</To>.</>} />
      <Stack>
        {may("config.write") && session.org === "*" && <Configuration />}
        <Card title="You">
          <Stack gap="xs" align="flex-start">
            <Text size="sm"><span className="code">{session.actor}</span>, {session.role} of {session.org === "*" ? "the installation" : session.org}</Text>
            <Text size="sm" c="dimmed">You may: {session.rights.join(", ")}.</Text>
            {person ? <Password /> : <Text size="sm">You are here by a key. Make an account under People, so that the audit log names you.</Text>}
          </Stack>
        </Card>
      </Stack>
    </>
  );
}

function Configuration() {
  const { data, error, refetch } = useQuery({ queryKey: ["config"], queryFn: () => got(api.GET("/admin/v1/config")) });
  if (error) return <Card title="Configuration"><Failed error={error} again={() => void refetch()} /></Card>;
  if (!data) return <Card title="Configuration"><Loading /></Card>;
  return (
    <>
      <Card title="Configuration" side={<Text size="sm" className="code">{data.path}</Text>}><Stage file={data} /></Card>
      <Card title="Earlier texts">
        {data.earlier.length === 0 ? <Empty title="Nothing was changed from here yet">What an Apply replaces is kept here, to be taken back: the last 20 texts.</Empty> : (
          <Stack gap={6}>
            {data.earlier.map((one) => (
              <Group key={one.id} justify="space-between">
                <Text size="sm">In force until {moment(one.replaced_s)}</Text>
                {data.read_only === null && <RollBack id={one.id} until={moment(one.replaced_s)} over={data.digest} />}
              </Group>
            ))}
          </Stack>
        )}
      </Card>
    </>
  );
}

function Stage({ file }: { file: File }) {
  const held = useStaged();
  const text = held ?? file.text;
  const [settled] = useDebouncedValue(text, 300);
  const changes = held !== null && held !== file.text;
  const trial = useQuery({
    queryKey: ["config", "trial", file.digest, settled],
    enabled: changes,
    placeholderData: keepPreviousData,
    queryFn: () => got(api.POST("/admin/v1/config/trial", { body: { text: settled } })),
  });
  const seen = changes && settled === text && !trial.isPlaceholderData ? trial.data : undefined;
  return (
    <Stack gap="sm">
      {file.read_only && <Alert color="yellow" title="Managed elsewhere: shown, not changed">{file.read_only}</Alert>}
      {file.finding && <Alert color="red" title="The file cannot be used as it is; what was in force before still is">{file.finding}</Alert>}
      {file.waiting.length > 0 && <Alert color="yellow" title="Waits for a restart of the gateway">{file.waiting.join(", ")}</Alert>}
      <Textarea
        className="editor" label="gateway.toml" description="Secrets are names of variables here, never values. Nothing changes until Apply." readOnly={file.read_only !== null}
        value={text} onChange={(event) => stage(event.currentTarget.value)} autosize minRows={8} maxRows={28} spellCheck={false}
      />
      {changes && (
        <section aria-label="Staged changes">
          <Stack gap="sm">
            {trial.error && <Failed error={trial.error} again={() => void trial.refetch()} />}
            {seen?.finding && <Alert color="red" role="alert" title="This would not work">{seen.finding}</Alert>}
            {seen && <Diff text={seen.diff} />}
            {seen && seen.changed.length > 0 && <Text size="sm">Changes {seen.changed.join(", ")}.</Text>}
            {seen && seen.restart.length > 0 && <Text size="sm" style={{ color: "var(--warn)" }}>Only a restart puts these in force: {seen.restart.join(", ")}.</Text>}
          </Stack>
        </section>
      )}
      <Group gap="xs">
        {changes && (
          <Action
            label="Apply" title="Apply the staged changes" confirm="Apply" disabled={!seen || seen.finding !== null || seen.diff === ""}
            act={async () => {
              await got(api.PUT("/admin/v1/config", { body: { text, over: file.digest } }));
              stage(null);
            }}
          >
            <Text size="sm">Writes {seen?.changed.join(", ") || "the text"} to <span className="code">{file.path}</span> and puts it in force in all of the gateway's processes. Running requests finish as they began. It can be taken back below.</Text>
          </Action>
        )}
        {changes && <Button variant="default" onClick={() => stage(null)}>Discard</Button>}
        <Action
          label="Read the file again" variant="default" title="Read the configuration again" confirm="Read it" act={() => got(api.POST("/admin/v1/config/reload"))}
          shows={(now: Schemas["Reloaded"]) => <Text size="sm">In force: models {now.models.join(", ")}; routes {now.routes.join(", ") || "none"}.</Text>}
        >
          <Text size="sm">For a file that was changed elsewhere: what it says now gets in force, here and in the gateway's other processes.</Text>
        </Action>
      </Group>
    </Stack>
  );
}

function RollBack({ id, until, over }: { id: string; until: string; over: string }) {
  return (
    <Action
      size="compact-xs" danger label="Roll back" title={`Back to the text until ${until}`} confirm="Roll back"
      act={() => got(api.POST("/admin/v1/config/rollback", { body: { id, over } }))}
    >
      <Earlier id={id} />
      <Text size="sm">This replaces the file's text; the present one is kept in its turn.</Text>
    </Action>
  );
}

function Earlier({ id }: { id: string }) {
  const { data, error } = useQuery({
    queryKey: ["config", "earlier", id],
    queryFn: () => got(api.GET("/admin/v1/config/earlier/{file_id}", { params: { path: { file_id: id } } })),
  });
  if (error) return <Failed error={error} />;
  if (!data) return <Loading />;
  return (
    <Stack gap="xs">
      {data.finding && <Alert color="red" title="This text would not work now">{data.finding}</Alert>}
      {data.diff ? <Diff text={data.diff} /> : <Text size="sm">It is the same as the present text.</Text>}
    </Stack>
  );
}

function Password() {
  return (
    <Action
      label="Change my password" variant="default" title="Change my password" confirm="Change it"
      act={(given) => got(api.POST("/admin/v1/session/password", { body: { password: String(given.get("password")), new_password: String(given.get("new_password")) } }))}
    >
      <PasswordInput name="password" label="Present password" required autoComplete="current-password" data-autofocus />
      <PasswordInput name="new_password" label="New password" description="At least 12 characters." required autoComplete="new-password" />
      <Text size="sm" c="dimmed">You sign in again after it, everywhere.</Text>
    </Action>
  );
}
