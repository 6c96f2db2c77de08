// One key: limits, rotation, its end.
import { NumberInput, SimpleGrid, Stack, Text, TextInput } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useParams } from "@tanstack/react-router";
import { api, got, gotVersioned, type Schemas } from "../api/client";
import { moment } from "../format";
import { Action } from "../parts/action";
import { Balance } from "../parts/balance";
import { Status } from "../parts/badges";
import { Shown, stateOf } from "../parts/keys";
import { To } from "../parts/link";
import { Card, Failed, Heading, Loading } from "../parts/states";
import { TermsFields, termsOf, TermsText } from "../parts/terms";
import { useSession } from "../session";

export default function KeyPage() {
  const { id } = useParams({ strict: false }) as { id: string };
  const { may } = useSession();
  const path = { key_id: id };
  const { data, error, isPending, refetch } = useQuery({
    queryKey: ["keys", "one", id],
    queryFn: () => gotVersioned(api.GET("/admin/v1/keys/{key_id}", { params: { path } })),
  });
  if (isPending) return <Loading />;
  if (error) return <Failed error={error} again={() => void refetch()} />;
  const { value: key, etag } = data;
  const whose = `${key.org} / ${key.project}`;
  const alive = key.revoked_s === null;
  return (
    <>
      <Heading title={key.name} about={<>Key of {whose} · <To to="/requests" search={{ key_id: id }}>its requests</To> · <To to="/keys">all keys</To></>}>
        {may("tenants.write") && alive && (
          <>
            {key.origin !== "file" && (
              <>
                <Action
                  label="Change" variant="default" title={`Change ${key.name}`} confirm="Save"
                  act={(given) => got(api.PATCH("/admin/v1/keys/{key_id}", {
                    params: { path, header: { "if-match": etag } },
                    body: { name: String(given.get("name")).trim(), terms: termsOf(given) },
                  }))}
                >
                  <TextInput name="name" label="Name" defaultValue={key.name} required maxLength={200} data-autofocus />
                  <TermsFields terms={key.terms} />
                </Action>
                <Action
                  label="Rotate" variant="default" title={`Rotate ${key.name}`} confirm="Give it a new text"
                  act={(given) => got(api.POST("/admin/v1/keys/{key_id}/rotate", { params: { path }, body: { overlap_s: Number(given.get("overlap_h")) * 3600 } }))}
                  shows={(made: Schemas["MadeKey"]) => <Shown made={made} />}
                >
                  <Text size="sm">The key gets a new text. The one of now counts on for a while, so that nothing stops.</Text>
                  <NumberInput name="overlap_h" label="The old text counts on for (hours)" min={0} max={2160} defaultValue={24} required hideControls data-autofocus />
                </Action>
              </>
            )}
            <Action
              label="Revoke" danger title={`Revoke ${key.name}`} confirm="Revoke for good"
              act={() => got(api.POST("/admin/v1/keys/{key_id}/revoke", { params: { path } }))}
            >
              <Text size="sm">Every client that uses the key <b>{key.name}</b> of {whose} is refused from its next request on. This cannot be undone.</Text>
            </Action>
          </>
        )}
      </Heading>
      <SimpleGrid cols={{ base: 1, sm: 2 }}>
        <Card title="The key">
          <Stack gap={6}>
            <div><Status status={stateOf(key)} /></div>
            <Text size="sm">Begins with <span className="code">{key.prefix || "(from the configuration file)"}</span></Text>
            <Text size="sm">Made {moment(key.created_s)}{key.expires_s !== null && `, ends ${moment(key.expires_s)}`}{key.revoked_s !== null && `, revoked ${moment(key.revoked_s)}`}</Text>
            {key.previous_until_s !== null && key.previous_until_s * 1000 > Date.now() && <Text size="sm">The text before counts until {moment(key.previous_until_s)}.</Text>}
            <Text size="sm">May: {key.scopes.join(", ")}</Text>
            {key.origin === "file" && <Text size="sm" c="dimmed">It stands in the configuration file: change it there.</Text>}
          </Stack>
        </Card>
        <Stack>
          <Card title="Limits"><TermsText terms={key.terms} /></Card>
          {may("money.read") && <Balance account={`key:${key.id}`} org={key.org} />}
        </Stack>
      </SimpleGrid>
    </>
  );
}
