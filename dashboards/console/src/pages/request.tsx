// One request explained: what was asked, who answered, how often it was tried, what it cost and why.
import { Code, Group, SimpleGrid, Stack, Table, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useParams } from "@tanstack/react-router";
import type { ReactNode } from "react";
import { api, got, type Schemas } from "../api/client";
import { count, duration, moment, percent, usd } from "../format";
import { Copy } from "../parts/action";
import { Source, Status } from "../parts/badges";
import { Explained } from "../parts/explained";
import { To } from "../parts/link";
import { Card, Failed, Heading, isMissing, Loading, Missing } from "../parts/states";
import { useSession } from "../session";
import { words } from "../words";

const t = words.request;

type Row = Schemas["RequestRow"];
type Line = Schemas["RequestLine"];

export default function Request() {
  const { id } = useParams({ strict: false }) as { id: string };
  const { data, error, isPending, refetch } = useQuery({
    queryKey: ["requests", id],
    retry: false,
    queryFn: async () => {
      try {
        return await got(api.GET("/admin/v1/requests/{request_id}", { params: { path: { request_id: id } } }));
      } catch (failure) {
        if (isMissing(failure)) return null;
        throw failure;
      }
    },
    refetchInterval: (query) => (query.state.data?.booked ? false : 2_000),
  });
  if (isPending) return <Loading />;
  if (error) return <Failed error={error} again={() => void refetch()} />;
  if (data === null) {
    return <Missing what="request" id={id}>{t.itMayStillBeUnder()}</Missing>;
  }
  if (data.booked === null) return <><Heading title={<span className="code">{id}</span>} /><Text size="sm">{t.itHasEndedAndIs}</Text></>;
  return <Found row={data.booked} line={data.decision} why={data.explanation} />;
}

interface FoundProps { row: Row; line: Line | null; why: Schemas["Explanation"] | null }

function Found({ row, line, why }: FoundProps) {
  const curl = `curl ${location.origin}/v1/chat/completions -H "authorization: Bearer $KEY" -H "content-type: application/json" \\\n  -d '{"model": "${row.route || row.model}", "messages": [{"role": "user", "content": "..."}]}'`;
  return (
    <>
      <Heading title={<span className="code">{row.request_id}</span>} about={moment(row.ts)}><Status status={row.status} /></Heading>
      <SimpleGrid cols={{ base: 1, lg: 2 }}>
        <Stack>
          <Card title={t.whatHappened}><Steps row={row} line={line} /></Card>
          <Replay row={row} line={line} why={why} />
        </Stack>
        <Stack>
          <Card title={t.whatItCost}><Cost row={row} /></Card>
          <Card title={t.whoseItIs}>
            <Facts facts={[
              [t.organisation, <To key="o" to="/requests" search={{ org: row.org }}>{row.org}</To>],
              [t.project, <To key="p" to="/requests" search={{ org: row.org, project: row.project }}>{row.project}</To>],
              [t.key, <To key="k" to={`/keys/${row.key_id}`}><span className="code">{row.key_id}</span></To>],
              [t.endUser, row.end_user ? <span key="e" className="code">{row.end_user}</span> : t.notNamed],
              [t.metadata, row.metadata ? <span key="m" className="code">{row.metadata}</span> : "none"],
            ]} />
          </Card>
          <Card title={t.askTheSameWay} side={<Copy text={curl} label={t.copy} />}>
            <Code block style={{ whiteSpace: "pre-wrap" }} tabIndex={0}>{curl}</Code>
            <Text size="xs" c="dimmed" mt={6}>{t.promptsAreNotKeptSo}</Text>
          </Card>
        </Stack>
      </SimpleGrid>
    </>
  );
}

/** Where the time went, and the decision as it was noted; of the latest requests of the process that answers. */
function Replay({ row, line, why }: FoundProps) {
  if (line === null) {
    return <Card title={t.decision}><Text size="sm" c="dimmed">{t.keptForTheLatestRequests}</Text></Card>;
  }
  const waited_ms = line.queue_ms;
  const first_ms = Math.max(0, line.first_byte_ms - waited_ms);
  const rest_ms = Math.max(0, line.total_ms - waited_ms - first_ms);
  const parts: [string, number][] = [[t.waitedInTheQueue, waited_ms], [t.untilTheFirstByte, first_ms], [t.untilTheEnd, rest_ms]];
  const tried = (line.replicas ?? []).map((replica, at) => `${replica}: ${line.outcomes?.[at] || "ok"}`);
  return (
    <>
      <Card title={t.timeline} side={<Text size="sm" className="num">{duration(line.total_ms / 1000)}</Text>}>
        <Stack gap="xs">
          {parts.map(([name, ms]) => (
            <div key={name}>
              <Group justify="space-between"><Text size="sm">{name}</Text><Text size="sm" className="num">{duration(ms / 1000)}</Text></Group>
              <div className="bar" aria-hidden><div style={{ width: `${line.total_ms ? (100 * ms) / line.total_ms : 0}%` }} /></div>
            </div>
          ))}
        </Stack>
      </Card>
      <Card title={t.decision}>
        <Facts facts={[
          [t.askedFor, line.asked],
          [t.among, (line.candidates ?? []).join(", ") || t.onlyThisOne],
          [t.chosen, <b key="m">{line.model}</b>],
          [t.why, line.reason || t.namedByTheClient],
          [t.score, line.score == null ? t.notNeeded : line.score.toFixed(3)],
          [t.cache, <>{line.cache}{line.cache_entry && <> · <span className="code">{line.cache_entry.slice(0, 12)}</span></>}</>],
          [t.attempts, tried.join("; ") || t.noneNoModelRan],
          [t.status, line.error ? `${line.status}, ${line.error}` : String(line.status)],
          [t.streamed, line.streamed ? "yes" : "no"],
          [t.trace, line.trace_id ? <span key="t" className="code">{line.trace_id}</span> : t.notTraced],
        ]} />
        {why && <Explained known={why} />}
        {row.route && <Text size="sm" mt="sm"><To to="/routing" search={{ route: row.route }}>{t.tryAnotherPromptOnThis}</To></Text>}
      </Card>
    </>
  );
}

