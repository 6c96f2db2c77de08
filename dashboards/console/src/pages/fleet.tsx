// What is served, and by what: models, replicas by phase, their load and start, what can be done with them.
import { Button, Code, Group, Modal, NumberInput, SimpleGrid, Stack, Table, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, got, type Schemas } from "../api/client";
import { bytes, count, duration, NONE } from "../format";
import { Action } from "../parts/action";
import { Status } from "../parts/badges";
import { To } from "../parts/link";
import { Listing } from "../parts/listing";
import { Card, Empty, Failed, Heading, Loading } from "../parts/states";
import { useSession } from "../session";
import { words } from "../words";

const t = words.fleet;

type Replica = Schemas["ShownReplica"];
type Model = Schemas["ShownModel"];

export default function Fleet() {
  const { may } = useSession();
  const models = useModels();
  const heading = <Heading title={t.modelsFleet} about={t.refreshedEveryFiveSeconds} />;
  if (models.error && !models.data) return <>{heading}<Failed error={models.error} again={() => void models.refetch()} /></>;
  if (!models.data) return <>{heading}<Loading /></>;
  return (
    <>
      {heading}
      <Stack>
        <Models known={models.data} />
        <Plan />
        <Card title={t.replicas}>
          <Listing<Replica>
            label={t.replicas}
            query={["replicas"]}
            everyMs={5_000}
            ask={(cursor) => got(api.GET("/admin/v1/replicas", { params: { query: { cursor, limit: 50 } } }))}
            id={(row) => row.id}
            empty={<Empty title={t.noReplica}>{t.addOneInTheSettings()}</Empty>}
            columns={[
              { name: t.replica, cell: (row) => <span className="code">{row.id}</span> },
              { name: t.model, cell: (row) => <><To to="/requests" search={{ model: row.model }}>{row.model}</To>{row.version && <Text size="xs" c="dimmed">{row.version}</Text>}</>, extra: true },
              { name: t.phase, cell: (row) => <><Status status={row.phase} />{row.spot && <Text size="xs" c="dimmed">{t.spot}</Text>}{row.reason && <Text size="xs" c="dimmed">{row.reason}</Text>}</> },
              { name: t.running, cell: (row) => <To to="/requests" search={{ seen: "served", model: row.model, replica: row.id }}>{count(row.running)}</To>, numeric: true, extra: true },
              { name: t.forWord, cell: (row) => duration(row.in_phase_s), numeric: true, extra: true },
              { name: t.do, cell: (row) => <Group gap={6}>{may("fleet.write") && <Steer replica={row} />}<Inside replica={row} /></Group> },
            ]}
          />
        </Card>
      </Stack>
    </>
  );
}

type Verb = "drain" | "resume" | "sleep" | "wake";
const VERBS: Record<Verb, { label: string; danger?: boolean; from: string[]; says: (replica: Replica) => string }> = {
  drain: { label: t.drain, danger: true, from: ["ready"], says: (one) => t.newRequestsGoToOther(one.model, count(one.running), one.id, one.model) },
  resume: { label: t.resume, from: ["draining"], says: (one) => t.getsRequestsAgain(one.id) },
  sleep: { label: t.sleep, danger: true, from: ["ready"], says: (one) => t.finishesWhatItRunsThen(one.id, one.model) },
  wake: { label: t.wake, from: ["sleeping", "stopped"], says: (one) => t.loadsAgainAndServes(one.id) },
};

