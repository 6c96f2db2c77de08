// Organisations: who is billed.
import { Group, Text, TextInput } from "@mantine/core";
import { useNavigate } from "@tanstack/react-router";
import { api, got, type Schemas } from "../api/client";
import { moment } from "../format";
import { Action } from "../parts/action";
import { Filter } from "../parts/filter";
import { text, useFilters } from "../parts/filters";
import { To } from "../parts/link";
import { Listing } from "../parts/listing";
import { Card, Empty, Heading } from "../parts/states";
import { NewTerms, newTerms, TermsText } from "../parts/terms";
import { useSession } from "../session";
import { words } from "../words";

const t = words.tenants;

export default function Tenants() {
  const [filters, set] = useFilters();
  const { may } = useSession();
  const name = text(filters.name);
  return (
    <>
      <Heading title={t.organisations} about={t.anOrganisationHasProjectsA}>
        {may("orgs.write") && <NewOrganisation />}
      </Heading>
      <Card>
        <Group mb="sm" role="search" aria-label={t.filterOrganisations}><Filter label={t.name} width={260} hint={t.theExactName} value={name} set={(value) => set({ name: value })} /></Group>
        <Listing<Schemas["Organisation"]>
          label={t.organisations}
          query={["orgs", name]}
          ask={(cursor) => got(api.GET("/admin/v1/orgs", { params: { query: { name, cursor, limit: 25 } } }))}
          id={(row) => row.id}
          empty={name ? <Empty title={t.noOrganisationHasThisName}>{t.namesAreComparedWhole}</Empty> : <Empty title={t.noOrganisationYet}>{t.makeTheFirstOneIt}</Empty>}
          columns={[
            { name: t.name, cell: (row) => <><To to={`/tenants/${row.id}`}>{row.name}</To>{row.title && <Text size="xs" c="dimmed">{row.title}</Text>}</> },
            { name: t.limits, cell: (row) => <TermsText terms={row.terms} />, extra: true },
            { name: t.made, cell: (row) => moment(row.created_s), extra: true, line: true },
            { name: t.lookAt, cell: (row) => <><To to="/requests" search={{ org: row.name }}>{t.requests}</To> · <To to="/usage" search={{ org: row.name }}>{t.usage}</To></>, line: true },
          ]}
        />
      </Card>
    </>
  );
}

function NewOrganisation() {
  const navigate = useNavigate();
  return (
    <Action
      label={t.newOrganisation} title={t.newOrganisation} confirm={t.makeIt}
      act={async (given) => {
        const body = { name: String(given.get("name")).trim(), title: String(given.get("title")).trim(), terms: newTerms(given) };
        const made = await got(api.POST("/admin/v1/orgs", { body }));
        await navigate({ to: `/tenants/${made.id}` });
      }}
    >
      <TextInput name="name" label={t.name} description={t.itsIdentityItNeverChanges} required maxLength={200} data-autofocus />
      <TextInput name="title" label={t.title} description={t.shownToPeople} maxLength={200} />
      <NewTerms />
    </Action>
  );
}
