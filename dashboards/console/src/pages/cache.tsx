// How often an earlier answer served again, what that saved, how wrong it may be, and what is kept.
import { Button, Group, Modal, SimpleGrid, Stack, Table, Text, TextInput } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, got, type Schemas } from "../api/client";
import { brief, count, day, moment, percent, usd } from "../format";
import { Action } from "../parts/action";
import { Source } from "../parts/badges";
import { Chart } from "../parts/chart";
import { text, useFilters } from "../parts/filters";
import { To } from "../parts/link";
import { Listing } from "../parts/listing";
import { Card, Empty, Failed, Heading, Loading } from "../parts/states";
import { useSession } from "../session";

const KINDS = ["hit-exact", "hit-semantic", "joined"] as const;

export default function Cache() {
  const { may } = useSession();
  const { data, error, isPending, refetch } = useQuery({
    queryKey: ["cache"],
    refetchInterval: 30_000,
    queryFn: async () =>
      (await got(api.GET("/admin/v1/usage", { params: { query: { from_day: day(new Date(), 29), by: ["day", "source"] } } }))).data,
  });
  const live = useQuery({ queryKey: ["live", "cache"], enabled: may("fleet.read"), queryFn: () => got(api.GET("/admin/v1/live")), refetchInterval: 10_000 });
  if (isPending) return <Loading />;
  if (error) return <Failed error={error} again={() => void refetch()} />;
  const total = data.reduce((sum, row) => sum + row.requests, 0);
  const of = (source: string) => data.filter((row) => row.source === source);
  const days = [...new Set(data.map((row) => row.day ?? ""))].sort();
  return (
    <>
      <Heading title="Cache" about="Answers that no model had to give, in the last 30 days." />
      {total === 0 ? (
        <Card><Empty title="Nothing to tell yet">Repeated questions are answered from the cache. Ask the same thing twice in the <To to="/playground">playground</To> to see it.</Empty></Card>
      ) : (
        <SimpleGrid cols={{ base: 1, lg: 2 }}>
          <Card title="Hits per day">
            <Chart
              about="Answers from the cache per day, by kind." kind="bar" format={count}
              rows={days.map((at) => ({ at: at.slice(5), ...Object.fromEntries(KINDS.map((kind) => [kind, of(kind).find((row) => row.day === at)?.requests ?? 0])) }))}
              series={[
                { name: "hit-exact", label: "Exact", color: "gear.5" },
                { name: "hit-semantic", label: "Similar", color: "indigo.4" },
                { name: "joined", label: "Shared", color: "yellow.5" },
              ]}
            />
          </Card>
          <Card title="By kind">
            <Table aria-label="Cache hits by kind">
              <Table.Thead><Table.Tr><Table.Th>Answer</Table.Th><Table.Th className="num">Requests</Table.Th><Table.Th className="num">Share</Table.Th><Table.Th className="num">Saved</Table.Th></Table.Tr></Table.Thead>
              <Table.Tbody>
                {(["upstream", ...KINDS] as const).map((kind) => {
                  const rows = of(kind);
                  const requests = rows.reduce((sum, row) => sum + row.requests, 0);
                  return (
                    <Table.Tr key={kind}>
                      <Table.Th scope="row" fw={400}><Source source={kind} /></Table.Th>
                      <Table.Td className="num">{count(requests)}</Table.Td>
                      <Table.Td className="num">{percent(requests, total)}</Table.Td>
                      <Table.Td className="num">{usd(rows.reduce((sum, row) => sum + row.baseline_nanousd - row.amount_nanousd, 0))}</Table.Td>
                    </Table.Tr>
                  );
                })}
              </Table.Tbody>
            </Table>
            <Text size="xs" c="dimmed" mt="xs">Savings of “model” come from routing to a cheaper tier.</Text>
          </Card>
        </SimpleGrid>
      )}
      {may("fleet.read") && (
        <Stack mt="md">
          {live.data && <Bound live={live.data} />}
          <Entries />
        </Stack>
      )}
    </>
  );
}

/** What the operator allows, and what audits say that it is. */
function Bound({ live }: { live: Schemas["Live"] }) {
  const share = (value: number | null) => (value === null ? "—" : percent(value, 1));
  const { cache_error_bound: bound, cache_error_estimate: estimate } = live;
  const audits = Object.values(live.cache_audits).reduce((sum, one) => sum + one, 0);
  return (
    <Card title="Kept now, and how wrong it may be">
      <Stack gap="xs">
        <Text size="sm">{count(live.cache_entries)} exact answers, {brief(live.cache_bytes)} bytes in this gateway's memory.</Text>
        {bound === null ? (
          <Text size="sm" c="dimmed">Answers to similar questions are switched off: <span className="code">[cache.semantic]</span> in the <To to="/settings">settings</To> switches them on.</Text>
        ) : (
          <>
            <Text size="sm">Wrong answers allowed: <b>{share(bound)}</b> of requests. Expected by {count(audits)} audits: <b style={{ color: estimate !== null && estimate > bound ? "var(--bad)" : "var(--good)" }}>{share(estimate)}</b>; of similar hits alone: {share(live.cache_false_hit_ratio)}.</Text>
            <div className="bar" aria-hidden><div style={{ width: `${Math.min(100, bound ? (100 * (estimate ?? 0)) / bound : 0)}%` }} /></div>
            <Text size="xs" c="dimmed">The bar is full where the bound is reached. An audit asks the model again what a hit has answered. {audits === 0 && "There was none yet, so the estimate says little."}</Text>
          </>
        )}
      </Stack>
    </Card>
  );
}

