// Every settled request, newest first; the filters are the address.
import { MultiSelect, Select, TextInput } from "@mantine/core";
import { api, got, type Schemas } from "../api/client";
import type { paths } from "../api/schema";
import { count, moment, usd } from "../format";
import { Filter, Filters } from "../parts/filter";
import { text, useFilters } from "../parts/filters";
import { Latest, SEEN, type Seen } from "../parts/latest";
import { To } from "../parts/link";
import { Listing } from "../parts/listing";
import { Card, Empty, Heading } from "../parts/states";
import { Source, SOURCES, Status } from "../parts/badges";
import { useSession } from "../session";
import { words } from "../words";

const t = words.requests;

type Row = Schemas["RequestRow"];
type Asked = NonNullable<paths["/admin/v1/requests"]["get"]["parameters"]["query"]>;
type Outcome = NonNullable<Asked["status"]>[number];
type Answer = NonNullable<Asked["source"]>[number];
const OUTCOMES: Outcome[] = ["ok", "refused", "error", "cancelled", "interrupted", "stopped"];
const FIELDS = { request_id: t.requestId, org: t.organisation, project: t.project, key_id: t.keyId, model: t.model, route: t.route } as const;

export default function Requests() {
  const [filters, set] = useFilters();
  const seen = text(filters.seen) as Seen | undefined;
  if (!seen || !(seen in SEEN)) return <Settled />;
  return (
    <>
      <Heading title={t.requests} about={t.whatTheLedgerDoesNotHold} />
      <Card>
        <Filters label={t.filterRequests} active={Object.keys(filters).length}>
          <Filter label={t.model} value={text(filters.model)} set={(model) => set({ model })} />
          <Filter label={t.replica} value={text(filters.replica)} set={(replica) => set({ replica })} />
          <Noted value={seen} set={(value) => set({ seen: value })} />
        </Filters>
        <Latest seen={seen} model={text(filters.model)} replica={text(filters.replica)} />
      </Card>
    </>
  );
}

function Noted({ value, set }: { value: Seen | null; set: (value: string | undefined) => void }) {
  return <Select size="xs" w={190} label={t.noted} placeholder={t.any} clearable value={value} data={Object.entries(SEEN).map(([name, label]) => ({ value: name, label }))} onChange={(chosen) => set(chosen ?? undefined)} />;
}

function Settled() {
  const [filters, set] = useFilters();
  const { session } = useSession();
  const wanted = Object.fromEntries([...Object.keys(FIELDS)].map((name) => [name, text(filters[name])]));
  const one_of = { status: several<Outcome>(filters.status), source: several<Answer>(filters.source) };
  const span = { from_s: seconds(filters.from), to_s: seconds(filters.to) };
  const active = Object.keys(filters).length;
  return (
    <>
      <Heading title={t.requests} about={t.requestsThatHaveBeenSettled} />
      <Card>
      <Filters label={t.filterRequests} active={active}>
        {Object.entries(FIELDS)
          .filter(([name]) => name !== "org" || session.org === "*")
          .map(([name, label]) => (
            <Filter key={name} label={label} value={text(filters[name])} set={(value) => set({ [name]: value })} />
          ))}
        <Several label={t.outcome} value={one_of.status} data={OUTCOMES.map((value) => ({ value, label: value }))} set={(status) => set({ status })} />
        <Several label={t.answer} value={one_of.source} data={Object.entries(SOURCES).map(([value, label]) => ({ value, label }))} set={(source) => set({ source })} />
        <Noted value={null} set={(seen) => set({ seen })} />
        <TextInput size="xs" type="datetime-local" label={t.from} value={local(span.from_s)} onChange={(event) => set({ from: stamp(event.currentTarget.value) })} />
        <TextInput size="xs" type="datetime-local" label={t.before} value={local(span.to_s)} onChange={(event) => set({ to: stamp(event.currentTarget.value) })} />
      </Filters>
      <Listing<Row>
        label={t.requests}
        query={["requests", wanted, one_of, span]}
        ask={(cursor) => got(api.GET("/admin/v1/requests", { params: { query: { ...wanted, ...one_of, ...span, cursor, limit: 50 } } }))}
        id={(row) => row.request_id}
        everyMs={10_000}
        empty={
          active > 0 ? (
            <Empty title={t.noRequestFits}>{t.takeAFilterAwayOr}</Empty>
          ) : (
            <Empty title={t.noRequestYet}>{t.makeAKeyAndTry()}</Empty>
          )
        }
        columns={[
          { name: t.when, cell: (row) => <To to={`/requests/${row.request_id}`}>{moment(row.ts)}</To>, line: true },
          { name: t.organisation, cell: (row) => <span className="clip">{row.org} / {row.project}</span>, extra: true },
          { name: t.model, cell: (row) => <>{row.model}{row.route && <span className="wide">{t.via(row.route)}</span>}</>, line: true },
          { name: t.answer, cell: (row) => <Source source={row.source} />, extra: true },
          { name: t.outcome, cell: (row) => <Status status={row.status} /> },
          { name: t.tokensInOut, cell: (row) => `${count(row.prompt_tokens)} / ${count(row.completion_tokens)}`, numeric: true, extra: true },
          { name: t.cost, cell: (row) => usd(row.amount_nanousd), numeric: true },
        ]}
      />
      </Card>
    </>
  );
}

interface SeveralProps { label: string; value: string[] | undefined; data: { value: string; label: string }[]; set: (value: string) => void }

function Several({ label, value, data, set }: SeveralProps) {
  return <MultiSelect size="xs" miw={132} maw={280} label={label} clearable placeholder={value ? undefined : t.any} value={value ?? []} data={data} onChange={(chosen) => set(chosen.join(","))} />;
}

/** Values that the address holds with commas between. */
function several<T extends string>(value: unknown): T[] | undefined {
  return text(value)?.split(",") as T[] | undefined;
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
