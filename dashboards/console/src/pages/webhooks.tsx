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

type Endpoint = Schemas["Endpoint"];

export default function Webhooks() {
  const { session } = useSession();
  const [chosen, setChosen] = useState<Endpoint | null>(null);
  return (
    <>
      <Heading title="Webhooks" about="Signed messages to your own systems when a budget or credit runs out.">
        <Action
          label="New webhook" title="New webhook" confirm="Make it"
          act={(given) => got(api.POST("/admin/v1/webhooks", { body: { org: String(given.get("org") ?? "").trim() || session.org, url: String(given.get("url")).trim() } }))}
          shows={(made: Schemas["MadeWebhook"]) => <Secret name="The secret that signs its messages" text={made.secret} />}
        >
          {session.org === "*" && <TextInput name="org" label="Organisation" required data-autofocus />}
          <TextInput name="url" label="Address" type="url" placeholder="https://" required />
        </Action>
      </Heading>
      <Stack>
        <Card>
          <Listing<Endpoint>
            label="Webhooks"
            query={["webhooks"]}
            ask={(cursor) => got(api.GET("/admin/v1/webhooks", { params: { query: { cursor, limit: 25 } } }))}
            id={(row) => row.id}
            empty={<Empty title="No webhook">Make one with an address that takes POST requests; its secret is shown once.</Empty>}
            columns={[
              { name: "Address", cell: (row) => <button type="button" className="link" style={{ background: "none", border: 0, padding: 0, cursor: "pointer", font: "inherit", textAlign: "left" }} onClick={() => setChosen(row)}>{row.url}</button> },
              { name: "Organisation", cell: (row) => row.org, extra: true },
              { name: "Made", cell: (row) => moment(row.created_s), extra: true },
              { name: "Do", cell: (row) => <Steer endpoint={row} /> },
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
      <Action size="compact-xs" variant="default" label="Ping" title={`Ping ${endpoint.url}`} confirm="Send" act={() => got(api.POST("/admin/v1/webhooks/{webhook_id}/ping", { params }))}>
        <Text size="sm">Sends a signed message that says nothing. Open the webhook to see what came of it.</Text>
      </Action>
      <Action size="compact-xs" danger label="Remove" title="Remove the webhook" confirm="Remove" act={() => got(api.DELETE("/admin/v1/webhooks/{webhook_id}", { params }))}>
        <Text size="sm"><span className="code">{endpoint.url}</span> is told nothing any more, its secret is worthless, and messages that wait for it are dropped.</Text>
      </Action>
    </Group>
  );
}

function Deliveries({ endpoint }: { endpoint: Endpoint }) {
  return (
    <Card title={<>Messages to {endpoint.url}</>}>
      <Listing<Schemas["Delivery"]>
        label="Messages"
        query={["deliveries", endpoint.id]}
        everyMs={5_000}
        ask={(cursor) => got(api.GET("/admin/v1/webhooks/{webhook_id}/deliveries", { params: { path: { webhook_id: endpoint.id }, query: { cursor, limit: 25 } } }))}
        id={(row) => row.id}
        empty={<Empty title="No message yet">Ping it to send one.</Empty>}
        columns={[
          { name: "When", cell: (row) => moment(row.created_s) },
          { name: "What", cell: (row) => row.event },
          { name: "State", cell: (row) => <Status status={row.state} /> },
          { name: "Attempts", cell: (row) => row.attempts, numeric: true },
          { name: "Last answer", cell: (row) => row.last_status ?? (row.last_error || "—"), extra: true },
        ]}
      />
    </Card>
  );
}
