// API keys, wherever they are listed and made. A key's text is shown once, in the answer to making it.
import { Checkbox, Code, Group, Select, Stack, Text, TextInput } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, got, type Schemas } from "../api/client";
import { moment } from "../format";
import { Action, Secret } from "./action";
import { Status } from "./badges";
import { To } from "./link";
import { Listing } from "./listing";
import { Empty, Failed } from "./states";
import { NewTerms, newTerms, TermsText } from "./terms";
import { words } from "../words";

const t = words.keys;

type Key = Schemas["ShownKey"];

export function stateOf(key: Key): string {
  if (key.revoked_s !== null) return "revoked";
  return key.expires_s !== null && key.expires_s * 1000 < Date.now() ? "expired" : "active";
}

export function KeyList({ filters }: { filters: { org?: string; project?: string; name?: string } }) {
  return (
    <Listing<Key>
      label={t.apiKeys}
      query={["keys", filters]}
      ask={(cursor) => got(api.GET("/admin/v1/keys", { params: { query: { ...filters, cursor, limit: 25 } } }))}
      id={(row) => row.id}
      empty={<Empty title={t.noKey}>{t.makeOneItsTextIs}</Empty>}
      columns={[
        { name: t.name, cell: (row) => <><To to={`/keys/${row.id}`}>{row.name}</To><Text size="xs" c="dimmed" className="code">{row.prefix ? `${row.prefix}…` : row.id}</Text></> },
        { name: t.of, cell: (row) => <span className="clip">{row.org} / {row.project}</span>, extra: true },
        { name: t.state, cell: (row) => <Status status={stateOf(row)} /> },
        { name: t.limits, cell: (row) => <TermsText terms={row.terms} />, extra: true },
        { name: t.made, cell: (row) => moment(row.created_s), extra: true, line: true },
      ]}
    />
  );
}

/** Makes a key, of a project that is given or chosen. */
export function NewKey({ project }: { project?: Schemas["Project"] }) {
  const [chosen, setChosen] = useState<string | null>(null);
  const id = project?.id ?? chosen;
  return (
    <Action
      label={t.newKey} size={project ? "xs" : "sm"} title={project ? t.newKeyOf(project.org, project.name) : t.newKey} confirm={t.makeIt}
      act={(given) => {
        if (!id) throw new Error(t.chooseTheProjectThatThe);
        const until = String(given.get("expires") ?? "");
        return got(api.POST("/admin/v1/keys", {
          body: {
            project_id: id,
            name: String(given.get("name")).trim(),
            scopes: given.getAll("scopes") as Key["scopes"],
            expires_s: until ? new Date(until).getTime() / 1000 : null,
            terms: newTerms(given),
          },
        }));
      }}
      shows={(made: Schemas["MadeKey"]) => <Shown made={made} />}
    >
      {!project && <Projects chosen={chosen} choose={setChosen} />}
      <TextInput name="name" label={t.name} description={t.whatUsesIt} required maxLength={200} data-autofocus />
      <Checkbox.Group label={t.may} defaultValue={["inference"]}>
        <Group mt={4}>
          <Checkbox name="scopes" value="inference" label={t.useModels} />
          <Checkbox name="scopes" value="usage" label={t.readItsUsage} />
          <Checkbox name="scopes" value="admin" label={t.administerItsOrganisation} />
        </Group>
      </Checkbox.Group>
      <TextInput name="expires" type="datetime-local" label={t.ends} description={t.emptyNever} />
      <NewTerms />
    </Action>
  );
}

/** Which project a key is of; looked for when the form is opened. */
function Projects({ chosen, choose }: { chosen: string | null; choose: (id: string | null) => void }) {
  const { data, error } = useQuery({
    queryKey: ["projects", "all"],
    queryFn: () => got(api.GET("/admin/v1/projects", { params: { query: { limit: 200 } } })),
  });
  if (error) return <Failed error={error} />;
  return (
    <Select
      label={t.project} required searchable placeholder={t.choose} value={chosen} onChange={choose} nothingFoundMessage={t.noSuchProject}
      data={data?.data.map((one) => ({ value: one.id, label: `${one.org} / ${one.name}` })) ?? []}
      description={data?.data.length === 0 ? t.thereIsNoProjectYet : data?.next ? t.theFirst(data.data.length) : undefined}
    />
  );
}

export function Shown({ made }: { made: Schemas["MadeKey"] }) {
  const python = `from openai import OpenAI\nclient = OpenAI(base_url="${location.origin}/v1", api_key="${made.key}")`;
  return (
    <Stack gap="xs">
      <Secret name={t.theKey(made.name)} text={made.key} />
      <Text size="sm">{t.inPython}</Text>
      <Code block style={{ whiteSpace: "pre-wrap" }} tabIndex={0}>{python}</Code>
    </Stack>
  );
}
