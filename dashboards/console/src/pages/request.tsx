// One request explained: what was asked, who answered, how often it was tried, what it cost and why.
import { Code, Group, SimpleGrid, Stack, Table, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useParams } from "@tanstack/react-router";
import type { ReactNode } from "react";
import { api, got, type Schemas } from "../api/client";
import { count, moment, percent, usd } from "../format";
import { Copy } from "../parts/action";
import { Source, Status } from "../parts/badges";
import { To } from "../parts/link";
import { Card, Empty, Failed, Heading, Loading } from "../parts/states";
import { useSession } from "../session";

type Row = Schemas["RequestRow"];

export default function Request() {
  const { id } = useParams({ strict: false }) as { id: string };
  const { data, error, isPending, refetch } = useQuery({
    queryKey: ["requests", id],
    queryFn: async () =>
      (await got(api.GET("/admin/v1/requests", { params: { query: { request_id: id, limit: 1 } } }))).data[0] ?? null,
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
  return <Explained row={data} />;
}

function Explained({ row }: { row: Row }) {
  const curl = `curl ${location.origin}/v1/chat/completions -H "authorization: Bearer $KEY" -H "content-type: application/json" \\\n  -d '{"model": "${row.route || row.model}", "messages": [{"role": "user", "content": "..."}]}'`;
  return (
    <>
      <Heading title={<span className="code">{row.request_id}</span>} about={moment(row.ts)}><Status status={row.status} /></Heading>
      <SimpleGrid cols={{ base: 1, lg: 2 }}>
        <Card title="What happened"><Steps row={row} /></Card>
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

function Steps({ row }: { row: Row }) {
  const cached = row.source !== "upstream";
  return (
    <ol className="steps">
      <Step title="Asked">
        {row.operation || "A request"} for <b>{row.route || row.model}</b>, in the {row.service} service,
        with {count(row.prompt_tokens)} tokens{row.estimated ? " (estimated: the server told none)" : ""}.
      </Step>
      <Step title="Looked up">
        {cached ? <>Answered as: <b><Source source={row.source} /></b>.</> : "No earlier answer fitted, so a model was asked."}
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
      <Step title="Booked">{usd(row.amount_nanousd)} from <span className="code">key:{row.key_id}</span> to revenue.</Step>
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
