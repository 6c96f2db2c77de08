// Budgets and credits of which half, four fifths or everything was used.
import { api, got, type Schemas } from "../api/client";
import { moment, usd } from "../format";
import { text, useFilters } from "../parts/filters";
import { To } from "../parts/link";
import { Listing } from "../parts/listing";
import { Card, Empty, Heading } from "../parts/states";

export default function Alerts() {
  const [filters] = useFilters();
  const org = text(filters.org);
  return (
    <>
      <Heading title="Alerts" about="Written when 50, 80 and 100 % of a budget or credit are used; webhooks tell your own systems." />
      <Card>
        <Listing<Schemas["Alert"]>
          label="Alerts"
          query={["alerts", org]}
          ask={(cursor) => got(api.GET("/admin/v1/alerts", { params: { query: { org, cursor, limit: 50 } } }))}
          id={(row) => row.id}
          everyMs={30_000}
          empty={<Empty title="No alert">Give an <To to="/tenants">organisation</To>, project or key a budget; you are told before it is used up.</Empty>}
          columns={[
            { name: "When", cell: (row) => moment(row.ts) },
            { name: "Whose", cell: (row) => <To to="/requests" search={{ org: row.org, project: row.project || undefined, key_id: row.key_id || undefined }}>{row.account}</To> },
            { name: "What", cell: (row) => `${row.kind}, ${row.period}`, extra: true },
            { name: "Used", cell: (row) => `${row.threshold_percent} %`, numeric: true },
            { name: "Spent of", cell: (row) => `${usd(row.used_nanousd)} / ${usd(row.limit_nanousd)}`, numeric: true, extra: true },
          ]}
        />
      </Card>
    </>
  );
}
