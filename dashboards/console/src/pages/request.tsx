// One request explained: what was asked, who answered, how often it was tried, what it cost and why.
import { Code, Group, SimpleGrid, Stack, Table, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useParams } from "@tanstack/react-router";
import type { ReactNode } from "react";
import { api, Failure, got, type Schemas } from "../api/client";
import { count, duration, moment, percent, usd } from "../format";
import { Copy } from "../parts/action";
import { Source, Status } from "../parts/badges";
import { To } from "../parts/link";
import { Card, Empty, Failed, Heading, Loading } from "../parts/states";
import { useSession } from "../session";

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
        if (failure instanceof Failure && failure.status === 404) return null;
        throw failure;
      }
    },
    refetchInterval: (query) => (query.state.data?.booked ? false : 2_000),
  });
  if (isPending) return <Loading />;
  if (error) return <Failed error={error} again={() => void refetch()} />;
  if (data === null) {
    return (
      <Empty title="No settled request has this id">
        It may still be under way: requests appear within seconds of their end. Back to <To to="/requests">all requests</To>.
      </Empty>
    );
  }
  if (data.booked === null) return <><Heading title={<span className="code">{id}</span>} /><Text size="sm">It has ended and is being booked.</Text></>;
  return <Explained row={data.booked} line={data.decision} />;
}

function Explained({ row, line }: { row: Row; line: Line | null }) {
  const curl = `curl ${location.origin}/v1/chat/completions -H "authorization: Bearer $KEY" -H "content-type: application/json" \\\n  -d '{"model": "${row.route || row.model}", "messages": [{"role": "user", "content": "..."}]}'`;
  return (
    <>
      <Heading title={<span className="code">{row.request_id}</span>} about={moment(row.ts)}><Status status={row.status} /></Heading>
      <SimpleGrid cols={{ base: 1, lg: 2 }}>
        <Stack>
          <Card title="What happened"><Steps row={row} line={line} /></Card>
          <Replay row={row} line={line} />
        </Stack>
        <Stack>
          <Card title="What it cost"><Cost row={row} /></Card>
          <Card title="Whose it is">
            <Facts facts={[
              ["Organisation", <To key="o" to="/requests" search={{ org: row.org }}>{row.org}</To>],
              ["Project", <To key="p" to="/requests" search={{ org: row.org, project: row.project }}>{row.project}</To>],
              ["Key", <To key="k" to={`/keys/${row.key_id}`}><span className="code">{row.key_id}</span></To>],
              ["End user", row.end_user ? <span key="e" className="code">{row.end_user}</span> : "not named"],
              ["Metadata", row.metadata ? <span key="m" className="code">{row.metadata}</span> : "none"],
            ]} />
          </Card>
          <Card title="Ask the same way" side={<Copy text={curl} label="Copy" />}>
            <Code block style={{ whiteSpace: "pre-wrap" }} tabIndex={0}>{curl}</Code>
            <Text size="xs" c="dimmed" mt={6}>Prompts are not kept, so yours stands for it.</Text>
          </Card>
        </Stack>
      </SimpleGrid>
    </>
  );
}

/** Where the time went, and the decision as it was noted; of the latest requests of the process that answers. */
function Replay({ row, line }: { row: Row; line: Line | null }) {
  if (line === null) {
    return <Card title="Decision"><Text size="sm" c="dimmed">Kept for the latest requests of each gateway process: this one is older, or another process answered it. Its bill stays.</Text></Card>;
  }
  const waited_ms = line.queue_ms;
  const first_ms = Math.max(0, line.first_byte_ms - waited_ms);
  const rest_ms = Math.max(0, line.total_ms - waited_ms - first_ms);
  const parts: [string, number][] = [["Waited in the queue", waited_ms], ["Until the first byte", first_ms], ["Until the end", rest_ms]];
  const tried = (line.replicas ?? []).map((replica, at) => `${replica}: ${line.outcomes?.[at] || "ok"}`);
  return (
    <>
      <Card title="Timeline" side={<Text size="sm" className="num">{duration(line.total_ms / 1000)}</Text>}>
        <Stack gap="xs">
          {parts.map(([name, ms]) => (
            <div key={name}>
              <Group justify="space-between"><Text size="sm">{name}</Text><Text size="sm" className="num">{duration(ms / 1000)}</Text></Group>
              <div className="bar" aria-hidden><div style={{ width: `${line.total_ms ? (100 * ms) / line.total_ms : 0}%` }} /></div>
            </div>
          ))}
        </Stack>
      </Card>
      <Card title="Decision">
        <Facts facts={[
          ["Asked for", line.asked],
          ["Among", (line.candidates ?? []).join(", ") || "only this one"],
          ["Chosen", <b key="m">{line.model}</b>],
          ["Why", line.reason || "named by the client"],
          ["Score", line.score == null ? "not needed" : line.score.toFixed(3)],
          ["Cache", <>{line.cache}{line.cache_entry && <> · <span className="code">{line.cache_entry.slice(0, 12)}</span></>}</>],
          ["Attempts", tried.join("; ") || "none: no model ran"],
          ["Status", line.error ? `${line.status}, ${line.error}` : String(line.status)],
          ["Streamed", line.streamed ? "yes" : "no"],
          ["Trace", line.trace_id ? <span key="t" className="code">{line.trace_id}</span> : "not traced"],
        ]} />
        {row.route && <Text size="sm" mt="sm"><To to="/routing" search={{ route: row.route }}>Try another prompt on this route</To></Text>}
      </Card>
    </>
  );
}

