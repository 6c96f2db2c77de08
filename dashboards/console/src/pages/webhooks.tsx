// Addresses that are told of budgets, signed; and what came of each message.
import { Group, Stack, Text, TextInput } from "@mantine/core";
import { useState } from "react";
import { api, got, type Schemas } from "../api/client";
import { moment } from "../format";
import { Action, Secret } from "../parts/action";
import { Status } from "../parts/badges";
import { Listing } from "../parts/listing";
import { Card, Empty, Heading } from "../parts/states";
import { useSession } from "../session";
import { words } from "../words";

const t = words.webhooks;

type Endpoint = Schemas["Endpoint"];

export default function Webhooks() {
  const { session } = useSession();
  const [chosen, setChosen] = useState<Endpoint | null>(null);
  return (
    <>
      <Heading title={t.webhooks} about={t.signedMessagesToYourOwn}>
        <Action
          label={t.newWebhook} title={t.newWebhook} confirm={t.makeIt}
          act={(given) => got(api.POST("/admin/v1/webhooks", { body: { org: String(given.get("org") ?? "").trim() || session.org, url: String(given.get("url")).trim() } }))}
          shows={(made: Schemas["MadeWebhook"]) => <Secret name={t.theSecretThatSigns} text={made.secret} />}
        >
          {session.org === "*" && <TextInput name="org" label={t.organisation} required data-autofocus />}
          <TextInput name="url" label={t.address} type="url" placeholder={t.https} required />
        </Action>
      </Heading>
      <Stack>
        <Card>
          <Listing<Endpoint>
            label={t.webhooks}
            query={["webhooks"]}
            ask={(cursor) => got(api.GET("/admin/v1/webhooks", { params: { query: { cursor, limit: 25 } } }))}
            id={(row) => row.id}
            empty={<Empty title={t.noWebhook}>{t.makeOneWithAnAddress}</Empty>}
            columns={[
              { name: t.address, cell: (row) => <button type="button" className="link" style={{ background: "none", border: 0, padding: 0, cursor: "pointer", font: "inherit", textAlign: "left" }} onClick={() => setChosen(row)}>{row.url}</button> },
              { name: t.organisation, cell: (row) => row.org, extra: true },
              { name: t.made, cell: (row) => moment(row.created_s), extra: true, line: true },
              { name: t.do, cell: (row) => <Steer endpoint={row} /> },
            ]}
          />
        </Card>
        {chosen && <Deliveries endpoint={chosen} />}
      </Stack>
    </>
  );
}

function Steer({ endpoint }: { endpoint: Endpoint }) {
  const params = { path: { webhook_id: endpoint.id } };
  return (
    <Group gap={6}>
      <Action size="compact-xs" variant="default" label={t.ping} title={t.ping2(endpoint.url)} confirm={t.send} act={() => got(api.POST("/admin/v1/webhooks/{webhook_id}/ping", { params }))}>
        <Text size="sm">{t.sendsASignedMessageThat}</Text>
      </Action>
      <Action size="compact-xs" danger label={t.remove} title={t.removeTheWebhook} confirm={t.remove} act={() => got(api.DELETE("/admin/v1/webhooks/{webhook_id}", { params }))}>
        <Text size="sm">{t.isToldNothingAnyMore(endpoint.url)}</Text>
      </Action>
    </Group>
  );
}

function Deliveries({ endpoint }: { endpoint: Endpoint }) {
  return (
    <Card title={t.messagesTo(endpoint.url)}>
      <Listing<Schemas["Delivery"]>
        label={t.messages}
        query={["deliveries", endpoint.id]}
        everyMs={5_000}
        ask={(cursor) => got(api.GET("/admin/v1/webhooks/{webhook_id}/deliveries", { params: { path: { webhook_id: endpoint.id }, query: { cursor, limit: 25 } } }))}
        id={(row) => row.id}
        empty={<Empty title={t.noMessageYet}>{t.pingItToSendOne}</Empty>}
        columns={[
          { name: t.when, cell: (row) => moment(row.created_s), line: true },
          { name: t.what, cell: (row) => row.event },
          { name: t.state, cell: (row) => <Status status={row.state} /> },
          { name: t.attempts, cell: (row) => row.attempts, numeric: true },
          { name: t.lastAnswer, cell: (row) => row.last_status ?? (row.last_error || "—"), extra: true },
        ]}
      />
    </Card>
  );
}
