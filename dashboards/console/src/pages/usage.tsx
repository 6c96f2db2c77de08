// What was used and what it cost: by day, by whom, by model; a month's invoice; the rows as a file.
import { Button, Group, SegmentedControl, Select, SimpleGrid, Stack, Table, Text, TextInput } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { api, got, type Schemas } from "../api/client";
import { brief, count, day, percent, usd } from "../format";
import { Chart } from "../parts/chart";
import { text, useFilters } from "../parts/filters";
import { To } from "../parts/link";
import { Card, Empty, Failed, Heading, Loading } from "../parts/states";
import { useSession } from "../session";

type Sum = Schemas["Sum"];
type Dimension = "org" | "project" | "key_id" | "model" | "source" | "status";
const BY: { value: Dimension; label: string }[] = [
  { value: "org", label: "organisation" }, { value: "project", label: "project" }, { value: "key_id", label: "key" },
  { value: "model", label: "model" }, { value: "source", label: "kind of answer" }, { value: "status", label: "outcome" },
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
    queryFn: async () => {
      const [daily, groups] = await Promise.all([
        got(api.GET("/admin/v1/usage", { params: { query: { from_day, org, by: ["day"] } } })),
        got(api.GET("/admin/v1/usage", { params: { query: { from_day, org, by: [by] } } })),
      ]);
      return { daily: daily.data, groups: [...groups.data].sort((one, other) => other.amount_nanousd - one.amount_nanousd) };
    },
  });
  const from_s = Date.parse(from_day) / 1000;
  return (
    <>
      <Heading title="Usage & invoice" about="Days are in UTC, as they are billed.">
        <SegmentedControl size="xs" aria-label="Span of time" value={String(days)} onChange={(value) => set({ days: value })} data={[{ value: "7", label: "7 d" }, { value: "30", label: "30 d" }, { value: "90", label: "90 d" }]} />
        {["jsonl", "csv"].map((form) => <Export key={form} form={form} from_s={from_s} org={org} />)}
      </Heading>
      {isPending ? <Loading /> : error ? <Failed error={error} again={() => void refetch()} /> : data.daily.length === 0 ? (
        <Card><Empty title="Nothing was used">Choose a longer span{org ? `, or take the filter on ${org} away` : ""}; or send a request from the <To to="/playground">playground</To>.</Empty></Card>
      ) : (
        <Stack>
          <Totals daily={data.daily} from_day={from_day} days={days} />
          <Groups groups={data.groups} by={by} set={set} from={String(from_s)} org={org} />
        </Stack>
      )}
      {may("money.read") && <Invoice own={org ?? (session.org === "*" ? "" : session.org)} month={text(filters.month) ?? day(new Date()).slice(0, 7)} set={set} />}
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
  return <Button size="xs" variant="default" onClick={() => void save()}>Export {form}</Button>;
}

function Totals({ daily, from_day, days }: { daily: readonly Sum[]; from_day: string; days: number }) {
  const known = new Map(daily.map((row) => [row.day, row]));
  const rows = Array.from({ length: days }, (_, back) => day(new Date(`${from_day}T00:00:00Z`), -back)).map((at) => {
    const row = known.get(at);
    const billed = row?.amount_nanousd ?? 0;
    return { at: at.slice(5), billed, saved: Math.max(0, (row?.baseline_nanousd ?? 0) - billed), prompt: row?.prompt_tokens ?? 0, completion: row?.completion_tokens ?? 0 };
  });
  const sum = (of: (row: Sum) => number) => daily.reduce((total, row) => total + of(row), 0);
  const billed = sum((row) => row.amount_nanousd);
  const whole = sum((row) => row.baseline_nanousd);
  return (
    <SimpleGrid cols={{ base: 1, lg: 2 }}>
      <Card title="Cost per day" side={<Text size="sm"><b>{usd(billed)}</b> billed, {usd(whole - billed)} saved ({percent(whole - billed, whole)})</Text>}>
        <Chart about={`Cost per day; ${usd(billed)} altogether.`} kind="bar" rows={rows} format={usd} series={[{ name: "billed", label: "Billed", color: "gear.5" }, { name: "saved", label: "Saved", color: "yellow.5" }]} />
      </Card>
      <Card title="Tokens per day" side={<Text size="sm">{brief(sum((row) => row.requests))} requests</Text>}>
        <Chart about="Tokens per day." kind="bar" rows={rows} format={brief} series={[{ name: "prompt", label: "In", color: "indigo.4" }, { name: "completion", label: "Out", color: "gear.5" }]} />
      </Card>
    </SimpleGrid>
  );
}

