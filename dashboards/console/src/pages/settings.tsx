// One's own account, what works and what does not, and reading the configuration again.
import { PasswordInput, SimpleGrid, Stack, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { api, got, type Schemas } from "../api/client";
import { usd } from "../format";
import { Action } from "../parts/action";
import { Status } from "../parts/badges";
import { Card, Failed, Heading, Loading } from "../parts/states";
import { useSession } from "../session";

export default function Settings() {
  const { session, may } = useSession();
  const person = session.actor.startsWith("person:");
  return (
    <>
      <Heading title="Settings & health" />
      <SimpleGrid cols={{ base: 1, md: 2 }}>
        {may("fleet.read") && <Health />}
        <Stack>
          <Card title="You">
            <Stack gap="xs" align="flex-start">
              <Text size="sm"><span className="code">{session.actor}</span>, {session.role} of {session.org === "*" ? "the installation" : session.org}</Text>
              <Text size="sm" c="dimmed">You may: {session.rights.join(", ")}.</Text>
              {person ? <Password /> : <Text size="sm">You are here by a key. Make an account under People, so that the audit log names you.</Text>}
            </Stack>
          </Card>
          {may("config.write") && (
            <Card title="Configuration">
              <Stack gap="xs" align="flex-start">
                <Text size="sm">Server, models, routes and cache are owned by the configuration file. A file that is wrong changes nothing: what is wrong in it is shown here.</Text>
                <Action
                  label="Read the file again" variant="default" title="Read the configuration again" confirm="Read it" act={() => got(api.POST("/admin/v1/config/reload"))}
                  shows={(now: Schemas["Reloaded"]) => <Text size="sm">In force: models {now.models.join(", ")}; routes {now.routes.join(", ") || "none"}.</Text>}
                >
                  <Text size="sm">What the file says now gets in force, here and in the gateway's other processes. Running requests finish as they began.</Text>
                </Action>
              </Stack>
            </Card>
          )}
        </Stack>
      </SimpleGrid>
    </>
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

function Health() {
  const { data, error, refetch } = useQuery({ queryKey: ["live", "health"], queryFn: () => got(api.GET("/admin/v1/live")), refetchInterval: 5_000 });
  if (error && !data) return <Failed error={error} again={() => void refetch()} />;
  if (!data) return <Loading />;
  const { models = {}, loops = {}, ...rest } = data.parts as { models?: Record<string, string>; loops?: Record<string, string> } & Record<string, string>;
  const troubles = [...Object.entries(loops), ...Object.entries(rest)];
  return (
    <Card title="Health" side={<Status status={data.status} />}>
      <Stack gap="xs">
        {Object.entries(models).map(([name, state]) => <Text size="sm" key={name} component="div">Model {name}: <Status status={state} /></Text>)}
        {troubles.length === 0 ? <Text size="sm">Database, journal, probes and roll-ups work.</Text> : troubles.map(([name, error]) => <Text size="sm" key={name} style={{ color: "var(--bad)" }}>{name}: {String(error)}</Text>)}
        <Text size="sm">Ledger gap: {usd(data.ledger_gap_nanousd)}{data.ledger_gap_nanousd === null && " (not known yet)"}</Text>
      </Stack>
    </Card>
  );
}
