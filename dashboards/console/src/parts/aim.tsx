// A route's aim as a slider: what another one would give is seen before it is staged, and applied in the settings.
import { Alert, Button, FileButton, Group, SegmentedControl, Skeleton, Slider, Stack, Table, Text } from "@mantine/core";
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, got, type Schemas } from "../api/client";
import { type AimName, type Expected, expected } from "../forecast";
import { percent } from "../format";
import { useSession } from "../session";
import { stage, staged } from "../staged";
import { Chart } from "./chart";
import { Card, Failed } from "./states";
import { words } from "../words";

const t = words.aim;

const NAMES: { value: AimName; label: string }[] = [
  { value: "large_share", label: t.share },
  { value: "quality", label: t.quality },
  { value: "cost_per_request_usd", label: t.cost },
];
const ROWS_LIMIT = 20_000;
const HEIGHT = 480; // about what it has when the curve is there: nothing below it jumps

type Row = Schemas["Row"];

/** Reads JSON Lines of prompts; says which line is none. */
async function rowsOf(file: File): Promise<Row[]> {
  const lines = (await file.text()).split("\n").filter((line) => line.trim());
  if (lines.length === 0) throw new Error(t.theFileIsEmpty);
  return lines.slice(0, ROWS_LIMIT).map((line, at) => {
    try {
      const { prompt, small_score = null, large_score = null } = JSON.parse(line) as Row;
      if (typeof prompt === "string") return { prompt, small_score, large_score };
    } catch {
      // told below, with the line's number
    }
    throw new Error(t.lineIsNotJsonWith(at + 1));
  });
}

export function Aim({ route }: { route: Schemas["ShownRoute"] }) {
  const { may } = useSession();
  const [file, setFile] = useState<File | null>(null);
  const { data, error, refetch } = useQuery({
    queryKey: ["routing", "forecast", route.name, file?.name, file?.lastModified],
    queryFn: async () => {
      const rows = file ? await rowsOf(file) : null;
      const found = await got(api.POST("/admin/v1/routing/what-if", { body: { route: route.name, rows } }));
      return found.routes[0]?.forecast ?? null;
    },
    retry: false,
  });
  const title = t.anotherAimFor(route.name);
  if (error) return <Card title={title}><Failed error={error} again={() => { setFile(null); void refetch(); }} /></Card>;
  if (data === undefined) return <Card title={title}><Skeleton height={HEIGHT} /></Card>;
  if (data === null) return null;
  return (
    <Card title={title}>
      <Chosen route={route} forecast={data} changes={may("config.write")} />
      <Group gap="xs" mt="sm">
        <FileButton accept=".jsonl,.json,.txt" onChange={setFile}>{(given) => <Button {...given} variant="default" size="compact-sm">{t.fromAFileOfMine}</Button>}</FileButton>
        {file && <Button variant="subtle" size="compact-sm" onClick={() => setFile(null)}>{t.without(file.name)}</Button>}
      </Group>
      <Text size="xs" c="dimmed" mt={4}>
        {file
          ? t.ofPromptsOf(data.queries, file.name, data.labelled ? t.withTheirOutcomes : t.withoutOutcomesTheQualityIs)
          : t.ofTheClassifiersValidation}
      </Text>
    </Card>
  );
}

