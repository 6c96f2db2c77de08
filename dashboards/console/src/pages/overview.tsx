// What happens now: traffic, errors, latency, spending, savings, the fleet, alerts.
import { Anchor, Button, Code, Group, SegmentedControl, SimpleGrid, Stack, Text } from "@mantine/core";
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { type ReactNode, useRef } from "react";
import { api, got, type Schemas } from "../api/client";
import { between, brief, type Bucket, clock, count, duration, moment, NONE, percent, quantile, together, usd, usdBrief } from "../format";
import { Chart } from "../parts/chart";
import { text, useFilters } from "../parts/filters";
import { To } from "../parts/link";
import { Card, Empty, Failed, Heading } from "../parts/states";
import { useSession } from "../session";
import { words } from "../words";

const t = words.overview;

type Activity = Schemas["Activity"];
// Steps of whole minutes: those are kept added up.
const SPANS: Record<string, { label: string; span_s: number; step_s: number }> = {
  "15m": { label: t.spans["15m"], span_s: 900, step_s: 60 },
  "1h": { label: t.spans["1h"], span_s: 3600, step_s: 60 },
  "6h": { label: t.spans["6h"], span_s: 21600, step_s: 360 },
  "24h": { label: t.spans["24h"], span_s: 86400, step_s: 1440 },
};
const LIVE_MS = 5_000;
const FAILED = ["error", "interrupted"]; // through us
const REFUSED = "refused"; // through the client itself
const ANSWERED = "ok,stopped,cancelled";
const CACHED = "hit-exact,hit-semantic,joined";
// The service levels of dashboards/prometheus/rules.yml: so many do not fail through us, so many streams begin within a second.
const AVAILABLE = 0.999;
const PROMPT = 0.95;
const PROMPT_S = 1;

export default function Overview() {
  const [filters, set] = useFilters();
  const { may } = useSession();
  const name = text(filters.span) ?? "1h";
  const span = SPANS[name] ?? SPANS["1h"]!;
  const activity = useQuery({
    queryKey: ["activity", name],
    placeholderData: keepPreviousData,
    refetchInterval: LIVE_MS,
    queryFn: async () => {
      const to_s = Math.floor(Date.now() / 1000 / span.step_s + 1) * span.step_s;
      const query = { from_s: to_s - span.span_s, to_s, step_s: span.step_s };
      const page = await got(api.GET("/admin/v1/activity", { params: { query } }));
      return { ...query, rows: page.data };
    },
  });
  const live = useLive(may("fleet.read"));
  const alerts = useAlerts(may("money.read"));
  const known = activity.data;
  const below = [activity, live, alerts].every((one) => !one.isLoading); // what stands there does not jump then
  return (
    <>
      <Heading title={t.overview} about={<span style={{ visibility: known ? undefined : "hidden" }}>{t.updated(moment(Date.now() / 1000))}</span>}>
        <SegmentedControl
          aria-label={t.spanOfTime}
          size="xs"
          value={name}
          onChange={(value) => set({ span: value })}
          data={Object.entries(SPANS).map(([value, { label }]) => ({ value, label }))}
        />
      </Heading>
      {activity.error && !known && <Failed error={activity.error} again={() => void activity.refetch()} />}
      <Stack>
        <Figures rows={known?.rows} from_s={known?.from_s} span_s={span.span_s} />
        {known && known.rows.length === 0 ? <FirstSteps /> : <Charts known={known} />}
        {below && (
          <SimpleGrid cols={{ base: 1, lg: 2 }}>
            {may("fleet.read") && <Now known={live} span_s={span.span_s} />}
            <Stack>
              <Levels rows={known?.rows} known={live} from_s={known?.from_s} />
              {may("money.read") && <Alerts known={alerts} />}
            </Stack>
          </SimpleGrid>
        )}
      </Stack>
    </>
  );
}

