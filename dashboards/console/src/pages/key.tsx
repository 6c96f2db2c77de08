// One key: limits, rotation, its end.
import { NumberInput, SimpleGrid, Stack, Text, TextInput } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useParams } from "@tanstack/react-router";
import { api, got, gotVersioned, type Schemas } from "../api/client";
import { moment } from "../format";
import { Action, Version, versionOf } from "../parts/action";
import { Balance } from "../parts/balance";
import { Status } from "../parts/badges";
import { Shown, stateOf } from "../parts/keys";
import { To } from "../parts/link";
import { Card, Failed, Heading, isMissing, Loading, Missing } from "../parts/states";
import { TermsFields, termsOf, TermsText } from "../parts/terms";
import { useSession } from "../session";
import { words } from "../words";

const t = words.key;

export default function KeyPage() {
  const { id } = useParams({ strict: false }) as { id: string };
  const { may } = useSession();
  const path = { key_id: id };
  const { data, error, isPending, refetch } = useQuery({
    queryKey: ["keys", "one", id],
    queryFn: () => gotVersioned(api.GET("/admin/v1/keys/{key_id}", { params: { path } })),
  });
  if (isPending) return <Loading />;
  if (isMissing(error)) return <Missing what="key" id={id}><To to="/keys">{t.allKeys}</To></Missing>;
  if (error) return <Failed error={error} again={() => void refetch()} />;
  const { value: key, etag } = data;
  const whose = `${key.org} / ${key.project}`;
  const alive = key.revoked_s === null;
  return (
    <>
      <Heading title={key.name} about={t.keyOfAllKeys(whose, <To to="/requests" search={{ key_id: id }}>{t.itsRequests}</To>)}>
        {may("tenants.write") && alive && (
          <>
            {key.origin !== "file" && (
              <>
                <Action
                  label={t.change} variant="default" title={t.change2(key.name)} confirm={t.save}
                  act={(given) => got(api.PATCH("/admin/v1/keys/{key_id}", {
                    params: { path, header: versionOf(given) },
                    body: { name: String(given.get("name")).trim(), terms: termsOf(given) },
                  }))}
                >
                  <TextInput name="name" label={t.name} defaultValue={key.name} required maxLength={200} data-autofocus />
                  <Version of={etag} />
                  <TermsFields terms={key.terms} />
                </Action>
                <Action
                  label={t.rotate} variant="default" title={t.rotate2(key.name)} confirm={t.giveItANewText}
                  act={(given) => got(api.POST("/admin/v1/keys/{key_id}/rotate", { params: { path }, body: { overlap_s: Number(given.get("overlap_h")) * 3600 } }))}
                  shows={(made: Schemas["MadeKey"]) => <Shown made={made} />}
                >
                  <Text size="sm">{t.theKeyGetsANew}</Text>
                  <NumberInput name="overlap_h" label={t.theOldTextCountsOn} min={0} max={2160} defaultValue={24} required hideControls data-autofocus />
                </Action>
              </>
            )}
            <Action
              label={t.revoke} danger title={t.revoke2(key.name)} confirm={t.revokeForGood}
              act={() => got(api.POST("/admin/v1/keys/{key_id}/revoke", { params: { path } }))}
            >
              <Text size="sm">{t.everyClientThatUsesThe(key.name, whose)}</Text>
            </Action>
          </>
        )}
      </Heading>
      <SimpleGrid cols={{ base: 1, sm: 2 }}>
        <Card title={t.theKey}>
          <Stack gap={6}>
            <div><Status status={stateOf(key)} /></div>
            <Text size="sm">{t.beginsWith(key.prefix || t.fromTheConfigurationFile)}</Text>
            <Text size="sm">{t.made(moment(key.created_s), key.expires_s !== null && t.ends(moment(key.expires_s)), key.revoked_s !== null && t.revoked(moment(key.revoked_s)))}</Text>
            {key.previous_until_s !== null && key.previous_until_s * 1000 > Date.now() && <Text size="sm">{t.theTextBeforeCountsUntil(moment(key.previous_until_s))}</Text>}
            <Text size="sm">{t.may(key.scopes.join(", "))}</Text>
            {key.origin === "file" && <Text size="sm" c="dimmed">{t.itStandsInTheConfiguration}</Text>}
          </Stack>
        </Card>
        <Stack>
          <Card title={t.limits}><TermsText terms={key.terms} /></Card>
          {may("money.read") && <Balance account={`key:${key.id}`} org={key.org} />}
        </Stack>
      </SimpleGrid>
    </>
  );
}
