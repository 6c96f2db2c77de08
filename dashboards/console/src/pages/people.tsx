// Who may sign in, and as what.
import { PasswordInput, Select, Text, TextInput } from "@mantine/core";
import { api, got, type Schemas } from "../api/client";
import { moment } from "../format";
import { Action, Version, versionOf } from "../parts/action";
import { Status } from "../parts/badges";
import { Listing } from "../parts/listing";
import { Card, Empty, Heading } from "../parts/states";
import { useSession } from "../session";
import { words } from "../words";

const t = words.people;

type Person = Schemas["Person"];
type Role = Person["role"];
const ROLES = [
  { value: "owner", label: t.ownerEverythingAccountsToo },
  { value: "admin", label: t.adminEverythingButAccounts },
  { value: "billing", label: t.billingReadsAllPricesAnd },
  { value: "viewer", label: t.viewerReads },
];

export default function People() {
  const { may, session } = useSession();
  return (
    <>
      <Heading title={t.people} about={t.accountsForThisConsoleFive}>
        {may("people.write") && (
          <Action
            label={t.newAccount} title={t.newAccount} confirm={t.makeIt}
            act={(given) => got(api.POST("/admin/v1/people", {
              body: {
                org: String(given.get("org") ?? "").trim() || session.org,
                email: String(given.get("email")).trim(),
                name: String(given.get("name")).trim(),
                role: String(given.get("role")) as Role,
                password: String(given.get("password")),
              },
            }))}
          >
            {session.org === "*" && <TextInput name="org" label={t.organisation} description={t.emptyTheWholeInstallation} />}
            <TextInput name="email" label={t.eMail} type="email" required data-autofocus />
            <TextInput name="name" label={t.name} required maxLength={200} />
            <Select name="role" label={t.role} data={ROLES} defaultValue="viewer" allowDeselect={false} />
            <PasswordInput name="password" label={t.firstPassword} description={t.atLeast12CharactersThe} required autoComplete="new-password" />
          </Action>
        )}
      </Heading>
      <Card>
        <Listing<Person>
          label={t.people}
          query={["people"]}
          ask={(cursor) => got(api.GET("/admin/v1/people", { params: { query: { cursor, limit: 25 } } }))}
          id={(row) => row.id}
          empty={<Empty title={t.noAccountYet}>{t.makeOneForYourselfSo}</Empty>}
          columns={[
            { name: t.name, cell: (row) => <>{row.name}<Text size="xs" c="dimmed">{row.email}</Text></> },
            { name: t.of, cell: (row) => (row.org === "*" ? t.theInstallation : row.org), extra: true },
            { name: t.role, cell: (row) => row.role },
            { name: t.state, cell: (row) => <Status status={row.disabled_s === null ? "active" : "disabled"} />, extra: true },
            { name: t.made, cell: (row) => moment(row.created_s), extra: true, line: true },
            { name: t.do, cell: (row) => (may("people.write") ? <Change person={row} /> : "—") },
          ]}
        />
      </Card>
    </>
  );
}

function Change({ person }: { person: Person }) {
  return (
    <Action
      label={t.change} size="compact-xs" variant="default" title={t.change2(person.name)} confirm={t.save}
      act={(given) => {
        const path = { person_id: person.id };
        const password = String(given.get("password"));
        return got(api.PATCH("/admin/v1/people/{person_id}", {
          params: { path, header: versionOf(given) },
          body: {
            name: String(given.get("name")).trim(),
            role: String(given.get("role")) as Role,
            disabled: given.get("state") === "disabled",
            ...(password ? { password } : {}),
          },
        }));
      }}
    >
      <Version of={`"${person.version}"`} />
      <TextInput name="name" label={t.name} defaultValue={person.name} required maxLength={200} data-autofocus />
      <Select name="role" label={t.role} data={ROLES} defaultValue={person.role} allowDeselect={false} />
      <Select name="state" label={t.state} data={[{ value: "on", label: t.maySignIn }, { value: "disabled", label: t.disabled }]} defaultValue={person.disabled_s === null ? "on" : "disabled"} allowDeselect={false} />
      <PasswordInput name="password" label={t.newPassword} description={t.emptyItStays} autoComplete="new-password" />
      <Text size="sm" c="dimmed">{t.anotherRoleANewPassword(person.name)}</Text>
    </Action>
  );
}