function Figures({ rows, from_s, span_s }: { rows: readonly Activity[] | undefined; from_s: number | undefined; span_s: number }) {
  const sum = (of: (row: Activity) => number) => (rows ?? []).reduce((total, row) => total + of(row), 0);
  const requests = sum((row) => row.requests);
  const failed = sum((row) => (FAILED.includes(row.status) ? row.requests : 0));
  const refused = sum((row) => (row.status === REFUSED ? row.requests : 0));
  const hits = sum((row) => (row.source === "upstream" ? 0 : row.requests));
  const spent = sum((row) => row.amount_nanousd);
  const saved = sum((row) => row.baseline_nanousd) - spent;
  const from = begun(from_s);
  const figures = [
    { name: t.requests, value: rows && brief(requests), more: t.perSecond((requests / span_s).toFixed(2)), search: { from } },
    { name: t.failed, value: rows && percent(failed, requests), more: t.requests2(count(failed)), search: { from, status: FAILED.join(",") } },
    { name: t.refused, value: rows && percent(refused, requests), more: t.requests2(count(refused)), search: { from, status: REFUSED } },
    { name: t.billed, value: rows && usd(spent), more: t.tokens(brief(sum((row) => row.tokens))), search: { from } },
    { name: t.saved, value: rows && usd(saved), more: spent + saved === 0 ? t.noneYet : t.ofTheDearestWay(percent(saved, spent + saved)), search: { from } },
    { name: t.fromTheCache, value: rows && percent(hits, requests), more: t.requests3(count(hits)), search: { from, source: CACHED } },
  ];
  return (
    <SimpleGrid cols={{ base: 2, sm: 3, xl: 6 }} spacing="sm" aria-busy={!rows}>
      {figures.map((one) => (
        <div className="card tile" key={one.name}>
          <Text size="sm" c="dimmed">{one.name}</Text>
          <div className="figure">{one.value ?? "…"}</div>
          <Anchor component={Link} to="/requests" search={one.search as never} size="xs">{rows ? one.more : "…"}</Anchor>
        </div>
      ))}
    </SimpleGrid>
  );
}

/** The first second of a span, as an address holds it. */
function begun(from_s: number | undefined): string | undefined {
  return from_s === undefined ? undefined : String(Math.floor(from_s));
}

function Charts({ known }: { known: { from_s: number; to_s: number; step_s: number; rows: readonly Activity[] } | undefined }) {
  const steps: number[] = [];
  if (known) for (let at = known.from_s; at < known.to_s - known.step_s; at += known.step_s) steps.push(at); // the last is not over
  const rows = known?.rows ?? [];
  const at = (step: number, fits: (row: Activity) => boolean, of: (row: Activity) => number) =>
    rows.filter((row) => row.ts === step && fits(row)).reduce((sum, row) => sum + of(row), 0);
  const one = (row: Activity) => row.requests;
  const answered = (row: Activity) => !FAILED.includes(row.status) && row.status !== REFUSED;
  const traffic = steps.map((step) => ({
    at: clock(step),
    upstream: at(step, (row) => answered(row) && row.source === "upstream", one),
    cached: at(step, (row) => answered(row) && row.source !== "upstream", one),
    refused: at(step, (row) => row.status === REFUSED, one),
    failed: at(step, (row) => FAILED.includes(row.status), one),
  }));
  const money = steps.map((step) => {
    const billed = at(step, () => true, (row) => row.amount_nanousd);
    return { at: clock(step), billed, saved: Math.max(0, at(step, () => true, (row) => row.baseline_nanousd) - billed) };
  });
  const leads = (row: number) => ({ from: String(steps[row]), to: String((steps[row] ?? 0) + (known?.step_s ?? 0)) });
  return (
    <SimpleGrid cols={{ base: 1, lg: 2 }}>
      <Card title={t.requests}>
        <Chart
          about={t.requestsOverTimeAltogether(count(rows.reduce((sum, row) => sum + row.requests, 0)))}
          of={t.time}
          leads={leads}
          kind="area"
          rows={known && traffic}
          format={count}
          series={[
            { name: "upstream", label: t.model, color: "gear.5", search: { status: ANSWERED, source: "upstream" } },
            { name: "cached", label: t.cache, color: "indigo.4", search: { status: ANSWERED, source: CACHED } },
            { name: "refused", label: t.refused, color: "yellow.5", search: { status: REFUSED } },
            { name: "failed", label: t.failed, color: "red.6", search: { status: FAILED.join(",") } },
          ]}
        />
      </Card>
      <Card title={t.moneyUsd}>
        <Chart
          about={t.billedAndSavedOverTime}
          of={t.time}
          leads={leads}
          kind="area"
          rows={known && money}
          format={usd}
          axis={usdBrief}
          series={[{ name: "billed", label: t.billed, color: "gear.5" }, { name: "saved", label: t.saved, color: "yellow.5" }]}
        />
      </Card>
    </SimpleGrid>
  );
}

