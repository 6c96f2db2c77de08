// What is served, and by what: models, replicas by phase, their load.
import { Group, SimpleGrid, Stack, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { api, got, type Schemas } from "../api/client";
import { count, duration } from "../format";
import { Action } from "../parts/action";
import { Status } from "../parts/badges";
import { To } from "../parts/link";
import { Listing } from "../parts/listing";
import { Card, Empty, Failed, Heading } from "../parts/states";
import { useSession } from "../session";

type Replica = Schemas["ShownReplica"];

export default function Fleet() {
  const { may } = useSession();
  return (
    <>
      <Heading title="Models & fleet" about="Refreshed every five seconds." />
      <Stack>
        <Models />
        <Card title="Replicas">
          <Listing<Replica>
            label="Replicas"
            query={["replicas"]}
            everyMs={5_000}
            ask={(cursor) => got(api.GET("/admin/v1/replicas", { params: { query: { cursor, limit: 50 } } }))}
            id={(row) => row.id}
            empty={<Empty title="No replica">Add one in the configuration file under <span className="code">[[models.replicas]]</span>, then read the file again in <To to="/settings">settings</To>.</Empty>}
            columns={[
              { name: "Replica", cell: (row) => <span className="code">{row.id}</span> },
              { name: "Model", cell: (row) => <To to="/requests" search={{ model: row.model }}>{row.model}</To> },
              { name: "Phase", cell: (row) => <><Status status={row.phase} />{row.reason && <Text size="xs" c="dimmed">{row.reason}</Text>}</> },
              { name: "For", cell: (row) => duration(row.in_phase_s), numeric: true, extra: true },
              { name: "Address", cell: (row) => <span className="code">{row.url}</span>, extra: true },
              { name: "Do", cell: (row) => (may("fleet.write") ? <Steer replica={row} /> : "—") },
            ]}
          />
        </Card>
      </Stack>
    </>
  );
}

function Steer({ replica }: { replica: Replica }) {
  const params = { path: { replica_id: replica.id } };
  if (replica.phase === "ready") {
    return (
      <Action
        size="compact-xs" label="Drain" danger confirm="Drain" title={`Drain ${replica.id}`}
        act={() => got(api.POST("/admin/v1/replicas/{replica_id}/drain", { params: { path: params.path } }))}
      >
        <Text size="sm">New requests go to other replicas of {replica.model}; what runs on <span className="code">{replica.id}</span> finishes. If it is the last one, {replica.model} is not served until you resume it.</Text>
      </Action>
    );
  }
  if (replica.phase !== "draining") return <>—</>;
  return (
    <Action
      size="compact-xs" variant="default" label="Resume" confirm="Resume" title={`Resume ${replica.id}`}
      act={() => got(api.POST("/admin/v1/replicas/{replica_id}/resume", { params: { path: params.path } }))}
    >
      <Text size="sm">It gets requests again.</Text>
    </Action>
  );
}

function Models() {
  const { data, error, refetch } = useQuery({
    queryKey: ["models"],
    refetchInterval: 5_000,
    queryFn: async () => {
      const [models, live] = await Promise.all([
        got(api.GET("/admin/v1/models", { params: { query: { limit: 200 } } })),
        got(api.GET("/admin/v1/live")),
      ]);
      return { models: models.data, loads: new Map(live.models.map((one) => [one.model, one])) };
    },
  });
  if (error && !data) return <Failed error={error} again={() => void refetch()} />;
  return (
    <SimpleGrid cols={{ base: 1, sm: 2, lg: 3 }}>
      {data?.models.map((model) => {
        const load = data.loads.get(model.name);
        return (
          <Card key={model.name} title={<span style={{ overflowWrap: "anywhere" }}>{model.name}</span>} side={<Text size="xs" c="dimmed">{model.kind} · {model.engine}</Text>}>
            <Stack gap={6}>
              <Group gap={6}>{Object.entries(model.replicas).map(([phase, number]) => <Status key={phase} status={phase} times={number} />)}</Group>
              <Text size="sm">{load?.running ?? 0} running, {load?.queued ?? 0} waiting</Text>
              <Text size="xs" c="dimmed">
                Upstream <span className="code">{model.upstream_model}</span>
                {model.context_tokens ? ` · ${count(model.context_tokens)} tokens of context` : ""} · price <span className="code">{model.price_version}</span>
              </Text>
            </Stack>
          </Card>
        );
      })}
    </SimpleGrid>
  );
}
