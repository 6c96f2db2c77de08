// What happens now: traffic, errors, latency, spending, savings, the fleet, alerts.
import { Anchor, Button, Code, Group, SegmentedControl, SimpleGrid, Stack, Text } from "@mantine/core";
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useRef } from "react";
import { api, got, type Schemas } from "../api/client";
import { between, brief, type Bucket, clock, count, duration, moment, NONE, percent, quantile, together, usd } from "../format";
import { Chart } from "../parts/chart";
import { text, useFilters } from "../parts/filters";
import { To } from "../parts/link";
import { Card, Empty, Failed, Heading } from "../parts/states";
import { useSession } from "../session";

type Activity = Schemas["Activity"];
const SPANS: Record<string, { label: string; span_s: number; step_s: number }> = {
  "15m": { label: "15 min", span_s: 900, step_s: 15 },
  "1h": { label: "1 h", span_s: 3600, step_s: 60 },
  "6h": { label: "6 h", span_s: 21600, step_s: 360 },
  "24h": { label: "24 h", span_s: 86400, step_s: 1440 },
};
const LIVE_MS = 5_000;
const FAILED = ["error", "interrupted"];

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
  const known = activity.data;
  return (
    <>
      <Heading title="Overview" about={known ? `Updated ${moment(Date.now() / 1000)}` : "Loading …"}>
        <SegmentedControl
          aria-label="Span of time"
          size="xs"
          value={name}
          onChange={(value) => set({ span: value })}
          data={Object.entries(SPANS).map(([value, { label }]) => ({ value, label }))}
        />
      </Heading>
      {activity.error && !known && <Failed error={activity.error} again={() => void activity.refetch()} />}
      <Stack>
        <Figures rows={known?.rows} span_s={span.span_s} />
        {known && known.rows.length === 0 ? <FirstSteps /> : <Charts known={known} />}
        <SimpleGrid cols={{ base: 1, lg: 2 }}>
          {may("fleet.read") && <Now />}
          {may("money.read") && <Alerts />}
        </SimpleGrid>
      </Stack>
    </>
  );
}

function Figures({ rows, span_s }: { rows: readonly Activity[] | undefined; span_s: number }) {
  const sum = (of: (row: Activity) => number) => (rows ?? []).reduce((total, row) => total + of(row), 0);
  const requests = sum((row) => row.requests);
  const failed = sum((row) => (FAILED.includes(row.status) ? row.requests : 0));
  const hits = sum((row) => (row.source === "upstream" ? 0 : row.requests));
  const spent = sum((row) => row.amount_nanousd);
  const saved = sum((row) => row.baseline_nanousd) - spent;
  const from = String(Math.floor(Date.now() / 1000 - span_s));
  const figures = [
    { name: "Requests", value: rows && brief(requests), more: `${(requests / span_s).toFixed(2)} per second`, search: { from } },
    { name: "Failed", value: rows && percent(failed, requests), more: `${count(failed)} requests`, search: { from, status: "error" } },
    { name: "Billed", value: rows && usd(spent), more: `${brief(sum((row) => row.tokens))} tokens`, search: { from } },
    { name: "Saved by routing and cache", value: rows && usd(saved), more: `${percent(saved, spent + saved)} of the dearest way`, search: { from } },
    { name: "Answered from the cache", value: rows && percent(hits, requests), more: `${count(hits)} requests`, search: { from } },
  ];
  return (
    <SimpleGrid cols={{ base: 2, sm: 3, lg: 5 }} spacing="sm">
      {figures.map((one) => (
        <div className="card" key={one.name}>
          <Text size="sm" c="dimmed">{one.name}</Text>
          <div className="figure">{one.value ?? "…"}</div>
          <Anchor component={Link} to="/requests" search={one.search as never} size="xs">{one.more}</Anchor>
        </div>
      ))}
    </SimpleGrid>
  );
}

function Charts({ known }: { known: { from_s: number; to_s: number; step_s: number; rows: readonly Activity[] } | undefined }) {
  const steps: number[] = [];
  if (known) for (let at = known.from_s; at < known.to_s - known.step_s; at += known.step_s) steps.push(at); // the last is not over
  const rows = known?.rows ?? [];
  const at = (step: number, fits: (row: Activity) => boolean, of: (row: Activity) => number) =>
    rows.filter((row) => row.ts === step && fits(row)).reduce((sum, row) => sum + of(row), 0);
  const one = (row: Activity) => row.requests;
  const traffic = steps.map((step) => ({
    at: clock(step),
    upstream: at(step, (row) => !FAILED.includes(row.status) && row.source === "upstream", one),
    cached: at(step, (row) => !FAILED.includes(row.status) && row.source !== "upstream", one),
    failed: at(step, (row) => FAILED.includes(row.status), one),
  }));
  const money = steps.map((step) => {
    const billed = at(step, () => true, (row) => row.amount_nanousd);
    return { at: clock(step), billed, saved: Math.max(0, at(step, () => true, (row) => row.baseline_nanousd) - billed) };
  });
  return (
    <SimpleGrid cols={{ base: 1, lg: 2 }}>
      <Card title="Requests">
        <Chart
          about={`Requests over time: ${count(rows.reduce((sum, row) => sum + row.requests, 0))} altogether.`}
          kind="area"
          rows={traffic}
          format={count}
          series={[
            { name: "upstream", label: "From a model", color: "gear.5" },
            { name: "cached", label: "From the cache", color: "indigo.4" },
            { name: "failed", label: "Failed", color: "red.6" },
          ]}
        />
      </Card>
      <Card title="Money (USD)">
        <Chart
          about="Billed and saved over time."
          kind="area"
          rows={money}
          format={usd}
          series={[{ name: "billed", label: "Billed", color: "gear.5" }, { name: "saved", label: "Saved", color: "yellow.5" }]}
        />
      </Card>
    </SimpleGrid>
  );
}

