import { Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { api, got } from "../api/client";
import { usd } from "../format";
import { To } from "./link";
import { Card, Failed } from "./states";
import { words } from "../words";

const t = words.balance;

/** What is left on an account. */
export function Balance({ account, org }: { account: string; org: string }) {
  const { data, error } = useQuery({
    queryKey: ["balance", account],
    queryFn: () => got(api.GET("/admin/v1/balance", { params: { query: { account } } })),
  });
  return (
    <Card title={t.credit} side={<To to="/billing" search={{ org }}>{t.movements}</To>}>
      {error ? <Failed error={error} /> : (
        <>
          <div className="figure">{data ? usd(data.balance_nanousd) : "…"}</div>
          <Text size="xs" c="dimmed">{t.whatWasPutInLess}</Text>
        </>
      )}
    </Card>
  );
}