function Chosen({ route, forecast, changes }: { route: Schemas["ShownRoute"]; forecast: Omit<Schemas["Forecast"], "ci"> & { ci: number[] }; changes: boolean }) {
  const { curve } = forecast;
  const costs = curve.map((one) => one.cost_usd).filter((one) => one !== null);
  const priced = costs.length === curve.length && costs.at(-1) !== costs[0];
  const present = Object.entries(route.objective)[0] as [AimName | "threshold", number] | undefined;
  const now: Expected = { share: forecast.share, quality: forecast.quality, cost_usd: forecast.cost_usd };
  const [aim, setAim] = useState<AimName>(present && present[0] !== "threshold" ? present[0] : "large_share");
  const bounds: Record<AimName, [number, number, number]> = {
    large_share: [0, 1, 0.01],
    quality: [curve[0]?.quality ?? 0, 1, 0.005],
    cost_per_request_usd: [costs[0] ?? 0, costs.at(-1) ?? 1, ((costs.at(-1) ?? 1) - (costs[0] ?? 0)) / 200],
  };
  const at: Record<AimName, number> = { large_share: now.share, quality: now.quality, cost_per_request_usd: now.cost_usd ?? 0 };
  const [value, setValue] = useState(present && present[0] === aim ? present[1] : at[aim]);
  const then = expected(curve, aim, value);
  const half = ((forecast.ci[1] ?? 0) - (forecast.ci[0] ?? 0)) / 2;
  const [low, high, step] = bounds[aim];
  const told = (one: number) => (aim === "cost_per_request_usd" ? dollars(one) : percent(one, 1));
  const change = useMutation({
    mutationFn: async () => {
      const round = aim === "cost_per_request_usd" ? Number(value.toPrecision(3)) : Number(value.toFixed(3));
      const tried = await got(api.POST("/admin/v1/config/trial", { body: { text: staged(), objectives: { [route.name]: { [aim]: round } } } }));
      stage(tried.text);
      return tried;
    },
  });
  return (
    <Stack gap="sm">
      <SegmentedControl
        aria-label={t.kindOfAim} size="xs" value={aim} data={NAMES.filter((one) => priced || one.value !== "cost_per_request_usd")}
        onChange={(name) => { setAim(name as AimName); setValue(present && present[0] === name ? present[1] : at[name as AimName]); change.reset(); }}
      />
      <Slider
        thumbLabel={t.aim} min={low} max={high} step={step} value={value} label={told}
        onChange={(to) => { setValue(to); change.reset(); }}
      />
      <Table>
        <Table.Thead><Table.Tr><Table.Th>{t.expected}</Table.Th><Table.Th className="num">{t.now}</Table.Th><Table.Th className="num">{t.with(told(value))}</Table.Th></Table.Tr></Table.Thead>
        <Table.Tbody>
          <Table.Tr><Table.Td>{t.requestsTo(route.tiers.at(-1))}</Table.Td><Table.Td className="num">{percent(now.share, 1)}</Table.Td><Table.Td className="num">{percent(then.share, 1)}</Table.Td></Table.Tr>
          <Table.Tr><Table.Td>{t.qualityOfThatOfAlone(route.tiers.at(-1))}</Table.Td><Table.Td className="num">{percent(now.quality, 1)}</Table.Td><Table.Td className="num">{percent(then.quality, 1)} ± {percent(half, 1)}</Table.Td></Table.Tr>
          <Table.Tr><Table.Td>{t.aRequestInUsd}</Table.Td><Table.Td className="num">{dollars(now.cost_usd)}</Table.Td><Table.Td className="num">{dollars(then.cost_usd)}</Table.Td></Table.Tr>
        </Table.Tbody>
      </Table>
      <Chart
        kind="line" height={180} of={t.shareOf(route.tiers.at(-1) ?? "")} about={t.qualityByShareOf(route.tiers.at(-1) ?? "", curve.map((one) => `${percent(one.share, 1)} ${percent(one.quality, 1)}`).filter((_, place) => place % 5 === 0).join(", "))}
        rows={curve.map((one) => ({ at: percent(one.share, 1), routed: one.quality, random: one.random, ...(one.oracle === null ? {} : { oracle: one.oracle }) }))}
        series={[
          { name: "routed", label: t.routed, color: "blue.6" },
          { name: "random", label: t.atRandom, color: "gray.5" },
          ...(curve[0]?.oracle === null ? [] : [{ name: "oracle", label: t.perfectChoice, color: "green.6" }]),
        ]}
        format={(one) => percent(one, 1)}
      />
      {changes && (
        <Group gap="sm">
          <Button size="sm" loading={change.isPending} onClick={() => change.mutate()}>{t.stageIt}</Button>
          <div role="status">
            {change.data && !change.data.finding && <Text size="sm">{t.stagedNothingHasChangedYet()}</Text>}
            {change.data?.finding && <Alert color="red" title={t.thisWouldNotWork}>{change.data.finding}</Alert>}
          </div>
          {change.error && <Failed error={change.error} />}
        </Group>
      )}
    </Stack>
  );
}

function dollars(value: number | null): string {
  return value === null ? "—" : value.toPrecision(3);
}
