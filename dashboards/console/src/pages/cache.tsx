// How often an earlier answer served again, what that saved, how wrong it may be, and what is kept.
import { Button, Group, Modal, SimpleGrid, Stack, Table, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, got, type Schemas } from "../api/client";
import { begins, brief, count, day, moment, percent, usd } from "../format";
import { Action } from "../parts/action";
import { Source } from "../parts/badges";
import { Chart } from "../parts/chart";
import { Filter } from "../parts/filter";
import { text, useFilters } from "../parts/filters";
import { To } from "../parts/link";
import { Listing } from "../parts/listing";
import { Card, Empty, Failed, Heading, Loading } from "../parts/states";
import { useSession } from "../session";
import { words } from "../words";

const t = words.cache;

const DAYS = 30;
const KINDS = ["hit-exact", "hit-semantic", "joined"] as const;

export default function Cache() {
  const { may } = useSession();
  const { data, error, isPending, refetch } = useQuery({
    queryKey: ["cache"],
    refetchInterval: 30_000,
    queryFn: async () =>
      (await got(api.GET("/admin/v1/usage", { params: { query: { from_day: day(new Date(), DAYS - 1), by: ["day", "source"] } } }))).data,
  });
  const live = useQuery({ queryKey: ["live", "cache"], enabled: may("fleet.read"), queryFn: () => got(api.GET("/admin/v1/live")), refetchInterval: 10_000 });
  const heading = <Heading title={t.cache} about={t.answersThatNoModelHad} />;
  if (isPending) return <>{heading}<Loading /></>;
  if (error) return <>{heading}<Failed error={error} again={() => void refetch()} /></>;
  const total = data.reduce((sum, row) => sum + row.requests, 0);
  const of = (source: string) => data.filter((row) => row.source === source);
  const days = [...new Set(data.map((row) => row.day ?? ""))].sort();
  return (
    <>
      {heading}
      {total === 0 ? (
        <Card><Empty title={t.nothingToTellYet}>{t.repeatedQuestionsAreAnswered()}</Empty></Card>
      ) : (
        <SimpleGrid cols={{ base: 1, lg: 2 }}>
          <Card title={t.hitsPerDay}>
            <Chart
              about={t.answersFromTheCachePer} of={t.dayUtc} kind="bar" format={count}
              leads={(row) => ({ from: begins(days[row]!), to: begins(day(new Date(`${days[row]}T00:00:00Z`), -1)), source: KINDS.join(",") })}
              rows={days.map((at) => ({ at: at.slice(5), ...Object.fromEntries(KINDS.map((kind) => [kind, of(kind).find((row) => row.day === at)?.requests ?? 0])) }))}
              series={[
                { name: "hit-exact", label: t.exact, color: "gear.5", search: { source: "hit-exact" } },
                { name: "hit-semantic", label: t.similar, color: "indigo.4", search: { source: "hit-semantic" } },
                { name: "joined", label: t.shared, color: "yellow.5", search: { source: "joined" } },
              ]}
            />
          </Card>
          <Card title={t.byKind}>
            <Table aria-label={t.cacheHitsByKind}>
              <Table.Thead><Table.Tr><Table.Th>{t.answer}</Table.Th><Table.Th className="num">{t.requests}</Table.Th><Table.Th className="num">{t.share}</Table.Th><Table.Th className="num">{t.saved}</Table.Th></Table.Tr></Table.Thead>
              <Table.Tbody>
                {(["upstream", ...KINDS] as const).map((kind) => {
                  const rows = of(kind);
                  const requests = rows.reduce((sum, row) => sum + row.requests, 0);
                  return (
                    <Table.Tr key={kind}>
                      <Table.Th scope="row" fw={400}><Source source={kind} /></Table.Th>
                      <Table.Td className="num"><To to="/requests" search={{ source: kind, from: begins(day(new Date(), DAYS - 1)) }}>{count(requests)}</To></Table.Td>
                      <Table.Td className="num">{percent(requests, total)}</Table.Td>
                      <Table.Td className="num">{usd(rows.reduce((sum, row) => sum + row.baseline_nanousd - row.amount_nanousd, 0))}</Table.Td>
                    </Table.Tr>
                  );
                })}
              </Table.Tbody>
            </Table>
            <Text size="xs" c="dimmed" mt="xs">{t.savingsOfModelComeFrom}</Text>
          </Card>
        </SimpleGrid>
      )}
      {may("fleet.read") && !live.isLoading && (
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
    <Card title={t.keptNowAndHowWrong}>
      <Stack gap="xs">
        <Text size="sm">{t.exactAnswersBytesInThis(count(live.cache_entries), brief(live.cache_bytes))}</Text>
        {bound === null ? (
          <Text size="sm" c="dimmed">{t.answersToSimilarQuestionsAre()}</Text>
        ) : (
          <>
            <Text size="sm">{t.wrongAnswersAllowedOf(share(bound), count(audits), <b style={{ color: estimate !== null && estimate > bound ? "var(--bad)" : "var(--good)" }}>{share(estimate)}</b>, share(live.cache_false_hit_ratio))}</Text>
            <div className="bar" aria-hidden><div style={{ width: `${Math.min(100, bound ? (100 * (estimate ?? 0)) / bound : 0)}%` }} /></div>
            <Text size="xs" c="dimmed">{t.theBarIsFullWhere(audits === 0 && t.thereWasNoneYetSo)}</Text>
          </>
        )}
      </Stack>
    </Card>
  );
}

type Kept = Schemas["Shown"];
const SEARCH = { tenant: t.whose, model: t.model, tag: t.tag } as const;

function Entries() {
  const [filters, set] = useFilters();
  const { may } = useSession();
  const wanted = { tenant: text(filters.tenant), model: text(filters.model), tag: text(filters.tag) };
  const narrowed = Object.values(wanted).some(Boolean);
  return (
    <Card title={t.keptAnswers} side={may("fleet.write") && <Purge wanted={wanted} />}>
      <Group gap="xs" mb="md" role="search" aria-label={t.searchKeptAnswers}>
        {(Object.keys(SEARCH) as (keyof typeof SEARCH)[]).map((name) => (
          <Filter key={name} label={SEARCH[name]} width={170} value={wanted[name]} set={(value) => set({ [name]: value })} />
        ))}
      </Group>
      <Listing<Kept>
        label={t.keptAnswers}
        query={["cache", "entries", wanted]}
        ask={(cursor) => got(api.GET("/admin/v1/cache/entries", { params: { query: { ...wanted, cursor, limit: 25 } } }))}
        id={(row) => `${row.id}-${row.tier}`}
        empty={narrowed ? <Empty title={t.noKeptAnswerFits}>{t.takeAFilterAwayValues}</Empty> : <Empty title={t.nothingIsKept}>{t.anAnswerIsKeptWhen}</Empty>}
        columns={[
          { name: t.answer, cell: (row) => <span className="code">{row.id.slice(0, 12)}</span> },
          { name: t.tier, cell: (row) => (row.tier === "exact" ? t.exactTier : t.similarTier) },
          { name: t.whose, cell: (row) => <span className="clip">{row.tenant}</span>, extra: true },
          { name: t.model, cell: (row) => <>{row.model}{row.asked !== row.model && <span style={{ opacity: 0.75 }}>{t.askedAs(row.asked)}</span>}</> },
          { name: t.until, cell: (row) => moment(row.expires_s), extra: true, line: true },
          { name: t.bytes, cell: (row) => brief(row.size_bytes), numeric: true, extra: true },
          { name: t.do, cell: (row) => <Inspect entry={row} judge={may("fleet.write")} /> },
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
      <Button size="compact-xs" variant="default" onClick={() => setOpen(true)}>{t.inspect}</Button>
      <Modal opened={open} onClose={() => setOpen(false)} title={t.keptAnswer(entry.id.slice(0, 12))} closeButtonProps={{ "aria-label": t.close }}>
        {error ? <Failed error={error} /> : !data ? <Loading /> : (
          <Stack gap="sm">
            <Text size="xs" c="dimmed">{t.kept(data.tenant, data.model, moment(data.stored_s), data.tags.length > 0 && ` · ${data.tags.join(", ")}`)}</Text>
            {data.questions.length > 0 && <><Text fw={600} size="sm">{t.questionsThatLeadToIt}</Text>{data.questions.map((one) => <Text size="sm" key={one} style={{ overflowWrap: "anywhere" }}>{one}</Text>)}</>}
            <Text fw={600} size="sm">{t.itsWords}</Text>
            <pre className="log" tabIndex={0}>{data.answer}</pre>
            {judge && (
              <Group gap="xs">
                <Action size="xs" variant="default" label={t.right} title={t.thisAnswerIsRight} confirm={t.itIsRight} act={word(true)}><Text size="sm">{t.itStaysAndNothingIs}</Text></Action>
                <Action size="xs" danger label={t.wrong} title={t.thisAnswerIsWrong} confirm={t.itIsWrong} act={word(false)}><Text size="sm">{t.theAnswerOfGoesAt(entry.id.slice(0, 12), entry.tenant)}</Text></Action>
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
  const what = named.length === 0 ? t.everyKeptAnswerOfEverybody : t.keptAnswersWith(named.map(([name, value]) => `${name} ${value}`).join(", "));
  return (
    <Action
      size="xs" danger label={named.length === 0 ? t.purgeAll : t.purgeThese} title={t.purgeTheCache} confirm={t.purge}
      act={() => got(api.POST("/admin/v1/cache/purge", { body: named.length === 0 ? { everything: true } : wanted }))}
      shows={({ purged }: Schemas["Purged"]) => <Text size="sm">{t.answersAreGone(count(purged))}</Text>}
    >
      <Text size="sm">{t.forgetsOfBothTiersFor(what)}</Text>
    </Action>
  );
}