type Kept = Schemas["Shown"];
const SEARCH = { tenant: "Whose", model: "Model", tag: "Tag" } as const;

function Entries() {
  const [filters, set] = useFilters();
  const { may } = useSession();
  const wanted = { tenant: text(filters.tenant), model: text(filters.model), tag: text(filters.tag) };
  const narrowed = Object.values(wanted).some(Boolean);
  return (
    <Card title="Kept answers" side={may("fleet.write") && <Purge wanted={wanted} />}>
      <Group gap="xs" mb="md" role="search" aria-label="Search kept answers">
        {(Object.keys(SEARCH) as (keyof typeof SEARCH)[]).map((name) => (
          <TextInput
            key={`${name}${wanted[name] ?? ""}`} size="xs" w={170} label={SEARCH[name]} placeholder="Any" defaultValue={wanted[name]}
            onBlur={(event) => event.currentTarget.value.trim() !== (wanted[name] ?? "") && set({ [name]: event.currentTarget.value.trim() })}
            onKeyDown={(event) => event.key === "Enter" && set({ [name]: event.currentTarget.value.trim() })}
          />
        ))}
      </Group>
      <Listing<Kept>
        label="Kept answers"
        query={["cache", "entries", wanted]}
        ask={(cursor) => got(api.GET("/admin/v1/cache/entries", { params: { query: { ...wanted, cursor, limit: 25 } } }))}
        id={(row) => `${row.id}-${row.tier}`}
        empty={narrowed ? <Empty title="No kept answer fits">Take a filter away; values are compared whole.</Empty> : <Empty title="Nothing is kept">An answer is kept when its request may be cached, until its time is over.</Empty>}
        columns={[
          { name: "Answer", cell: (row) => <span className="code">{row.id.slice(0, 12)}</span> },
          { name: "Tier", cell: (row) => (row.tier === "exact" ? "exact" : "similar") },
          { name: "Whose", cell: (row) => <span className="clip">{row.tenant}</span>, extra: true },
          { name: "Model", cell: (row) => <>{row.model}{row.asked !== row.model && <span style={{ opacity: 0.75 }}> asked as {row.asked}</span>}</> },
          { name: "Until", cell: (row) => moment(row.expires_s), extra: true },
          { name: "Bytes", cell: (row) => brief(row.size_bytes), numeric: true, extra: true },
          { name: "Do", cell: (row) => <Inspect entry={row} judge={may("fleet.write")} /> },
        ]}
      />
    </Card>
  );
}

function Inspect({ entry, judge }: { entry: Kept; judge: boolean }) {
  const [open, setOpen] = useState(false);
  const params = { path: { entry_id: entry.id } };
  const { data, error } = useQuery({ queryKey: ["cache", "entry", entry.id], enabled: open, queryFn: () => got(api.GET("/admin/v1/cache/entries/{entry_id}", { params })) });
  const word = (right: boolean) => () => got(api.POST("/admin/v1/cache/entries/{entry_id}/judge", { params, body: { right } }));
  return (
    <>
      <Button size="compact-xs" variant="default" onClick={() => setOpen(true)}>Inspect</Button>
      <Modal opened={open} onClose={() => setOpen(false)} title={`Kept answer ${entry.id.slice(0, 12)}`} closeButtonProps={{ "aria-label": "Close" }}>
        {error ? <Failed error={error} /> : !data ? <Loading /> : (
          <Stack gap="sm">
            <Text size="xs" c="dimmed">{data.tenant} · {data.model} · kept {moment(data.stored_s)}{data.tags.length > 0 && ` · ${data.tags.join(", ")}`}</Text>
            {data.questions.length > 0 && <><Text fw={600} size="sm">Questions that lead to it</Text>{data.questions.map((one) => <Text size="sm" key={one} style={{ overflowWrap: "anywhere" }}>{one}</Text>)}</>}
            <Text fw={600} size="sm">Its words</Text>
            <pre className="log" tabIndex={0}>{data.answer}</pre>
            {judge && (
              <Group gap="xs">
                <Action size="xs" variant="default" label="Right" title="This answer is right" confirm="It is right" act={word(true)}><Text size="sm">It stays, and nothing is purged.</Text></Action>
                <Action size="xs" danger label="Wrong" title="This answer is wrong" confirm="It is wrong" act={word(false)}><Text size="sm">The answer {entry.id.slice(0, 12)} of {entry.tenant} goes at once, with all questions that lead to it.</Text></Action>
              </Group>
            )}
          </Stack>
        )}
      </Modal>
    </>
  );
}

function Purge({ wanted }: { wanted: { tenant?: string; model?: string; tag?: string } }) {
  const named = Object.entries(wanted).filter(([, value]) => value);
  const what = named.length === 0 ? "every kept answer of everybody" : `kept answers with ${named.map(([name, value]) => `${name} ${value}`).join(", ")}`;
  return (
    <Action
      size="xs" danger label={named.length === 0 ? "Purge all" : "Purge these"} title="Purge the cache" confirm="Purge"
      act={() => got(api.POST("/admin/v1/cache/purge", { body: named.length === 0 ? { everything: true } : wanted }))}
      shows={({ purged }: Schemas["Purged"]) => <Text size="sm">{count(purged)} answers are gone.</Text>}
    >
      <Text size="sm">Forgets {what}, of both tiers, for good. Models answer these questions again, and are billed in full.</Text>
    </Action>
  );
}
