// What was used and what it cost: by day, by whom, by model; a month's invoice; the rows as a file.
import { Button, Group, SegmentedControl, Select, SimpleGrid, Stack, Table, Text, TextInput } from "@mantine/core";
import { keepPreviousData, useMutation, useQuery } from "@tanstack/react-query";
import { api, got, type Schemas } from "../api/client";
import { begins, brief, count, day, percent, usd, usdBrief } from "../format";
import { SOURCES } from "../parts/badges";
import { Chart } from "../parts/chart";
import { text, useFilters } from "../parts/filters";
import { To } from "../parts/link";
import { Card, Empty, Failed, Heading, Loading } from "../parts/states";
import { useSession } from "../session";
import { words } from "../words";

const t = words.usage;

type Sum = Schemas["Sum"];
type Dimension = "org" | "project" | "key_id" | "model" | "source" | "status";
const BY: { value: Dimension; label: string }[] = [
  { value: "org", label: t.organisation }, { value: "project", label: t.project }, { value: "key_id", label: t.key },
  { value: "model", label: t.model }, { value: "source", label: t.kindOfAnswer }, { value: "status", label: t.outcome },
];
const SHOWN = 12;

export default function Usage() {
  const [filters, set] = useFilters();
  const { session, may } = useSession();
  const days = Number(text(filters.days) ?? 30);
  const by = (text(filters.by) ?? (session.org === "*" ? "org" : "project")) as Dimension;
  const org = text(filters.org);
  const from_day = day(new Date(), days - 1);
  const { data, error, isPending, refetch } = useQuery({
    queryKey: ["usage", days, by, org],
    placeholderData: keepPreviousData,
    queryFn: async () => {
      const [daily, groups] = await Promise.all([
        got(api.GET("/admin/v1/usage", { params: { query: { from_day, org, by: ["day"] } } })),
        got(api.GET("/admin/v1/usage", { params: { query: { from_day, org, by: [by] } } })),
      ]);
      return { daily: daily.data, groups: [...groups.data].sort((one, other) => other.amount_nanousd - one.amount_nanousd) };
    },
  });
  const from_s = Number(begins(from_day));
  return (
    <>
      <Heading title={t.usageInvoice} about={t.daysAreInUtcAs}>
        <SegmentedControl size="xs" aria-label={t.spanOfTime} value={String(days)} onChange={(value) => set({ days: value })} data={["7", "30", "90"].map((value) => ({ value, label: t.days(value) }))} />
        {["jsonl", "csv"].map((form) => <Export key={form} form={form} from_s={from_s} org={org} />)}
      </Heading>
      {isPending ? <Loading /> : error ? <Failed error={error} again={() => void refetch()} /> : data.daily.length === 0 ? (
        <Card><Empty title={t.nothingWasUsed}>{t.chooseALongerSpanOr(org ? t.orTakeTheFilterOn(org) : "")}</Empty></Card>
      ) : (
        <Stack>
          <Totals daily={data.daily} from_day={from_day} days={days} org={org} />
          <Groups groups={data.groups} by={by} set={set} from={String(from_s)} org={org} />
        </Stack>
      )}
      {!isPending && may("money.read") && <Invoice own={org ?? (session.org === "*" ? "" : session.org)} month={text(filters.month) ?? day(new Date()).slice(0, 7)} set={set} />}
    </>
  );
}

