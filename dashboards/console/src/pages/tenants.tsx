// Organisations: who is billed.
import { Text, TextInput } from "@mantine/core";
import { useNavigate } from "@tanstack/react-router";
import { api, got, type Schemas } from "../api/client";
import { moment } from "../format";
import { Action } from "../parts/action";
import { text, useFilters } from "../parts/filters";
import { To } from "../parts/link";
import { Listing } from "../parts/listing";
import { Card, Empty, Heading } from "../parts/states";
import { NewTerms, newTerms, TermsText } from "../parts/terms";
import { useSession } from "../session";

export default function Tenants() {
  const [filters, set] = useFilters();
  const { may } = useSession();
  const name = text(filters.name);
  return (
    <>
      <Heading title="Organisations" about="An organisation has projects, a project has API keys. The tightest limit of the three holds.">
        {may("orgs.write") && <NewOrganisation />}
      </Heading>
      <Card>
        <TextInput
          size="xs" mb="sm" maw={260} label="Name" placeholder="The exact name" defaultValue={name}
          onKeyDown={(event) => event.key === "Enter" && set({ name: event.currentTarget.value.trim() })}
          onBlur={(event) => set({ name: event.currentTarget.value.trim() })}
        />
        <Listing<Schemas["Organisation"]>
          label="Organisations"
          query={["orgs", name]}
          ask={(cursor) => got(api.GET("/admin/v1/orgs", { params: { query: { name, cursor, limit: 25 } } }))}
          id={(row) => row.id}
          empty={name ? <Empty title="No organisation has this name">Names are compared whole.</Empty> : <Empty title="No organisation yet">Make the first one; it gets projects and keys next.</Empty>}
          columns={[
            { name: "Name", cell: (row) => <><To to={`/tenants/${row.id}`}>{row.name}</To>{row.title && <Text size="xs" c="dimmed">{row.title}</Text>}</> },
            { name: "Limits", cell: (row) => <TermsText terms={row.terms} />, extra: true },
            { name: "Made", cell: (row) => moment(row.created_s), extra: true },
            { name: "Look at", cell: (row) => <><To to="/requests" search={{ org: row.name }}>requests</To> · <To to="/usage" search={{ org: row.name }}>usage</To></> },
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
      label="New organisation" title="New organisation" confirm="Make it"
      act={async (given) => {
        const body = { name: String(given.get("name")).trim(), title: String(given.get("title")).trim(), terms: newTerms(given) };
        const made = await got(api.POST("/admin/v1/orgs", { body }));
        await navigate({ to: `/tenants/${made.id}` });
      }}
    >
      <TextInput name="name" label="Name" description="Its identity: it never changes." required maxLength={200} data-autofocus />
      <TextInput name="title" label="Title" description="Shown to people." maxLength={200} />
      <NewTerms />
    </Action>
  );
}
