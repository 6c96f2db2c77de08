// One organisation: its limits, what is left of its credit, its projects.
import { SimpleGrid, Stack, Text, TextInput } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useParams } from "@tanstack/react-router";
import { api, got, gotVersioned, type Schemas } from "../api/client";
import { moment } from "../format";
import { Action, Version, versionOf } from "../parts/action";
import { Balance } from "../parts/balance";
import { To } from "../parts/link";
import { Listing } from "../parts/listing";
import { Card, Empty, Failed, Heading, isMissing, Loading, Missing } from "../parts/states";
import { NewTerms, newTerms, TermsFields, termsOf, TermsText } from "../parts/terms";
import { useSession } from "../session";
import { words } from "../words";

const t = words.organisation;

export default function OrganisationPage() {
  const { id } = useParams({ strict: false }) as { id: string };
  const { may } = useSession();
  const { data, error, isPending, refetch } = useQuery({
    queryKey: ["orgs", "one", id],
    queryFn: () => gotVersioned(api.GET("/admin/v1/orgs/{org_id}", { params: { path: { org_id: id } } })),
  });
  if (isPending) return <Loading />;
  if (isMissing(error)) return <Missing what="organisation" id={id}><To to="/tenants">{t.allOrganisations}</To></Missing>;
  if (error) return <Failed error={error} again={() => void refetch()} />;
  const { value: org, etag } = data;
  return (
    <>
      <Heading title={org.name} about={t.titleRequestsAll(org.title, <To to="/requests" search={{ org: org.name }}>{t.itsRequests}</To>, <To to="/usage" search={{ org: org.name }}>{t.itsUsage}</To>)}>
        {may("orgs.write") && (
          <Action
            label={t.change} variant="default" title={t.change2(org.name)} confirm={t.save}
            act={(given) => got(api.PATCH("/admin/v1/orgs/{org_id}", {
              params: { path: { org_id: id }, header: versionOf(given) },
              body: { title: String(given.get("title")), terms: termsOf(given) },
            }))}
          >
            <TextInput name="title" label={t.title} defaultValue={org.title} maxLength={200} data-autofocus />
            <Version of={etag} />
            <TermsFields terms={org.terms} />
          </Action>
        )}
      </Heading>
      <Stack>
        <SimpleGrid cols={{ base: 1, sm: 2 }}>
          <Card title={t.limits}><TermsText terms={org.terms} /></Card>
          {may("money.read") && <Balance account={`org:${org.name}`} org={org.name} />}
        </SimpleGrid>
        <Card title={t.projects} side={may("tenants.write") && <NewProject org={org.name} />}>
          <Listing<Schemas["Project"]>
            label={t.projects}
            query={["projects", org.name]}
            ask={(cursor) => got(api.GET("/admin/v1/projects", { params: { query: { org: org.name, cursor, limit: 25 } } }))}
            id={(row) => row.id}
            empty={<Empty title={t.noProjectYet}>{t.keysBelongToAProject}</Empty>}
            columns={[
              { name: t.name, cell: (row) => <><To to={`/projects/${row.id}`}>{row.name}</To>{row.title && <Text size="xs" c="dimmed">{row.title}</Text>}</> },
              { name: t.limits, cell: (row) => <TermsText terms={row.terms} />, extra: true },
              { name: t.made, cell: (row) => moment(row.created_s), extra: true, line: true },
              { name: t.lookAt, cell: (row) => <To to="/requests" search={{ org: row.org, project: row.name }}>{t.requests}</To>, line: true },
            ]}
          />
        </Card>
      </Stack>
    </>
  );
}

function NewProject({ org }: { org: string }) {
  const navigate = useNavigate();
  return (
    <Action
      label={t.newProject} size="xs" title={t.newProjectOf(org)} confirm={t.makeIt}
      act={async (given) => {
        const body = { org, name: String(given.get("name")).trim(), title: String(given.get("title")).trim(), terms: newTerms(given) };
        const made = await got(api.POST("/admin/v1/projects", { body }));
        await navigate({ to: `/projects/${made.id}` });
      }}
    >
      <TextInput name="name" label={t.name} description={t.itsIdentityItNeverChanges} required maxLength={200} data-autofocus />
      <TextInput name="title" label={t.title} maxLength={200} />
      <NewTerms />
    </Action>
  );
}
