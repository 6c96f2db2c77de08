// The price book, and money that moves otherwise than by a request.
import { NumberInput, Select, Stack, Tabs, Text, TextInput } from "@mantine/core";
import { api, got, type Schemas } from "../api/client";
import { moment, usd } from "../format";
import { Action } from "../parts/action";
import { Books } from "../parts/books";
import { text, useFilters } from "../parts/filters";
import { To } from "../parts/link";
import { Listing } from "../parts/listing";
import { Card, Empty, Heading } from "../parts/states";
import { useSession } from "../session";

type Price = Schemas["prices_Line"];
type Kind = Schemas["NewCredit"]["kind"];
const MILLION = 1_000_000;

export default function Billing() {
  const [filters, set] = useFilters();
  return (
    <>
      <Heading title="Prices & credit" about="A price is added or ended, never changed; what was billed keeps the price of its moment." />
      <Tabs value={text(filters.tab) ?? (filters.org ? "credit" : "prices")} onChange={(tab) => tab && set({ tab })} keepMounted={false}>
        <Tabs.List mb="md">
          <Tabs.Tab value="prices">Price book</Tabs.Tab>
          <Tabs.Tab value="credit">Credit</Tabs.Tab>
          <Tabs.Tab value="ledger">Ledger</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="prices"><Prices /></Tabs.Panel>
        <Tabs.Panel value="credit"><Credit org={text(filters.org)} /></Tabs.Panel>
        <Tabs.Panel value="ledger"><Ledger org={text(filters.org)} /></Tabs.Panel>
      </Tabs>
    </>
  );
}

function Prices() {
  const { may } = useSession();
  return (
    <Card title="Price book, USD per million tokens" side={may("money.write") && <NewPrice />}>
      <Listing<Price>
        label="Prices"
        query={["prices"]}
        ask={(cursor) => got(api.GET("/admin/v1/prices", { params: { query: { cursor, limit: 25 } } }))}
        id={(row) => row.id}
        empty={<Empty title="No price">Requests to a model without a price are refused. Add one.</Empty>}
        columns={[
          { name: "Model", cell: (row) => <>{row.model}<Text size="xs" c="dimmed">{row.org ? `for ${row.org}` : "for everybody"}</Text></> },
          { name: "In", cell: (row) => usd(row.input_nanousd * MILLION), numeric: true },
          { name: "In, cached", cell: (row) => usd(row.cached_input_nanousd * MILLION), numeric: true, extra: true },
          { name: "Out", cell: (row) => usd(row.output_nanousd * MILLION), numeric: true },
          { name: "Valid", cell: (row) => `${row.valid_from_s ? moment(row.valid_from_s) : "always"} – ${row.valid_to_s === null ? "open" : moment(row.valid_to_s)}`, extra: true },
          { name: "Version", cell: (row) => <span className="code">{row.version}</span>, extra: true },
          { name: "Do", cell: (row) => (may("money.write") && row.valid_to_s === null ? <End price={row} /> : "—") },
        ]}
      />
    </Card>
  );
}

function End({ price }: { price: Price }) {
  return (
    <Action
      size="compact-xs" danger label="End" title={`End a price of ${price.model}`} confirm="End it now"
      act={() => got(api.POST("/admin/v1/prices/{price_id}/end", { params: { path: { price_id: price.id } }, body: {} }))}
    >
      <Text size="sm">Requests to <b>{price.model}</b> that begin from now on are billed by the price before it; where there is none, they are refused. What is billed already stays.</Text>
    </Action>
  );
}

function NewPrice() {
  return (
    <Action
      label="New price" size="xs" title="New price" confirm="Add it"
      act={(given) => {
        const number = (name: string) => Number(String(given.get(name)).replaceAll(",", ""));
        const from = String(given.get("from") ?? "");
        const cached = String(given.get("cached") ?? "");
        return got(api.POST("/admin/v1/prices", {
          body: {
            model: String(given.get("model")).trim(),
            org: String(given.get("org")).trim() || null,
            valid_from_s: from ? new Date(from).getTime() / 1000 : null,
            price: { input: number("input"), output: number("output"), ...(cached ? { cached_input: number("cached") } : {}) },
          },
        }));
      }}
    >
      <TextInput name="model" label="Model" required data-autofocus />
      <TextInput name="org" label="Only for organisation" description="Empty: for everybody." />
      <NumberInput name="input" label="In (USD per million tokens)" min={0} required hideControls />
      <NumberInput name="cached" label="In, cached by the server" description="Empty: as the others." min={0} hideControls />
      <NumberInput name="output" label="Out (USD per million tokens)" min={0} required hideControls />
      <TextInput name="from" type="datetime-local" label="Valid from" description="Empty: from now on." />
    </Action>
  );
}