/** Loads and health every five seconds; `since` gives what a histogram saw after the page's first look. */
function useLive(enabled: boolean) {
  const before = useRef<{ at_s: number; loads: Map<string, Schemas["Load"]> } | null>(null);
  const asked = useQuery({
    queryKey: ["live", "since"],
    refetchInterval: LIVE_MS,
    enabled,
    queryFn: async () => {
      const live = await got(api.GET("/admin/v1/live"));
      const first = before.current;
      before.current ??= { at_s: live.now_s, loads: new Map(live.models.map((one) => [one.model, one])) };
      return { live, first };
    },
  });
  const since = (one: Schemas["Load"], of: "duration" | "first_byte"): Bucket[] =>
    between(asked.data?.first?.loads.get(one.model)?.[of], one[of]);
  return { ...asked, since, from: asked.data?.first ? String(Math.floor(asked.data.first.at_s)) : undefined };
}

type LiveKnown = ReturnType<typeof useLive>;

/** What is promised, and what was kept of it. */
function Levels({ rows = [], known, from_s }: { rows: readonly Activity[] | undefined; known: LiveKnown; from_s: number | undefined }) {
  const { may } = useSession();
  const { data, since } = known;
  const requests = rows.reduce((sum, row) => sum + row.requests, 0);
  const failed = rows.reduce((sum, row) => sum + (FAILED.includes(row.status) ? row.requests : 0), 0);
  const waits = together((data?.live.models ?? []).map((one) => since(one, "first_byte")));
  const whole = waits.at(-1)?.count ?? 0;
  const prompt = waits.find((one) => one.le === PROMPT_S)?.count ?? 0;
  const search = { from: begun(from_s), status: FAILED.join(",") };
  return (
    <Card title={t.serviceLevels}>
      <Stack gap="xs">
        <Level name={t.available(percent(AVAILABLE, 1))} part={requests - failed} whole={requests} aim={AVAILABLE}>
          <To to="/requests" search={search}>{requests === 0 ? t.noneInSpan : t.budgetUsed(count(failed), count(Math.floor(requests * (1 - AVAILABLE))))}</To>
        </Level>
        {may("fleet.read") && <Level name={t.prompt(duration(PROMPT_S), percent(PROMPT, 1))} part={prompt} whole={whole} aim={PROMPT}>{whole === 0 ? t.noneWaited : <To to="/requests" search={{ from: known.from }}>{t.promptOf(count(prompt), count(whole))}</To>}</Level>}
        <Text size="xs" c="dimmed">{t.levelsAbout}</Text>
      </Stack>
    </Card>
  );
}

function Level({ name, part, whole, aim, children }: { name: string; part: number; whole: number; aim: number; children: ReactNode }) {
  const kept = whole === 0 || part >= aim * whole;
  return (
    <Group justify="space-between" wrap="nowrap" gap="sm" align="flex-start">
      <div><Text size="sm">{name}</Text><Text size="xs" c="dimmed" component="div">{children}</Text></div>
      <Text fw={650} style={{ color: kept ? "var(--good)" : "var(--bad)" }}>{percent(part, whole)}</Text>
    </Group>
  );
}

