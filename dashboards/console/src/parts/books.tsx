import { Button, Stack, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { api, got } from "../api/client";
import { begins, count, day, usd } from "../format";
import { To } from "./link";
import { Card, Failed } from "./states";
import { words } from "../words";

const t = words.books;

/** Holds the books against each other when asked: it reads a week of the ledger. */
export function Books({ gap_nanousd }: { gap_nanousd?: number | null }) {
  const run = useQuery({
    queryKey: ["reconcile"],
    enabled: false,
    queryFn: () => got(api.GET("/admin/v1/ledger/reconcile", { params: { query: { days: 7 } } })),
  });
  const report = run.data?.report;
  return (
    <Card title={t.books}>
      <Stack gap="xs" align="flex-start">
        {gap_nanousd !== undefined && <Text size="sm">{t.gapAtTheLastLook(gap_nanousd === null ? t.notKnownYet : usd(gap_nanousd))}</Text>}
        <Text size="sm" c="dimmed">{t.ledgerJournalRollUpsAnd}</Text>
        <Button size="xs" variant="default" loading={run.isFetching} onClick={() => void run.refetch()}>{t.reconcileNow}</Button>
        {run.error && <Failed error={run.error} />}
        <div role="status">
          {report && (
            <Text size="sm">{t.rowsOfThemInThe(run.data?.well ? t.everythingAgrees : t.somethingDoesNotAgree, <To to="/requests" search={{ from: begins(day(new Date(), 7)) }}>{count(report.rows ?? 0)}</To>, count(report.journal_entries ?? 0), usd(report.gap_nanousd ?? 0))}</Text>
          )}
          {(["missing", "doubled", "altered"] as const).flatMap((what) => (report?.[what] ?? []).map((id) => <Text size="sm" key={what + id}>{what}: <To to={`/requests/${id}`}>{id}</To></Text>))}
          {[...(report?.groups ?? []), ...(report?.balances ?? []), ...(report?.minutes ?? [])].map((one) => <Text size="sm" key={one.what}>{t.mustBe(one.what, usd(one.found), usd(one.expected))}</Text>)}
        </div>
      </Stack>
    </Card>
  );
}
