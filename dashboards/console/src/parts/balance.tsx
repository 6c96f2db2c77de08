import { Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { api, got } from "../api/client";
import { usd } from "../format";
import { To } from "./link";
import { Card, Failed } from "./states";

/** What is left on an account. */
export function Balance({ account, org }: { account: string; org: string }) {
  const { data, error } = useQuery({
    queryKey: ["balance", account],
    queryFn: () => got(api.GET("/admin/v1/balance", { params: { query: { account } } })),
  });
  return (
    <Card title="Credit" side={<To to="/billing" search={{ org }}>Movements</To>}>
      {error ? <Failed error={error} /> : (
        <>
          <div className="figure">{data ? usd(data.balance_nanousd) : "…"}</div>
          <Text size="xs" c="dimmed">What was put in less what was used. It binds only where the limits name a kind of credit.</Text>
        </>
      )}
    </Card>
  );
}
