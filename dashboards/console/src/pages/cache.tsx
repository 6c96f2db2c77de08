// How often an earlier answer served again, and what that saved.
import { SimpleGrid, Stack, Table, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { api, got } from "../api/client";
import { brief, count, day, percent, usd } from "../format";
import { Source } from "../parts/badges";
import { Chart } from "../parts/chart";
import { To } from "../parts/link";
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
      {live.data && (
        <Stack mt="md"><Card title="Exact cache now"><Text size="sm">{count(live.data.cache_entries)} answers, {brief(live.data.cache_bytes)} bytes in this gateway's memory.</Text></Card></Stack>
      )}
    </>
  );
}
