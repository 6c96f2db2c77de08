// The latest requests of the process that answers, of which is known what the ledger does not hold.
import { api, got, type Schemas } from "../api/client";
import { count, duration, moment, percent, usd } from "../format";
import { words } from "../words";
import { To } from "./link";
import { Listing } from "./listing";
import { Empty } from "./states";

const t = words.latest;

export const SEEN = { waited: t.waited, audited: t.audited, served: t.served } as const;
export type Seen = keyof typeof SEEN;

export function Latest({ seen, model, replica }: { seen: Seen; model: string | undefined; replica: string | undefined }) {
  return (
    <Listing<Schemas["RequestLine"]>
      label={SEEN[seen]}
      query={["requests", "latest", seen, model, replica]}
      ask={() => got(api.GET("/admin/v1/requests/latest", { params: { query: { seen, model, replica, limit: 200 } } }))}
      id={(row) => row.request_id}
      everyMs={5_000}
      empty={<Empty title={t.none}>{t.ofTheLatest}</Empty>}
      columns={[
        { name: t.when, cell: (row) => <To to={`/requests/${row.request_id}`}>{moment(Date.parse(row.ts) / 1000)}</To>, line: true },
        { name: t.organisation, cell: (row) => <span className="clip">{row.org} / {row.project}</span>, extra: true },
        { name: t.model, cell: (row) => row.model },
        ...(seen === "served" ? [{ name: t.replicas, cell: (row: Schemas["RequestLine"]) => <span className="code">{row.replicas?.join(", ")}</span> }] : []),
        { name: t.waitedFor, cell: (row) => duration(row.queue_ms / 1000), numeric: true },
        { name: t.likeness, cell: (row) => (row.similarity == null ? "—" : percent(row.similarity, 1)), numeric: true, extra: true },
        { name: t.tokensInOut, cell: (row) => `${count(row.prompt_tokens)} / ${count(row.completion_tokens)}`, numeric: true, extra: true },
        { name: t.cost, cell: (row) => usd(row.amount_nanousd), numeric: true },
      ]}
    />
  );
}