/** A download with whatever proves who asks: a link alone has no admin key. */
function Export({ form, from_s, org }: { form: string; from_s: number; org?: string }) {
  const path = form === "csv" ? "/admin/v1/usage/export.csv" : "/admin/v1/usage/export";
  const save = async () => {
    const blob = (await got(api.GET(path, { params: { query: { from_s, org } }, parseAs: "blob" }))) as unknown as Blob;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `usage.${form}`;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  const run = useMutation({ mutationFn: save });
  return (
    <>
      <Button size="xs" variant="default" loading={run.isPending} onClick={() => run.mutate()}>{t.export(form)}</Button>
      {run.error && <Failed error={run.error} />}
    </>
  );
}

function Totals({ daily, from_day, days, org }: { daily: readonly Sum[]; from_day: string; days: number; org?: string }) {
  const known = new Map(daily.map((row) => [row.day, row]));
  const rows = Array.from({ length: days }, (_, back) => day(new Date(`${from_day}T00:00:00Z`), -back)).map((at) => {
    const row = known.get(at);
    const billed = row?.amount_nanousd ?? 0;
    return { at: at.slice(5), billed, saved: Math.max(0, (row?.baseline_nanousd ?? 0) - billed), prompt: row?.prompt_tokens ?? 0, completion: row?.completion_tokens ?? 0 };
  });
  const leads = (row: number) => {
    const at = new Date(`${from_day}T00:00:00Z`);
    return { from: begins(day(at, -row)), to: begins(day(at, -row - 1)), org };
  };
  const sum = (of: (row: Sum) => number) => daily.reduce((total, row) => total + of(row), 0);
  const billed = sum((row) => row.amount_nanousd);
  const whole = sum((row) => row.baseline_nanousd);
  return (
    <SimpleGrid cols={{ base: 1, lg: 2 }}>
      <Card title={t.costPerDay} side={<Text size="sm">{t.billedSaved(usd(billed), usd(whole - billed), percent(whole - billed, whole))}</Text>}>
        <Chart about={t.costPerDayAltogether(usd(billed))} of={t.dayUtc} leads={leads} kind="bar" rows={rows} format={usd} axis={usdBrief} series={[{ name: "billed", label: t.billed, color: "gear.5" }, { name: "saved", label: t.saved, color: "yellow.5" }]} />
      </Card>
      <Card title={t.tokensPerDay} side={<To to="/requests" search={{ from: begins(from_day), org }}>{t.requests(brief(sum((row) => row.requests)))}</To>}>
        <Chart about={t.tokensPerDay2} of={t.dayUtc} leads={leads} kind="bar" rows={rows} format={brief} series={[{ name: "prompt", label: t.inWord, color: "indigo.4" }, { name: "completion", label: t.out, color: "gear.5" }]} />
      </Card>
    </SimpleGrid>
  );
}

interface GroupsProps { groups: Sum[]; by: Dimension; set: (change: Record<string, string>) => void; from: string; org?: string }

function Groups({ groups, by, set, from, org }: GroupsProps) {
  const total = groups.reduce((sum, row) => sum + row.amount_nanousd, 0);
  return (
    <Card
      title={org ? t.of(org) : t.whoUsedWhat}
      side={<Select size="xs" w={170} aria-label={t.groupBy} value={by} data={BY} allowDeselect={false} onChange={(value) => value && set({ by: value })} />}
    >
      <Table aria-label={t.usageByGroup} verticalSpacing={6}>
        <Table.Thead>
          <Table.Tr><Table.Th>{t.group}</Table.Th><Table.Th className="num">{t.requests2}</Table.Th><Table.Th className="num" visibleFrom="sm">{t.tokensInOut}</Table.Th><Table.Th className="num">{t.cost}</Table.Th><Table.Th className="num" visibleFrom="sm">{t.share}</Table.Th></Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {groups.slice(0, SHOWN).map((row) => {
            const name = row[by] ?? "";
            const search = { [by]: name, org: by === "org" ? name : org, from };
            return (
              <Table.Tr key={name}>
                <Table.Td><To to="/requests" search={search}>{(by === "source" && SOURCES[name]) || name || "—"}</To></Table.Td>
                <Table.Td className="num"><To to="/requests" search={search}>{count(row.requests)}</To></Table.Td>
                <Table.Td className="num" visibleFrom="sm">{brief(row.prompt_tokens)} / {brief(row.completion_tokens)}</Table.Td>
                <Table.Td className="num">{usd(row.amount_nanousd)}</Table.Td>
                <Table.Td className="num" visibleFrom="sm">{percent(row.amount_nanousd, total)}</Table.Td>
              </Table.Tr>
            );
          })}
        </Table.Tbody>
      </Table>
      {groups.length > SHOWN && <Text size="xs" c="dimmed" mt="xs">{t.theDearestOfTheExport(SHOWN, groups.length)}</Text>}
    </Card>
  );
}

/** The first day of the month after one like 2026-11. */
function following(month: string): string {
  const at = new Date(`${month}-01T00:00:00Z`);
  return day(new Date(Date.UTC(at.getUTCFullYear(), at.getUTCMonth() + 1, 1)));
}

function Invoice({ own, month, set }: { own: string; month: string; set: (change: Record<string, string>) => void }) {
  const { session } = useSession();
  const { data, error, isFetching } = useQuery({
    queryKey: ["invoice", own, month],
    enabled: own !== "",
    queryFn: () => got(api.GET("/admin/v1/usage/invoice", { params: { query: { org: own, month } } })),
  });
  return (
    <Stack mt="md">
      <Card title={t.invoice}>
        <Group gap="xs" align="flex-end" mb="sm">
          {session.org === "*" && (
            <TextInput key={own} size="xs" label={t.organisation2} placeholder={t.itsName} defaultValue={own}
              onBlur={(event) => set({ org: event.currentTarget.value.trim() })}
              onKeyDown={(event) => event.key === "Enter" && set({ org: event.currentTarget.value.trim() })} />
          )}
          <TextInput size="xs" type="month" label={t.monthUtc} value={month} onChange={(event) => event.currentTarget.value && set({ month: event.currentTarget.value })} />
        </Group>
        {own === "" ? <Empty title={t.whoseInvoice}>{t.nameAnOrganisation}</Empty> : error ? <Failed error={error} /> : !data ? <Loading /> : (
          <div className={isFetching ? "busy" : undefined}>
            <Table aria-label={t.invoiceOfFor(own, month)} verticalSpacing={6}>
              <Table.Thead><Table.Tr><Table.Th>{t.projectKeyModel}</Table.Th><Table.Th className="num">{t.requests2}</Table.Th><Table.Th className="num">{t.amount}</Table.Th></Table.Tr></Table.Thead>
              <Table.Tbody>
                {data.lines.slice(0, 50).map((line) => (
                  <Table.Tr key={`${line.project} ${line.key_id} ${line.model}`}>
                    <Table.Td>{line.project} · <span className="code">{line.key_id}</span> · {line.model}</Table.Td>
                    <Table.Td className="num"><To to="/requests" search={{ org: own, project: line.project ?? undefined, key_id: line.key_id ?? undefined, model: line.model ?? undefined, from: begins(`${month}-01`), to: begins(following(month)) }}>{count(line.requests)}</To></Table.Td>
                    <Table.Td className="num">{usd(line.amount_nanousd)}</Table.Td>
                  </Table.Tr>
                ))}
                {Object.entries(data.transfers).map(([kind, amount]) => (
                  <Table.Tr key={kind}><Table.Td>{kind.replace("_", " ")}</Table.Td><Table.Td /><Table.Td className="num">{usd(amount)}</Table.Td></Table.Tr>
                ))}
                <Table.Tr><Table.Th scope="row">{t.usedIn(month)}</Table.Th><Table.Td /><Table.Td className="num"><b>{usd(data.usage_nanousd)}</b></Table.Td></Table.Tr>
              </Table.Tbody>
            </Table>
            {data.lines.length > 50 && <Text size="xs" c="dimmed">{t.n50OfLinesTheSum(data.lines.length)}</Text>}
          </div>
        )}
      </Card>
    </Stack>
  );
}
