import { Button, Stack, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { api, got } from "../api/client";
import { count, usd } from "../format";
import { To } from "./link";
import { Card, Failed } from "./states";

/** Holds the books against each other when asked: it reads a week of the ledger. */
export function Books({ gap_nanousd }: { gap_nanousd?: number | null }) {
  const run = useQuery({
    queryKey: ["reconcile"],
    enabled: false,
    queryFn: () => got(api.GET("/admin/v1/ledger/reconcile", { params: { query: { days: 7 } } })),
  });
  const report = run.data?.report;
  return (
    <Card title="Books">
      <Stack gap="xs" align="flex-start">
        {gap_nanousd !== undefined && <Text size="sm">Gap at the last look: {gap_nanousd === null ? "not known yet" : usd(gap_nanousd)}</Text>}
        <Text size="sm" c="dimmed">Ledger, journal, roll-ups and balances of the last seven days, one against the other.</Text>
        <Button size="xs" variant="default" loading={run.isFetching} onClick={() => void run.refetch()}>Reconcile now</Button>
        {run.error && <Failed error={run.error} />}
        <div role="status">
          {report && (
            <Text size="sm">
              {run.data?.well ? "Everything agrees" : "Something does not agree"}: {count(report.rows ?? 0)} rows, {count(report.journal_entries ?? 0)} of them in the journal, gap {usd(report.gap_nanousd ?? 0)}.
            </Text>
          )}
          {(["missing", "doubled", "altered"] as const).flatMap((what) => (report?.[what] ?? []).map((id) => <Text size="sm" key={what + id}>{what}: <To to={`/requests/${id}`}>{id}</To></Text>))}
          {[...(report?.groups ?? []), ...(report?.balances ?? [])].map((one) => <Text size="sm" key={one.what}>{one.what}: {usd(one.found)}, must be {usd(one.expected)}</Text>)}
        </div>
      </Stack>
    </Card>
  );
}
