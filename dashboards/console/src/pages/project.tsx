// One project: its limits and its keys.
import { SimpleGrid, Stack, TextInput } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useParams } from "@tanstack/react-router";
import { api, got, gotVersioned } from "../api/client";
import { Action, Version, versionOf } from "../parts/action";
import { Balance } from "../parts/balance";
import { KeyList, NewKey } from "../parts/keys";
import { To } from "../parts/link";
import { Card, Failed, Heading, isMissing, Loading, Missing } from "../parts/states";
import { TermsFields, termsOf, TermsText } from "../parts/terms";
import { useSession } from "../session";
import { words } from "../words";

const t = words.project;

export default function ProjectPage() {
  const { id } = useParams({ strict: false }) as { id: string };
  const { may } = useSession();
  const { data, error, isPending, refetch } = useQuery({
    queryKey: ["projects", "one", id],
    queryFn: () => gotVersioned(api.GET("/admin/v1/projects/{project_id}", { params: { path: { project_id: id } } })),
  });
  if (isPending) return <Loading />;
  if (isMissing(error)) return <Missing what="project" id={id}><To to="/tenants">{t.allOrganisations}</To></Missing>;
  if (error) return <Failed error={error} again={() => void refetch()} />;
  const { value: project, etag } = data;
  return (
    <>
      <Heading title={`${project.org} / ${project.name}`} about={<>{project.title} <To to="/requests" search={{ org: project.org, project: project.name }}>{t.itsRequests}</To></>}>
        {may("tenants.write") && (
          <Action
            label={t.change} variant="default" title={t.change2(project.name)} confirm={t.save}
            act={(given) => got(api.PATCH("/admin/v1/projects/{project_id}", {
              params: { path: { project_id: id }, header: versionOf(given) },
              body: { title: String(given.get("title")), terms: termsOf(given) },
            }))}
          >
            <TextInput name="title" label={t.title} defaultValue={project.title} maxLength={200} data-autofocus />
            <Version of={etag} />
            <TermsFields terms={project.terms} />
          </Action>
        )}
      </Heading>
      <Stack>
        <SimpleGrid cols={{ base: 1, sm: 2 }}>
          <Card title={t.limits}><TermsText terms={project.terms} /></Card>
          {may("money.read") && <Balance account={`project:${project.org}/${project.name}`} org={project.org} />}
        </SimpleGrid>
        <Card title={t.apiKeys} side={may("tenants.write") && <NewKey project={project} />}>
          <KeyList filters={{ org: project.org, project: project.name }} />
        </Card>
      </Stack>
    </>
  );
}