function Now() {
  const before = useRef<Map<string, Schemas["Load"]> | null>(null);
  const { data, error, refetch } = useQuery({
    queryKey: ["live"],
    refetchInterval: LIVE_MS,
    queryFn: async () => {
      const live = await got(api.GET("/admin/v1/live"));
      const first = before.current;
      before.current ??= new Map(live.models.map((one) => [one.model, one]));
      return { live, first };
    },
  });
  if (error && !data) return <Card title="Now"><Failed error={error} again={() => void refetch()} /></Card>;
  const since = (one: Schemas["Load"], of: "duration" | "first_byte"): Bucket[] =>
    between(data?.first?.get(one.model)?.[of], one[of]);
  const models = data?.live.models ?? [];
  const all = together(models.map((one) => since(one, "duration")));
  return (
    <Card title="Now" side={<To to="/fleet">Models &amp; fleet</To>}>
      <Stack gap="xs">
        {models.map((one) => {
          const state = (data?.live.parts as { models?: Record<string, string> }).models?.[one.model] ?? "";
          const seen = since(one, "duration");
          return (
            <Group key={one.model} justify="space-between" wrap="nowrap" gap="sm">
              <div style={{ minWidth: 0 }}>
                <Text fw={600} size="sm" truncate>{one.model}</Text>
                <Text size="xs" style={{ color: state === "ready" ? "var(--good)" : "var(--warn)" }}>{state}</Text>
              </div>
              <Text size="sm" className="num">
                {one.running} running, {one.queued} waiting<br />
                <Text span size="xs" c="dimmed">{latency(seen)}; first byte {latency(since(one, "first_byte"))}</Text>
              </Text>
            </Group>
          );
        })}
        <Text size="xs" c="dimmed">
          All models: {latency(all)}{data?.first ? " since this page was opened" : " since the gateway began"} ·
          exact cache: {count(data?.live.cache_entries ?? 0)} answers · ledger gap: {usd(data?.live.ledger_gap_nanousd)}
        </Text>
      </Stack>
    </Card>
  );
}

function latency(seen: readonly Bucket[]): string {
  const [half, most] = [quantile(seen, 0.5), quantile(seen, 0.99)];
  return half === null || most === null ? NONE : `p50 ${duration(half)}, p99 ${duration(most)}`;
}

function Alerts() {
  const { data, error } = useQuery({
    queryKey: ["alerts", "newest"],
    queryFn: () => got(api.GET("/admin/v1/alerts", { params: { query: { limit: 5 } } })),
    refetchInterval: 30_000,
  });
  return (
    <Card title="Alerts" side={<To to="/alerts">All alerts</To>}>
      {error ? <Failed error={error} /> : data?.data.length === 0 ? (
        <Empty title="No budget is near its end">Alerts come at 50, 80 and 100 % of a budget or credit.</Empty>
      ) : (
        <Stack gap={6}>
          {data?.data.map((one) => (
            <Group key={one.id} justify="space-between" wrap="nowrap">
              <Text size="sm" truncate>{one.threshold_percent} % of the {one.kind} of <span className="code">{one.account}</span></Text>
              <Text size="xs" c="dimmed" style={{ whiteSpace: "nowrap" }}>{moment(one.ts)}</Text>
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
    <Card title="No request in this span of time">
      <Stack gap="sm" align="flex-start">
        <Text size="sm">
          {may("tenants.write") ? "Four steps to the first one; it shows up here within seconds." : "Choose a longer span, or send a request with your key:"}
        </Text>
        {may("tenants.write") && (
          <Group gap="xs">
            {may("orgs.write") && <Button size="xs" component={Link} to="/begin">Begin: organisation, key, first request</Button>}
            <Button size="xs" variant="default" component={Link} to="/keys">Make a key</Button>
            <Button size="xs" variant="default" component={Link} to="/playground">Try it in the playground</Button>
          </Group>
        )}
        <Code block w="100%" style={{ whiteSpace: "pre-wrap" }} tabIndex={0}>{example}</Code>
      </Stack>
    </Card>
  );
}