function Steer({ replica }: { replica: Replica }) {
  const params = { path: { replica_id: replica.id } };
  const doing: Record<Verb, () => Promise<unknown>> = {
    drain: () => got(api.POST("/admin/v1/replicas/{replica_id}/drain", { params })),
    resume: () => got(api.POST("/admin/v1/replicas/{replica_id}/resume", { params })),
    sleep: () => got(api.POST("/admin/v1/replicas/{replica_id}/sleep", { params })),
    wake: () => got(api.POST("/admin/v1/replicas/{replica_id}/wake", { params })),
  };
  return (
    <>
      {(Object.keys(VERBS) as Verb[]).filter((verb) => VERBS[verb].from.includes(replica.phase)).map((verb) => {
        const { label, danger, says } = VERBS[verb];
        return (
          <Action key={verb} size="compact-xs" label={label} danger={danger} variant={danger ? undefined : "default"} confirm={label} title={`${label} ${replica.id}`} act={doing[verb]}>
            <Text size="sm">{says(replica)}</Text>
          </Action>
        );
      })}
      {replica.phase === "ready" && (
        <Action
          size="compact-xs" danger label={t.reclaim} confirm={t.reclaim} title={t.reclaim2(replica.id)}
          act={(given) => got(api.POST("/admin/v1/replicas/{replica_id}/reclaim", { params, body: { notice_s: Number(given.get("notice_s")) } }))}
        >
          <Text size="sm">{t.asIfItsMachineWere(replica.id, count(replica.running))}</Text>
          <NumberInput name="notice_s" label={t.noticeSeconds} min={0} max={3600} defaultValue={30} required hideControls />
        </Action>
      )}
    </>
  );
}

/** How its last start went, and what its engine said last. */
function Inside({ replica }: { replica: Replica }) {
  const [open, setOpen] = useState(false);
  const start = replica.start ?? [];
  const log = replica.log ?? [];
  const whole_s = start.reduce((sum, one) => sum + one.seconds, 0);
  return (
    <>
      <Button size="compact-xs" variant="default" onClick={() => setOpen(true)}>{t.details}</Button>
      <Modal opened={open} onClose={() => setOpen(false)} title={replica.id} closeButtonProps={{ "aria-label": t.close }}>
        <Stack gap="sm">
          <Text size="sm">{t.forWord2(replica.model, <Status status={replica.phase} />, duration(replica.in_phase_s))}</Text>
          <Text size="sm" className="code">{replica.url}</Text>
          <Text fw={600} size="sm">{t.lastStart(start.length > 0 && `: ${duration(whole_s)}`)}</Text>
          {start.length === 0 ? <Text size="sm" c="dimmed">{t.itRunsElsewhereOrWas}</Text> : start.map((one) => (
            <div key={one.step}>
              <Group justify="space-between"><Text size="sm">{one.step}</Text><Text size="sm" className="num">{duration(one.seconds)}</Text></Group>
              <div className="bar" aria-hidden><div style={{ width: `${whole_s ? (100 * one.seconds) / whole_s : 0}%` }} /></div>
            </div>
          ))}
          <Text fw={600} size="sm">{t.lastLinesOfItsLog}</Text>
          {log.length === 0 ? <Text size="sm" c="dimmed">{t.noneHereItRunsElsewhere}</Text> : <pre className="log" tabIndex={0}>{log.join("\n")}</pre>}
        </Stack>
      </Modal>
    </>
  );
}

