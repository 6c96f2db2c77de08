// Who may sign in, and as what.
import { PasswordInput, Select, Text, TextInput } from "@mantine/core";
import { api, got, gotVersioned, type Schemas } from "../api/client";
import { moment } from "../format";
import { Action } from "../parts/action";
import { Status } from "../parts/badges";
import { Listing } from "../parts/listing";
import { Card, Empty, Heading } from "../parts/states";
import { useSession } from "../session";

type Person = Schemas["Person"];
type Role = Person["role"];
const ROLES = [
  { value: "owner", label: "Owner: everything, accounts too" },
  { value: "admin", label: "Admin: everything but accounts" },
  { value: "billing", label: "Billing: reads all, prices and credit" },
  { value: "viewer", label: "Viewer: reads" },
];

export default function People() {
  const { may, session } = useSession();
  return (
    <>
      <Heading title="People" about="Accounts for this console. Five failed sign-ins lock one for a quarter of an hour.">
        {may("people.write") && (
          <Action
            label="New account" title="New account" confirm="Make it"
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
            {session.org === "*" && <TextInput name="org" label="Organisation" description="Empty: the whole installation." />}
            <TextInput name="email" label="E-mail" type="email" required data-autofocus />
            <TextInput name="name" label="Name" required maxLength={200} />
            <Select name="role" label="Role" data={ROLES} defaultValue="viewer" allowDeselect={false} />
            <PasswordInput name="password" label="First password" description="At least 12 characters; the person changes it in the settings." required autoComplete="new-password" />
          </Action>
        )}
      </Heading>
      <Card>
        <Listing<Person>
          label="People"
          query={["people"]}
          ask={(cursor) => got(api.GET("/admin/v1/people", { params: { query: { cursor, limit: 25 } } }))}
          id={(row) => row.id}
          empty={<Empty title="No account yet">Make one for yourself, so that the admin key can stay in its safe and the audit log names you.</Empty>}
          columns={[
            { name: "Name", cell: (row) => <>{row.name}<Text size="xs" c="dimmed">{row.email}</Text></> },
            { name: "Of", cell: (row) => (row.org === "*" ? "the installation" : row.org), extra: true },
            { name: "Role", cell: (row) => row.role },
            { name: "State", cell: (row) => <Status status={row.disabled_s === null ? "active" : "disabled"} />, extra: true },
            { name: "Made", cell: (row) => moment(row.created_s), extra: true },
            { name: "Do", cell: (row) => (may("people.write") ? <Change person={row} /> : "—") },
          ]}
        />
      </Card>
    </>
  );
}

function Change({ person }: { person: Person }) {
  return (
    <Action
      label="Change" size="compact-xs" variant="default" title={`Change ${person.name}`} confirm="Save"
      act={async (given) => {
        const path = { person_id: person.id };
        const { etag } = await gotVersioned(api.GET("/admin/v1/people/{person_id}", { params: { path } }));
        const password = String(given.get("password"));
        return got(api.PATCH("/admin/v1/people/{person_id}", {
          params: { path, header: { "if-match": etag } },
          body: {
            name: String(given.get("name")).trim(),
            role: String(given.get("role")) as Role,
            disabled: given.get("state") === "disabled",
            ...(password ? { password } : {}),
          },
        }));
      }}
    >
      <TextInput name="name" label="Name" defaultValue={person.name} required maxLength={200} data-autofocus />
      <Select name="role" label="Role" data={ROLES} defaultValue={person.role} allowDeselect={false} />
      <Select name="state" label="State" data={[{ value: "on", label: "May sign in" }, { value: "disabled", label: "Disabled" }]} defaultValue={person.disabled_s === null ? "on" : "disabled"} allowDeselect={false} />
      <PasswordInput name="password" label="New password" description="Empty: it stays." autoComplete="new-password" />
      <Text size="sm" c="dimmed">Another role, a new password and disabling end the sessions of {person.name}.</Text>
    </Action>
  );
}