function Steps({ row, line }: { row: Row; line: Line | null }) {
  const cached = row.source !== "upstream";
  return (
    <ol className="steps">
      <Step title={t.asked}>{t.forInTheServiceWith(row.operation || t.aRequest, row.route || row.model, row.service, count(row.prompt_tokens), row.estimated ? t.estimatedTheServerToldNone : "")}</Step>
      <Step title={t.lookedUp}>
        {cached ? t.answeredAs(<Source source={row.source} />) : t.noEarlierAnswerFittedSo}
        {line?.cache_entry && t.keptAnswerSeeTheCache(line.cache_entry.slice(0, 12))}
      </Step>
      <Step title={t.routed}>
        {row.route ? (
          t.theRouteChoseAmongIts(row.route, row.model)
        ) : (
          t.theClientNamedNothingTo(row.model)
        )}
      </Step>
      <Step title={cached ? t.noModelRan : row.attempts === 1 ? t.oneAttempt : t.attempts2(row.attempts)}>
        {row.replicas ? t.on(row.replicas) : t.noReplicaTookPart}
        {row.attempts > 1 && t.whatFailedBeforeWasTried}
      </Step>
      <Step title={t.answered}>{t.withTokens(<Status status={row.status} />, count(row.completion_tokens), row.reasoning_tokens > 0 && t.ofThemReasoning(count(row.reasoning_tokens)))}</Step>
      <Step title={t.booked}>{t.fromKeyToRevenueIn(usd(row.amount_nanousd), row.key_id, <To to="/billing" search={{ tab: "ledger", org: row.org }}>{t.ledgerOf(row.org)}</To>)}</Step>
    </ol>
  );
}

function Step({ title, children }: { title: string; children: ReactNode }) {
  return <li><Text fw={600} size="sm">{title}</Text><Text size="sm" component="div">{children}</Text></li>;
}

function Cost({ row }: { row: Row }) {
  const { may } = useSession();
  const { data } = useQuery({
    queryKey: ["prices", "version", row.price_version],
    enabled: may("money.read"),
    queryFn: async () =>
      (await got(api.GET("/admin/v1/prices", { params: { query: { version: row.price_version, limit: 1 } } }))).data[0] ?? null,
  });
  const lines: [string, number, number | undefined][] = [
    [t.promptNew, row.prompt_tokens - row.cached_tokens, data?.input_nanousd],
    [t.promptCachedByTheServer, row.cached_tokens, data?.cached_input_nanousd],
    [t.completion, row.completion_tokens - row.reasoning_tokens, data?.output_nanousd],
    [t.reasoning, row.reasoning_tokens, data?.reasoning_nanousd],
  ];
  const saved = row.baseline_nanousd - row.amount_nanousd;
  return (
    <Stack gap="xs">
      <Table aria-label={t.cost} verticalSpacing={4}>
        <Table.Tbody>
          {lines.filter(([name, tokens]) => tokens > 0 || name !== t.reasoning).map(([name, tokens, price]) => (
            <Table.Tr key={name}>
              <Table.Th scope="row" fw={400}>{name}</Table.Th>
              <Table.Td className="num">{count(tokens)}</Table.Td>
              <Table.Td className="num">{price === undefined ? "" : usd(tokens * price)}</Table.Td>
            </Table.Tr>
          ))}
          <Table.Tr>
            <Table.Th scope="row">{t.billed}</Table.Th><Table.Td />
            <Table.Td className="num"><b>{usd(row.amount_nanousd)}</b></Table.Td>
          </Table.Tr>
        </Table.Tbody>
      </Table>
      {saved > 0 && (
        <Text size="sm">{t.lessThanTheDearestWay(usd(saved), percent(saved, row.baseline_nanousd))}</Text>
      )}
      <Text size="xs" c="dimmed">{t.price(row.price_version, row.source !== "upstream" && t.anAnswerThatNoModel)}</Text>
    </Stack>
  );
}

function Facts({ facts }: { facts: [string, ReactNode][] }) {
  return (
    <Stack gap={6}>
      {facts.map(([name, value]) => (
        <Group key={name} justify="space-between" wrap="nowrap" align="flex-start" gap="md">
          <Text size="sm" c="dimmed">{name}</Text>
          <Text size="sm" component="div" ta="right" style={{ overflowWrap: "anywhere" }}>{value}</Text>
        </Group>
      ))}
    </Stack>
  );
}