function useModels() {
  return useQuery({
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
}

function Models({ known }: { known: NonNullable<ReturnType<typeof useModels>["data"]> }) {
  const { may } = useSession();
  if (known.models.length === 0) return <Card><Empty title={t.noModel}>{t.addAModelsTableIn()}</Empty></Card>;
  return (
    <SimpleGrid cols={{ base: 1, sm: 2, lg: 3 }}>
      {known.models.map((model) => {
        const load = known.loads.get(model.name);
        return (
          <Card key={model.name} title={<span style={{ overflowWrap: "anywhere" }}>{model.name}</span>} side={<Text size="xs" c="dimmed">{model.kind} · {model.engine}</Text>}>
            <Stack gap={6}>
              <Group gap={6}>{Object.entries(model.replicas).map(([phase, number]) => <Status key={phase} status={phase} times={number} />)}</Group>
              <Text size="sm">{t.runningWaiting(<To to="/requests" search={{ seen: "served", model: model.name }}>{t.running2(load?.running ?? 0)}</To>, <To to="/requests" search={{ seen: "waited", model: model.name }}>{t.waiting(load?.queued ?? 0)}</To>, <To to="/requests" search={{ model: model.name }}>{t.itsRequests}</To>)}</Text>
              <Text size="xs" c="dimmed">{t.upstreamPrice(model.upstream_model, model.context_tokens ? t.tokensOfContext(count(model.context_tokens)) : "", model.price_version)}</Text>
              {model.scaling && <Scaling model={model} scaling={model.scaling as unknown as ScalingNow} steer={may("fleet.write")} />}
            </Stack>
          </Card>
        );
      })}
    </SimpleGrid>
  );
}

interface ScalingNow { desired: number; standby: number; min: number; max: number; pinned: number | null; reason: string }

function Scaling({ model, scaling, steer }: { model: Model; scaling: ScalingNow; steer: boolean }) {
  const set = (replicas: number | null) =>
    got(api.POST("/admin/v1/models/{model_name}/scale", { params: { path: { model_name: model.name } }, body: { replicas } }));
  const fixed = scaling.min === scaling.max && scaling.desired === scaling.min;
  const why = scaling.pinned !== null ? t.setByHand : fixed ? t.always : t.whyWanted[scaling.reason] ?? scaling.reason;
  return (
    <>
      <Text size="xs" c="dimmed">{t.wantedFor(t.replicasWanted(scaling.desired), scaling.standby > 0 && t.onStandby(scaling.standby), why, !fixed && t.itMayRun(scaling.min, scaling.max))}</Text>
      {steer && (
        <Group gap={6}>
          <Action size="compact-xs" variant="default" label={t.scale} title={t.scale2(model.name)} confirm={t.setIt} act={(given) => set(Number(given.get("replicas")))}>
            <NumberInput name="replicas" label={t.replicas} min={0} max={1000} allowDecimal={false} defaultValue={scaling.desired} required hideControls data-autofocus />
            <Text size="sm">{t.holdsUntilItIsGiven(model.name)}</Text>
          </Action>
          {scaling.pinned !== null && (
            <Action size="compact-xs" variant="default" label={t.giveBack} title={t.giveBack2(model.name)} confirm={t.giveItBack} act={() => set(null)}>
              <Text size="sm">{t.theAutoscalerChoosesAgain(scaling.min, scaling.max)}</Text>
            </Action>
          )}
        </Group>
      )}
    </>
  );
}

/** Whether each model fits on this machine; looked for when asked, as it reads the weights' shapes. */
function Plan() {
  const { data, error, isFetching, refetch } = useQuery({ queryKey: ["plan"], enabled: false, queryFn: () => got(api.GET("/admin/v1/plan")) });
  const size = (value: number | null | undefined) => (value == null ? NONE : bytes(value));
  return (
    <Card title={t.plan} side={<Button size="xs" variant="default" loading={isFetching} onClick={() => void refetch()}>{t.planOnThisMachine}</Button>}>
      {error && <Failed error={error} />}
      {!data ? <Text size="sm" c="dimmed">{t.doesEachModelFitHere}</Text> : (
        <Table.ScrollContainer minWidth={0} scrollAreaProps={{ viewportProps: { tabIndex: 0, role: "region", "aria-label": t.plan } }}>
          <Table aria-label={t.plan}>
            <Table.Thead><Table.Tr><Table.Th>{t.model}</Table.Th><Table.Th>{t.fits}</Table.Th><Table.Th className="num">{t.weights}</Table.Th><Table.Th className="num">{t.kvCache}</Table.Th><Table.Th>{t.atOnce}</Table.Th></Table.Tr></Table.Thead>
            <Table.Tbody>
              {data.data.map((one) => (
                <Table.Tr key={one.model}>
                  <Table.Th scope="row" fw={400}>{one.model}{(one.command?.length ?? 0) > 0 && <details><summary>{t.command}</summary><Code block style={{ whiteSpace: "pre-wrap" }} tabIndex={0}>{one.command?.join(" ")}</Code></details>}</Table.Th>
                  <Table.Td>{one.attached?.length ? t.runsElsewhere : one.fits ? t.yes : t.no}{[...(one.problems ?? []), ...(one.notes ?? [])].map((text) => <Text size="xs" c="dimmed" key={text}>{text}</Text>)}</Table.Td>
                  <Table.Td className="num">{size(one.weight_bytes)}</Table.Td>
                  <Table.Td className="num">{size(one.kv_bytes)}</Table.Td>
                  <Table.Td>{Object.entries(one.sequences ?? {}).map(([length, number]) => `${count(number)} of ${count(Number(length))} tokens`).join(", ") || "—"}</Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
    </Card>
  );
}