function Now({ known, span_s }: { known: LiveKnown; span_s: number }) {
  const { data, error, refetch, since, from: opened } = known;
  const from = String(Math.floor(Date.now() / 1000 - span_s));
  if (error && !data) return <Card title={t.now}><Failed error={error} again={() => void refetch()} /></Card>;
  const models = data?.live.models ?? [];
  const all = together(models.map((one) => since(one, "duration")));
  return (
    <Card title={t.now} side={<To to="/fleet">{t.modelsFleet}</To>}>
      <Stack gap="xs">
        {models.map((one) => {
          const state = (data?.live.parts as { models?: Record<string, string> }).models?.[one.model] ?? "";
          const seen = since(one, "duration");
          return (
            <Group key={one.model} justify="space-between" wrap="nowrap" gap="sm">
              <div style={{ minWidth: "5.5em" }}>
                <Text fw={600} size="sm" truncate>{one.model}</Text>
                <Text size="xs" style={{ color: state === "ready" ? "var(--good)" : "var(--warn)" }}>{state}</Text>
              </div>
              <Text size="sm" className="num" style={{ whiteSpace: "normal" }}>{t.runningWaiting(<To to="/requests" search={{ model: one.model, from }}>{t.running(one.running)}</To>, <To to="/requests" search={{ seen: "waited", model: one.model }}>{t.waiting(one.queued)}</To>, <Text span size="xs" c="dimmed">{latency(seen) === NONE ? t.noneWaited : <To to="/requests" search={{ model: one.model, from: opened }}>{t.firstByte(latency(seen), latency(since(one, "first_byte")))}</To>}</Text>)}</Text>
            </Group>
          );
        })}
        <Text size="xs" c="dimmed">{t.allModelsExactCacheAnswers(latency(all) === NONE ? NONE : <To to="/requests" search={{ from: opened }}>{latency(all)}</To>, data?.first ? t.sinceThisPageWasOpened : t.sinceTheGatewayBegan, count(data?.live.cache_entries ?? 0), usd(data?.live.ledger_gap_nanousd))}</Text>
      </Stack>
    </Card>
  );
}

function latency(seen: readonly Bucket[]): string {
  const [half, most] = [quantile(seen, 0.5), quantile(seen, 0.99)];
  return half === null || most === null ? NONE : t.p50P99(duration(half), duration(most));
}

function useAlerts(enabled: boolean) {
  return useQuery({
    queryKey: ["alerts", "newest"],
    enabled,
    queryFn: () => got(api.GET("/admin/v1/alerts", { params: { query: { limit: 5 } } })),
    refetchInterval: 30_000,
  });
}

function Alerts({ known: { data, error } }: { known: ReturnType<typeof useAlerts> }) {
  return (
    <Card title={t.alerts} side={<To to="/alerts">{t.allAlerts}</To>}>
      {error ? <Failed error={error} /> : data?.data.length === 0 ? (
        <Empty title={t.noBudgetIsNearIts}>{t.alertsComeAt5080}</Empty>
      ) : (
        <Stack gap={6}>
          {data?.data.map((one) => (
            <Group key={one.id} justify="space-between" gap={4}>
              <Text size="sm">{t.ofTheOf(one.threshold_percent, one.kind, <To to="/requests" search={{ org: one.org, project: one.project || undefined, key_id: one.key_id || undefined }}>{one.account}</To>)}</Text>
              <Text size="xs" c="dimmed">{moment(one.ts)}</Text>
            </Group>
          ))}
        </Stack>
      )}
    </Card>
  );
}

function FirstSteps() {
  const { may } = useSession();
  const example = `curl ${location.origin}/v1/chat/completions -H "authorization: Bearer $KEY" \\\n  -H "content-type: application/json" -d '{"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}'`;
  return (
    <Card title={t.noRequestInThisSpan}>
      <Stack gap="sm" align="flex-start">
        <Text size="sm">
          {may("tenants.write") ? t.fourStepsToTheFirst : t.chooseALongerSpanOr}
        </Text>
        {may("tenants.write") && (
          <Group gap="xs">
            {may("orgs.write") && <Button size="xs" component={Link} to="/begin">{t.beginOrganisationKeyFirstRequest}</Button>}
            <Button size="xs" variant="default" component={Link} to="/keys">{t.makeAKey}</Button>
            <Button size="xs" variant="default" component={Link} to="/playground">{t.tryItInThePlayground}</Button>
          </Group>
        )}
        <Code block w="100%" style={{ whiteSpace: "pre-wrap" }} tabIndex={0}>{example}</Code>
      </Stack>
    </Card>
  );
}
