// Budgets and credits of which half, four fifths or everything was used.
import { api, got, type Schemas } from "../api/client";
import { moment, usd } from "../format";
import { text, useFilters } from "../parts/filters";
import { To } from "../parts/link";
import { Listing } from "../parts/listing";
import { Card, Empty, Heading } from "../parts/states";
import { words } from "../words";

const t = words.alerts;

export default function Alerts() {
  const [filters] = useFilters();
  const org = text(filters.org);
  return (
    <>
      <Heading title={t.alerts} about={t.writtenWhen5080And} />
      <Card>
        <Listing<Schemas["Alert"]>
          label={t.alerts}
          query={["alerts", org]}
          ask={(cursor) => got(api.GET("/admin/v1/alerts", { params: { query: { org, cursor, limit: 50 } } }))}
          id={(row) => row.id}
          everyMs={30_000}
          empty={<Empty title={t.noAlert}>{t.giveAnOrganisationProjectOr()}</Empty>}
          columns={[
            { name: t.when, cell: (row) => moment(row.ts), line: true },
            { name: t.whose, cell: (row) => <To to="/requests" search={{ org: row.org, project: row.project || undefined, key_id: row.key_id || undefined }}>{row.account}</To> },
            { name: t.what, cell: (row) => `${row.kind}, ${row.period}`, extra: true },
            { name: t.used, cell: (row) => `${row.threshold_percent} %`, numeric: true },
            { name: t.spentOf, cell: (row) => `${usd(row.used_nanousd)} / ${usd(row.limit_nanousd)}`, numeric: true, extra: true },
          ]}
        />
      </Card>
    </>
  );
}