interface GroupsProps { groups: Sum[]; by: Dimension; set: (change: Record<string, string>) => void; from: string; org?: string }

function Groups({ groups, by, set, from, org }: GroupsProps) {
  const total = groups.reduce((sum, row) => sum + row.amount_nanousd, 0);
  return (
    <Card
      title={org ? `Of ${org}` : "Who used what"}
      side={<Select size="xs" w={170} aria-label="Group by" value={by} data={BY} allowDeselect={false} onChange={(value) => value && set({ by: value })} />}
    >
      <Table aria-label="Usage by group" verticalSpacing={6}>
        <Table.Thead>
          <Table.Tr><Table.Th>Group</Table.Th><Table.Th className="num">Requests</Table.Th><Table.Th className="num" visibleFrom="sm">Tokens in / out</Table.Th><Table.Th className="num">Cost</Table.Th><Table.Th className="num" visibleFrom="sm">Share</Table.Th></Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {groups.slice(0, SHOWN).map((row) => {
            const name = row[by] ?? "";
            return (
              <Table.Tr key={name}>
                <Table.Td><To to="/requests" search={{ [by]: name, org: by === "org" ? name : org, from }}>{name || "—"}</To></Table.Td>
                <Table.Td className="num">{count(row.requests)}</Table.Td>
                <Table.Td className="num" visibleFrom="sm">{brief(row.prompt_tokens)} / {brief(row.completion_tokens)}</Table.Td>
                <Table.Td className="num">{usd(row.amount_nanousd)}</Table.Td>
                <Table.Td className="num" visibleFrom="sm">{percent(row.amount_nanousd, total)}</Table.Td>
              </Table.Tr>
            );
          })}
        </Table.Tbody>
      </Table>
      {groups.length > SHOWN && <Text size="xs" c="dimmed" mt="xs">The {SHOWN} dearest of {groups.length}; the export has all.</Text>}
    </Card>
  );
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
      <Card title="Invoice">
        <Group gap="xs" align="flex-end" mb="sm">
          {session.org === "*" && (
            <TextInput key={own} size="xs" label="Organisation" placeholder="Its name" defaultValue={own}
              onBlur={(event) => set({ org: event.currentTarget.value.trim() })}
              onKeyDown={(event) => event.key === "Enter" && set({ org: event.currentTarget.value.trim() })} />
          )}
          <TextInput size="xs" type="month" label="Month (UTC)" value={month} onChange={(event) => event.currentTarget.value && set({ month: event.currentTarget.value })} />
        </Group>
        {own === "" ? <Empty title="Whose invoice?">Name an organisation.</Empty> : error ? <Failed error={error} /> : !data ? <Loading /> : (
          <div className={isFetching ? "busy" : undefined}>
            <Table aria-label={`Invoice of ${own} for ${month}`} verticalSpacing={6}>
              <Table.Thead><Table.Tr><Table.Th>Project, key, model</Table.Th><Table.Th className="num">Requests</Table.Th><Table.Th className="num">Amount</Table.Th></Table.Tr></Table.Thead>
              <Table.Tbody>
                {data.lines.slice(0, 50).map((line) => (
                  <Table.Tr key={`${line.project} ${line.key_id} ${line.model}`}>
                    <Table.Td>{line.project} · <span className="code">{line.key_id}</span> · {line.model}</Table.Td>
                    <Table.Td className="num">{count(line.requests)}</Table.Td>
                    <Table.Td className="num">{usd(line.amount_nanousd)}</Table.Td>
                  </Table.Tr>
                ))}
                {Object.entries(data.transfers).map(([kind, amount]) => (
                  <Table.Tr key={kind}><Table.Td>{kind.replace("_", " ")}</Table.Td><Table.Td /><Table.Td className="num">{usd(amount)}</Table.Td></Table.Tr>
                ))}
                <Table.Tr><Table.Th scope="row">Used in {month}</Table.Th><Table.Td /><Table.Td className="num"><b>{usd(data.usage_nanousd)}</b></Table.Td></Table.Tr>
              </Table.Tbody>
            </Table>
            {data.lines.length > 50 && <Text size="xs" c="dimmed">50 of {data.lines.length} lines; the sum is of all.</Text>}
          </div>
        )}
      </Card>
    </Stack>
  );
}