function Credit({ org }: { org?: string }) {
  const { may } = useSession();
  return (
    <Card title={org ? `Movements of ${org}` : "Movements"} side={may("money.write") && <Book org={org} />}>
      <Listing<Schemas["transfers_Line"]>
        label="Movements"
        query={["credits", org]}
        ask={(cursor) => got(api.GET("/admin/v1/credits", { params: { query: { org, cursor, limit: 25 } } }))}
        id={(row) => row.id}
        empty={<Empty title="No movement">Book a top-up or a grant on the account of an organisation, project or key.</Empty>}
        columns={[
          { name: "When", cell: (row) => moment(row.ts) },
          { name: "What", cell: (row) => <>{row.kind.replace("_", " ")}{row.note && <Text size="xs" c="dimmed">{row.note}</Text>}</> },
          { name: "From", cell: (row) => <span className="code">{row.debit}</span>, extra: true },
          { name: "To", cell: (row) => <span className="code">{row.credit}</span>, extra: true },
          { name: "Who", cell: (row) => <span className="code">{row.actor}</span>, extra: true },
          { name: "Amount", cell: (row) => usd(row.amount_nanousd), numeric: true },
        ]}
      />
    </Card>
  );
}

function Book({ org }: { org?: string }) {
  return (
    <Action
      label="Book" size="xs" title="Book a movement" confirm="Book it"
      act={(given) => {
        const field = (name: string) => String(given.get(name) ?? "").trim() || null;
        return got(api.POST("/admin/v1/credits", {
          body: {
            kind: String(given.get("kind")) as Kind,
            amount_usd: Number(String(given.get("amount")).replaceAll(",", "")),
            org: field("org"), project: field("project"), key_id: field("key_id"),
            note: field("note") ?? "", idempotency_key: String(given.get("once")),
          },
        }));
      }}
    >
      <Select name="kind" label="What" defaultValue="top_up" allowDeselect={false} data={[
        { value: "top_up", label: "Top-up" }, { value: "grant", label: "Grant" }, { value: "refund", label: "Refund" },
        { value: "correction", label: "Correction" }, { value: "write_off", label: "Write-off" },
      ]} />
      <NumberInput name="amount" label="Amount (USD)" description="Negative for a correction only." required decimalScale={9} hideControls data-autofocus />
      <TextInput name="org" label="Organisation" defaultValue={org} description="Or a key, below." />
      <TextInput name="project" label="Project" description="Empty: the organisation's own account." />
      <TextInput name="key_id" label="Key id" />
      <TextInput name="note" label="Note" maxLength={500} />
      <input type="hidden" name="once" defaultValue={crypto.getRandomValues(new Uint32Array(4)).join("-")} />
    </Action>
  );
}

function Ledger({ org }: { org?: string }) {
  const { may } = useSession();
  return (
    <Stack>
      {may("fleet.read") && <Books />}
      <Card title="Ledger">
        <Listing<Schemas["LedgerEntry"]>
          label="Ledger entries"
          query={["ledger", org]}
          ask={(cursor) => got(api.GET("/admin/v1/ledger", { params: { query: { org, cursor, limit: 25 } } }))}
          id={(row) => row.request_id}
          empty={<Empty title="Nothing is booked">Every settled request stands here with its debit and credit.</Empty>}
          columns={[
            { name: "When", cell: (row) => <To to={`/requests/${row.request_id}`}>{moment(row.ts)}</To> },
            { name: "Debit", cell: (row) => <span className="code">{row.debit}</span>, extra: true },
            { name: "Credit", cell: (row) => <span className="code">{row.credit}</span>, extra: true },
            { name: "Model", cell: (row) => row.model },
            { name: "Amount", cell: (row) => usd(row.amount_nanousd), numeric: true },
          ]}
        />
      </Card>
    </Stack>
  );
}
