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
import { words } from "../words";

const t = words.billing;

type Price = Schemas["prices_Line"];
type Kind = Schemas["NewCredit"]["kind"];
const MILLION = 1_000_000;

export default function Billing() {
  const [filters, set] = useFilters();
  return (
    <>
      <Heading title={t.pricesCredit} about={t.aPriceIsAddedOr} />
      <Tabs value={text(filters.tab) ?? (filters.org ? "credit" : "prices")} onChange={(tab) => tab && set({ tab })} keepMounted={false}>
        <Tabs.List mb="md">
          <Tabs.Tab value="prices">{t.priceBook}</Tabs.Tab>
          <Tabs.Tab value="credit">{t.credit}</Tabs.Tab>
          <Tabs.Tab value="ledger">{t.ledger}</Tabs.Tab>
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
    <Card title={t.priceBookUsdPerMillion} side={may("money.write") && <NewPrice />}>
      <Listing<Price>
        label={t.prices}
        query={["prices"]}
        ask={(cursor) => got(api.GET("/admin/v1/prices", { params: { query: { cursor, limit: 25 } } }))}
        id={(row) => row.id}
        empty={<Empty title={t.noPrice}>{t.requestsToAModelWithout}</Empty>}
        columns={[
          { name: t.model, cell: (row) => <>{row.model}<Text size="xs" c="dimmed">{row.org ? t.forWord(row.org) : t.forEverybody}</Text></> },
          { name: t.inWord, cell: (row) => usd(row.input_nanousd * MILLION), numeric: true },
          { name: t.inCached, cell: (row) => usd(row.cached_input_nanousd * MILLION), numeric: true, extra: true },
          { name: t.out, cell: (row) => usd(row.output_nanousd * MILLION), numeric: true },
          { name: t.valid, cell: (row) => `${row.valid_from_s ? moment(row.valid_from_s) : t.always} – ${row.valid_to_s === null ? t.open : moment(row.valid_to_s)}`, extra: true },
          { name: t.version, cell: (row) => <span className="code">{row.version}</span>, extra: true },
          { name: t.do, cell: (row) => (may("money.write") && row.valid_to_s === null ? <End price={row} /> : "—") },
        ]}
      />
    </Card>
  );
}

function End({ price }: { price: Price }) {
  return (
    <Action
      size="compact-xs" danger label={t.end} title={t.endAPriceOf(price.model)} confirm={t.endItNow}
      act={() => got(api.POST("/admin/v1/prices/{price_id}/end", { params: { path: { price_id: price.id } }, body: {} }))}
    >
      <Text size="sm">{t.requestsToThatBeginFrom(price.model, price.org ? t.forWord(price.org) : t.forEverybody, usd(price.input_nanousd * MILLION), usd(price.output_nanousd * MILLION), price.version)}</Text>
    </Action>
  );
}

function NewPrice() {
  return (
    <Action
      label={t.newPrice} size="xs" title={t.newPrice} confirm={t.addIt}
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
      <TextInput name="model" label={t.model} required data-autofocus />
      <TextInput name="org" label={t.onlyForOrganisation} description={t.emptyForEverybody} />
      <NumberInput name="input" label={t.inUsdPerMillionTokens} min={0} required hideControls />
      <NumberInput name="cached" label={t.inCachedByTheServer} description={t.emptyAsTheOthers} min={0} hideControls />
      <NumberInput name="output" label={t.outUsdPerMillionTokens} min={0} required hideControls />
      <TextInput name="from" type="datetime-local" label={t.validFrom} description={t.emptyFromNowOn} />
    </Action>
  );
}

function Credit({ org }: { org?: string }) {
  const { may } = useSession();
  return (
    <Card title={org ? t.movementsOf(org) : t.movements} side={may("money.write") && <Book org={org} />}>
      <Listing<Schemas["transfers_Line"]>
        label={t.movements}
        query={["credits", org]}
        ask={(cursor) => got(api.GET("/admin/v1/credits", { params: { query: { org, cursor, limit: 25 } } }))}
        id={(row) => row.id}
        empty={<Empty title={t.noMovement}>{t.bookATopUpOr}</Empty>}
        columns={[
          { name: t.when, cell: (row) => moment(row.ts), line: true },
          { name: t.what, cell: (row) => <>{row.kind.replace("_", " ")}{row.note && <Text size="xs" c="dimmed">{row.note}</Text>}</> },
          { name: t.from, cell: (row) => <span className="code">{row.debit}</span>, extra: true },
          { name: t.to, cell: (row) => <span className="code">{row.credit}</span>, extra: true },
          { name: t.who, cell: (row) => <span className="code">{row.actor}</span>, extra: true },
          { name: t.amount, cell: (row) => usd(row.amount_nanousd), numeric: true },
        ]}
      />
    </Card>
  );
}

function Book({ org }: { org?: string }) {
  return (
    <Action
      label={t.book} size="xs" title={t.bookAMovement} confirm={t.bookIt}
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
      <Select name="kind" label={t.what} defaultValue="top_up" allowDeselect={false} data={[
        { value: "top_up", label: t.topUp }, { value: "grant", label: t.grant }, { value: "refund", label: t.refund },
        { value: "correction", label: t.correction }, { value: "write_off", label: t.writeOff },
      ]} />
      <NumberInput name="amount" label={t.amountUsd} description={t.negativeForACorrectionOnly} required decimalScale={9} hideControls data-autofocus />
      <TextInput name="org" label={t.organisation} defaultValue={org} description={t.orAKeyBelow} />
      <TextInput name="project" label={t.project} description={t.emptyTheOrganisationsOwnAccount} />
      <TextInput name="key_id" label={t.keyId} />
      <TextInput name="note" label={t.note} maxLength={500} />
      <input type="hidden" name="once" defaultValue={crypto.getRandomValues(new Uint32Array(4)).join("-")} />
    </Action>
  );
}

function Ledger({ org }: { org?: string }) {
  const { may } = useSession();
  return (
    <Stack>
      {may("fleet.read") && <Books />}
      <Card title={t.ledger}>
        <Listing<Schemas["LedgerEntry"]>
          label={t.ledgerEntries}
          query={["ledger", org]}
          ask={(cursor) => got(api.GET("/admin/v1/ledger", { params: { query: { org, cursor, limit: 25 } } }))}
          id={(row) => row.request_id}
          empty={<Empty title={t.nothingIsBooked}>{t.everySettledRequestStands}</Empty>}
          columns={[
            { name: t.when, cell: (row) => <To to={`/requests/${row.request_id}`}>{moment(row.ts)}</To>, line: true },
            { name: t.debit, cell: (row) => <span className="code">{row.debit}</span>, extra: true },
            { name: t.credit, cell: (row) => <span className="code">{row.credit}</span>, extra: true },
            { name: t.model, cell: (row) => row.model },
            { name: t.amount, cell: (row) => usd(row.amount_nanousd), numeric: true },
          ]}
        />
      </Card>
    </Stack>
  );
}
