// The configuration file: a change is staged, looked at, applied once, and can be taken back. And one's own account.
import { Alert, Button, Group, PasswordInput, Stack, Text, Textarea } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { api, got, type Schemas } from "../api/client";
import { moment } from "../format";
import { Action } from "../parts/action";
import { Diff } from "../parts/diff";
import { Card, Empty, Failed, Heading, Loading } from "../parts/states";
import { useSession } from "../session";
import { stage, useStaged } from "../staged";
import { words } from "../words";

const t = words.settings;

type File = Schemas["Configuration"];

export default function Settings() {
  const { session, may } = useSession();
  const person = session.actor.startsWith("person:");
  const owns = may("config.write") && session.org === "*";
  const file = useQuery({ queryKey: ["config"], enabled: owns, queryFn: () => got(api.GET("/admin/v1/config")) });
  if (owns && file.isPending) return <Loading />;
  return (
    <>
      <Heading title={t.settings} about={t.whatWorksAndWhatDoes()} />
      <Stack>
        {file.error ? <Card title={t.configuration}><Failed error={file.error} again={() => void file.refetch()} /></Card> : file.data && <Configuration data={file.data} />}
        <Card title={t.you}>
          <Stack gap="xs" align="flex-start">
            <Text size="sm">{t.of(session.actor, session.role, session.org === "*" ? t.theInstallation : session.org)}</Text>
            <Text size="sm" c="dimmed">{t.youMay(session.rights.join(", "))}</Text>
            {person ? <Password /> : <Text size="sm">{t.youAreHereByA}</Text>}
          </Stack>
        </Card>
      </Stack>
    </>
  );
}

function Configuration({ data }: { data: File }) {
  return (
    <>
      <Card title={t.configuration} side={<Text size="sm" className="code">{data.path}</Text>}><Stage file={data} /></Card>
      <Card title={t.earlierTexts}>
        {data.earlier.length === 0 ? <Empty title={t.nothingWasChangedFromHere}>{t.whatAnApplyReplacesIs}</Empty> : (
          <Stack gap={6}>
            {data.earlier.map((one) => (
              <Group key={one.id} justify="space-between">
                <Text size="sm">{t.inForceUntil(moment(one.replaced_s))}</Text>
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
      {file.read_only && <Alert color="yellow" title={t.managedElsewhereShownNotChanged}>{file.read_only}</Alert>}
      {file.finding && <Alert color="red" title={t.theFileCannotBeUsed}>{file.finding}</Alert>}
      {file.waiting.length > 0 && <Alert color="yellow" title={t.waitsForARestartOf}>{file.waiting.join(", ")}</Alert>}
      <Textarea
        className="editor" label={t.gatewayToml} description={t.secretsAreNamesOfVariables} readOnly={file.read_only !== null}
        value={text} onChange={(event) => stage(event.currentTarget.value)} autosize minRows={8} maxRows={28} spellCheck={false}
      />
      {changes && (
        <section aria-label={t.stagedChanges}>
          <Stack gap="sm">
            {trial.error && <Failed error={trial.error} again={() => void trial.refetch()} />}
            {seen?.finding && <Alert color="red" role="alert" title={t.thisWouldNotWork}>{seen.finding}</Alert>}
            {seen && <Diff text={seen.diff} />}
            {seen && seen.changed.length > 0 && <Text size="sm">{t.changes(seen.changed.join(", "))}</Text>}
            {seen && seen.restart.length > 0 && <Text size="sm" style={{ color: "var(--warn)" }}>{t.onlyARestartPutsThese(seen.restart.join(", "))}</Text>}
          </Stack>
        </section>
      )}
      <Group gap="xs">
        {changes && (
          <Action
            label={t.apply} title={t.applyTheStagedChanges} confirm={t.apply} disabled={!seen || seen.finding !== null || seen.diff === ""}
            act={async () => {
              await got(api.PUT("/admin/v1/config", { body: { text, over: file.digest } }));
              stage(null);
            }}
          >
            <Text size="sm">{t.writesToAndPutsIt(seen?.changed.join(", ") || t.theText, file.path)}</Text>
          </Action>
        )}
        {changes && <Button variant="default" onClick={() => stage(null)}>{t.discard}</Button>}
        <Action
          label={t.readTheFileAgain} variant="default" title={t.readTheConfigurationAgain} confirm={t.readIt} act={() => got(api.POST("/admin/v1/config/reload"))}
          shows={(now: Schemas["Reloaded"]) => (
            <Text size="sm">
              {t.inForceModelsRoutes(now.models.join(", "), now.routes.join(", ") || t.none)}
              {now.waiting.length > 0 && <> {t.onlyARestartPutsThese(now.waiting.join(", "))}</>}
            </Text>
          )}
        >
          <Text size="sm">{t.forAFileThatWas}</Text>
        </Action>
      </Group>
    </Stack>
  );
}

function RollBack({ id, until, over }: { id: string; until: string; over: string }) {
  return (
    <Action
      size="compact-xs" danger label={t.rollBack} title={t.backToTheTextUntil(until)} confirm={t.rollBack}
      act={() => got(api.POST("/admin/v1/config/rollback", { body: { id, over } }))}
    >
      <Earlier id={id} />
      <Text size="sm">{t.thisReplacesTheFilesText}</Text>
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
      {data.finding && <Alert color="red" title={t.thisTextWouldNotWork}>{data.finding}</Alert>}
      {data.diff ? <Diff text={data.diff} /> : <Text size="sm">{t.itIsTheSameAs}</Text>}
    </Stack>
  );
}

function Password() {
  return (
    <Action
      label={t.changeMyPassword} variant="default" title={t.changeMyPassword} confirm={t.changeIt}
      act={(given) => got(api.POST("/admin/v1/session/password", { body: { password: String(given.get("password")), new_password: String(given.get("new_password")) } }))}
    >
      <PasswordInput name="password" label={t.presentPassword} required autoComplete="current-password" data-autofocus />
      <PasswordInput name="new_password" label={t.newPassword} description={t.atLeast12Characters} required autoComplete="new-password" />
      <Text size="sm" c="dimmed">{t.youSignInAgainAfter}</Text>
    </Action>
  );
}
