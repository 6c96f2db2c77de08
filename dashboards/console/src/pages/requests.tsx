// Every settled request, newest first; the filters are the address.
import { Group, Select, TextInput } from "@mantine/core";
import { api, got, type Schemas } from "../api/client";
import { count, moment, usd } from "../format";
import { text, useFilters } from "../parts/filters";
import { To } from "../parts/link";
import { Listing } from "../parts/listing";
import { Card, Empty, Heading } from "../parts/states";
import { Source, Status } from "../parts/badges";
import { useSession } from "../session";

type Row = Schemas["RequestRow"];
const FIELDS = { request_id: "Request id", org: "Organisation", project: "Project", key_id: "Key id", model: "Model" } as const;

export default function Requests() {
  const [filters, set] = useFilters();
  const { session } = useSession();
  const wanted = Object.fromEntries([...Object.keys(FIELDS), "status"].map((name) => [name, text(filters[name])]));
  const span = { from_s: seconds(filters.from), to_s: seconds(filters.to) };
  const filtered = Object.keys(filters).length > 0;
  return (
    <>
      <Heading title="Requests" about="Requests that have been settled. Times are in your zone." />
      <Card>
      <Group gap="xs" mb="md" align="flex-end" role="search" aria-label="Filter requests">
        {Object.entries(FIELDS)
          .filter(([name]) => name !== "org" || session.org === "*")
          .map(([name, label]) => (
            <Filter key={name} label={label} value={text(filters[name]) ?? ""} set={(value) => set({ [name]: value })} />
          ))}
        <Select
          size="xs" label="Outcome" w={120} clearable placeholder="Any" value={text(filters.status) ?? null}
          data={["ok", "error", "cancelled", "interrupted", "stopped"]} onChange={(value) => set({ status: value ?? undefined })}
        />
        <TextInput size="xs" type="datetime-local" label="From" value={local(span.from_s)} onChange={(event) => set({ from: stamp(event.currentTarget.value) })} />
        <TextInput size="xs" type="datetime-local" label="Before" value={local(span.to_s)} onChange={(event) => set({ to: stamp(event.currentTarget.value) })} />
      </Group>
      <Listing<Row>
        label="Requests"
        query={["requests", wanted, span]}
        ask={(cursor) => got(api.GET("/admin/v1/requests", { params: { query: { ...wanted, ...span, cursor, limit: 50 } } }))}
        id={(row) => row.request_id}
        everyMs={10_000}
        empty={
          filtered ? (
            <Empty title="No request fits">Take a filter away, or choose a longer span.</Empty>
          ) : (
            <Empty title="No request yet">Make a <To to="/keys">key</To> and try it in the <To to="/playground">playground</To>.</Empty>
          )
        }
        columns={[
          { name: "When", cell: (row) => <span className="when"><To to={`/requests/${row.request_id}`}>{moment(row.ts)}</To></span> },
          { name: "Organisation", cell: (row) => <span className="clip">{row.org} / {row.project}</span>, extra: true },
          { name: "Model", cell: (row) => <>{row.model}{row.route && <span style={{ opacity: 0.75 }}> via {row.route}</span>}</> },
          { name: "Answer", cell: (row) => <Source source={row.source} />, extra: true },
          { name: "Outcome", cell: (row) => <Status status={row.status} /> },
          { name: "Tokens in / out", cell: (row) => `${count(row.prompt_tokens)} / ${count(row.completion_tokens)}`, numeric: true, extra: true },
          { name: "Cost", cell: (row) => usd(row.amount_nanousd), numeric: true },
        ]}
      />
      </Card>
    </>
  );
}

function Filter({ label, value, set }: { label: string; value: string; set: (value: string) => void }) {
  return (
    <TextInput
      key={value} size="xs" w={132} label={label} defaultValue={value} placeholder="Any"
      onBlur={(event) => event.currentTarget.value.trim() !== value && set(event.currentTarget.value.trim())}
      onKeyDown={(event) => event.key === "Enter" && set(event.currentTarget.value.trim())}
    />
  );
}

function seconds(value: unknown): number | undefined {
  const found = Number(value);
  return value === undefined || value === "" || Number.isNaN(found) ? undefined : found;
}

function local(ts: number | undefined): string {
  if (ts === undefined) return "";
  const at = new Date(ts * 1000);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

function stamp(value: string): string | undefined {
  return value ? String(Math.floor(new Date(value).getTime() / 1000)) : undefined;
}