function Steps({ row, line }: { row: Row; line: Line | null }) {
  const cached = row.source !== "upstream";
  return (
    <ol className="steps">
      <Step title="Asked">
        {row.operation || "A request"} for <b>{row.route || row.model}</b>, in the {row.service} service,
        with {count(row.prompt_tokens)} tokens{row.estimated ? " (estimated: the server told none)" : ""}.
      </Step>
      <Step title="Looked up">
        {cached ? <>Answered as: <b><Source source={row.source} /></b>.</> : "No earlier answer fitted, so a model was asked."}
        {line?.cache_entry && <> Kept answer <span className="code">{line.cache_entry.slice(0, 12)}</span>, see the <To to="/cache">cache</To>.</>}
      </Step>
      <Step title="Routed">
        {row.route ? (
          <>The <To to="/routing">route {row.route}</To> chose <b>{row.model}</b> among its tiers.</>
        ) : (
          <>The client named <b>{row.model}</b>: nothing to choose.</>
        )}
      </Step>
      <Step title={cached ? "No model ran" : row.attempts === 1 ? "One attempt" : `${row.attempts} attempts`}>
        {row.replicas ? <>On <span className="code">{row.replicas}</span>.</> : "No replica took part."}
        {row.attempts > 1 && " What failed before was tried again elsewhere; the client saw one answer."}
      </Step>
      <Step title="Answered">
        <Status status={row.status} /> with {count(row.completion_tokens)} tokens
        {row.reasoning_tokens > 0 && `, ${count(row.reasoning_tokens)} of them reasoning`}.
      </Step>
      <Step title="Booked">{usd(row.amount_nanousd)} from <span className="code">key:{row.key_id}</span> to <span className="code">revenue</span>, in the <To to="/billing" search={{ tab: "ledger", org: row.org }}>ledger of {row.org}</To>.</Step>
    </ol>
  );
}

function Step({ title, children }: { title: string; children: ReactNode }) {
  return <li><Text fw={600} size="sm">{title}</Text><Text size="sm" component="div">{children}</Text></li>;
}

function Cost({ row }: { row: Row }) {
  const { may } = useSession();
  const { data } = useQuery({
    queryKey: ["prices", row.price_version],
    enabled: may("money.read"),
    queryFn: async () =>
      (await got(api.GET("/admin/v1/prices", { params: { query: { version: row.price_version, limit: 1 } } }))).data[0] ?? null,
  });
  const lines: [string, number, number | undefined][] = [
    ["Prompt, new", row.prompt_tokens - row.cached_tokens, data?.input_nanousd],
    ["Prompt, cached by the server", row.cached_tokens, data?.cached_input_nanousd],
    ["Completion", row.completion_tokens - row.reasoning_tokens, data?.output_nanousd],
    ["Reasoning", row.reasoning_tokens, data?.reasoning_nanousd],
  ];
  const saved = row.baseline_nanousd - row.amount_nanousd;
  return (
    <Stack gap="xs">
      <Table aria-label="Cost" verticalSpacing={4}>
        <Table.Tbody>
          {lines.filter(([name, tokens]) => tokens > 0 || name !== "Reasoning").map(([name, tokens, price]) => (
            <Table.Tr key={name}>
              <Table.Th scope="row" fw={400}>{name}</Table.Th>
              <Table.Td className="num">{count(tokens)}</Table.Td>
              <Table.Td className="num">{price === undefined ? "" : usd(tokens * price)}</Table.Td>
            </Table.Tr>
          ))}
          <Table.Tr>
            <Table.Th scope="row">Billed</Table.Th><Table.Td />
            <Table.Td className="num"><b>{usd(row.amount_nanousd)}</b></Table.Td>
          </Table.Tr>
        </Table.Tbody>
      </Table>
      {saved > 0 && (
        <Text size="sm">{usd(saved)} ({percent(saved, row.baseline_nanousd)}) less than the dearest way would have cost.</Text>
      )}
      <Text size="xs" c="dimmed">
        Price <span className="code">{row.price_version}</span>
        {row.source !== "upstream" && "; an answer that no model gave has its own factor"}
      </Text>
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
