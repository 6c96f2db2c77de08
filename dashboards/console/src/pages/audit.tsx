// Who changed what, with before and after.
import { Group, Text } from "@mantine/core";
import { api, got, type Schemas } from "../api/client";
import { moment } from "../format";
import { Filter } from "../parts/filter";
import { text, useFilters } from "../parts/filters";
import { Listing } from "../parts/listing";
import { Card, Empty, Heading } from "../parts/states";
import { fields, told } from "../told";
import { words } from "../words";

const t = words.audit;

type Line = Schemas["changes_Line"];
const FIELDS = { actor: t.who, action: t.what, subject: t.whomId } as const;

export default function Audit() {
  const [filters, set] = useFilters();
  const wanted = Object.fromEntries(Object.keys(FIELDS).map((name) => [name, text(filters[name])]));
  return (
    <>
      <Heading title={t.auditLog} about={t.everyChangeThroughThis} />
      <Card>
        <Group gap="xs" mb="sm" role="search" aria-label={t.filterTheAuditLog}>
          {Object.entries(FIELDS).map(([name, label]) => (
            <Filter key={name} label={label} width={190} hint={t.exact} value={text(filters[name])} set={(value) => set({ [name]: value })} />
          ))}
        </Group>
        <Listing<Line>
          label={t.changes}
          query={["audit", wanted]}
          ask={(cursor) => got(api.GET("/admin/v1/audit", { params: { query: { ...wanted, cursor, limit: 25 } } }))}
          id={(row) => row.id}
          empty={<Empty title={t.noChangeFits}>{t.whatSomebodyChangesStands}</Empty>}
          columns={[
            { name: t.when, cell: (row) => moment(row.ts), line: true },
            { name: t.who, cell: (row) => <span className="code">{row.actor}</span>, extra: true },
            { name: t.what, cell: (row) => <>{row.action}<Text size="xs" c="dimmed" className="code">{row.subject}</Text></> },
            { name: t.change, cell: (row) => <Difference before={row.before} after={row.after} /> },
          ]}
        />
      </Card>
    </>
  );
}

/** The fields that differ, each before and after. */
function Difference({ before, after }: { before: unknown; after: unknown }) {
  const [old, now] = [fields(before), fields(after)];
  const names = [...new Set([...Object.keys(old), ...Object.keys(now)])].filter((name) => told(name, old[name]) !== told(name, now[name]));
  if (names.length === 0) return <>—</>;
  return (
    <details>
      <summary>{names.slice(0, 3).join(", ")}{names.length > 3 ? t.andMore(names.length - 3) : ""}</summary>
      <dl className="fields">
        {names.map((name) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd className="code">{name in old ? t.became(told(name, old[name]), told(name, now[name])) : told(name, now[name])}</dd>
          </div>
        ))}
      </dl>
    </details>
  );
}
