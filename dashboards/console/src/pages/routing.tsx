// Routes: their tiers and aim, what another aim would give, how the traffic of late was shared out, what was learnt.
import { Button, Group, SimpleGrid, Stack, Text, Textarea } from "@mantine/core";
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, got, type Schemas } from "../api/client";
import { count, day, percent, usd } from "../format";
import { Action } from "../parts/action";
import { Aim } from "../parts/aim";
import { To } from "../parts/link";
import { useSession } from "../session";
import { Card, Empty, Failed, Heading, Loading } from "../parts/states";

const AIMS: Record<string, string> = {
  large_share: "of requests to the largest tier, at most",
  quality: "of the largest tier's quality, at least",
  cost_per_request_usd: "USD per request",
};

export default function Routing() {
  const { data, error, isPending, refetch } = useQuery({
    queryKey: ["routes"],
    queryFn: async () => {
      const query = { from_day: day(new Date(), 7), by: ["model", "source"] as ("model" | "source")[] };
      const [routes, usage, learning] = await Promise.all([
        got(api.GET("/admin/v1/routes", { params: { query: { limit: 200 } } })),
        got(api.GET("/admin/v1/usage", { params: { query } })),
        got(api.GET("/admin/v1/routing/learning")),
      ]);
      return { routes: routes.data, usage: usage.data, learnt: learning.data };
    },
  });
  if (isPending) return <Loading />;
  if (error) return <Failed error={error} again={() => void refetch()} />;
  return (
    <>
      <Heading title="Routing" about="A route is a virtual model: each request goes to the cheapest tier that the aim allows." />
      {data.routes.length === 0 ? (
        <Card><Empty title="No route">Add a <span className="code">[[routes]]</span> table with tiers and an objective to the configuration file, then read it again in <To to="/settings">settings</To>.</Empty></Card>
      ) : (
        <SimpleGrid cols={{ base: 1, lg: 2 }}>
          {data.routes.map((route) => <Route key={route.name} route={route} usage={data.usage} />)}
          {data.routes.map((route) => <Aim key={route.name} route={route} />)}
          <Learnt rows={data.learnt} />
          <WhatIf />
        </SimpleGrid>
      )}
    </>
  );
}

function Route({ route, usage }: { route: Schemas["ShownRoute"]; usage: readonly Schemas["Sum"][] }) {
  const of = (model: string) => usage.filter((row) => row.model === model && row.source === "upstream");
  const sum = (rows: readonly Schemas["Sum"][], field: "requests" | "amount_nanousd") => rows.reduce((total, row) => total + row[field], 0);
  const all = route.tiers.reduce((total, tier) => total + sum(of(tier), "requests"), 0);
  return (
    <Card title={route.name} side={<To to="/playground" search={{ model: route.name }}>Try it</To>}>
      <Stack gap="sm">
        {Object.entries(route.objective).map(([name, value]) => (
          <Text size="sm" key={name}>
            Aim: <b>{name === "cost_per_request_usd" ? value : percent(Number(value), 1)}</b> {AIMS[name] ?? name}
          </Text>
        ))}
        {route.tiers.map((tier, place) => {
          const rows = of(tier);
          const requests = sum(rows, "requests");
          return (
            <div key={tier}>
              <Group justify="space-between" wrap="nowrap">
                <Text size="sm">{place + 1}. <To to="/requests" search={{ model: tier }}>{tier}</To></Text>
                <Text size="sm" className="num">{percent(requests, all)} · {count(requests)} · {requests ? usd(sum(rows, "amount_nanousd") / requests) : "—"} each</Text>
              </Group>
              <div className="bar" aria-hidden><div style={{ width: `${all ? (100 * requests) / all : 0}%` }} /></div>
            </div>
          );
        })}
        <Text size="xs" c="dimmed">
          What these models answered in the last 7 days, asked by name or by route.
          {route.fallback.length > 0 && ` When no tier is ready: ${route.fallback.join(", ")}.`}
        </Text>
      </Stack>
    </Card>
  );
}

/** What labels of live traffic say: feedback, and shadows that asked the other tier too. */
function Learnt({ rows }: { rows: readonly Schemas["Learnt"][] }) {
  const { may } = useSession();
  return (
    <Card title="Shadow, feedback and regret">
      {rows.length === 0 ? (
        <Empty title="No labels yet">They come from <span className="code">POST /v1/feedback</span>, and from a route's <span className="code">shadow</span>, which asks a share of requests on the other tier too.</Empty>
      ) : (
        <Stack gap="sm">
          {rows.map((one) => (
            <div key={one.route}>
              <Group justify="space-between">
                <Text size="sm" fw={600}>{one.route}</Text>
                {may("fleet.write") && (
                  <Action
                    size="compact-xs" danger label="Go back to what is shipped" title={`Forget what ${one.route} learnt`} confirm="Go back"
                    act={() => got(api.POST("/admin/v1/routing/learning/reset", { body: { route: one.route } }))}
                  >
                    <Text size="sm">The shipped order and calibration are in force again for all tenants of this route; the labels stay.</Text>
                  </Action>
                )}
              </Group>
              <Text size="sm" className="num">
                {count(one.labels)} labels, {count(one.both)} with both tiers' outcomes. Regret {one.regret === null ? "not known yet" : percent(one.regret, 1)}
                {one.regret !== null && " of the quality that the best choice of each request had given"}. {one.calibrated ? "Calibrated on them." : "Not calibrated on them yet."}
              </Text>
              {Object.entries(one.trials).map(([tenant, trial]) => (
                <Text size="xs" c="dimmed" className="num" key={tenant}>
                  {tenant}: challenger {trial.challenger.toFixed(3)}, shipped {trial.shipped.toFixed(3)} (share of the perfect gain, on {count(trial.labels)} labels left out);
                  {one.in_force.includes(tenant) ? " the challenger is in force." : " the shipped order stays."}
                </Text>
              ))}
            </div>
          ))}
        </Stack>
      )}
    </Card>
  );
}

/** Which tier a pasted prompt would get now. */
function WhatIf() {
  const [prompt, setPrompt] = useState("");
  const run = useMutation({ mutationFn: () => got(api.POST("/admin/v1/routing/what-if", { body: { prompt } })) });
  return (
    <Card title="What if">
      <form onSubmit={(event) => { event.preventDefault(); run.mutate(); }}>
        <Stack gap="sm" align="flex-start">
          <Textarea w="100%" label="A prompt" description="Which tier would it get now? Nothing is asked, billed or kept." value={prompt} onChange={(event) => setPrompt(event.currentTarget.value)} autosize minRows={3} maxRows={10} required />
          <Button type="submit" loading={run.isPending}>Try it</Button>
          {run.error && <Failed error={run.error} />}
          <div role="status">
            {run.data && <Text size="sm">Score <b>{run.data.score.toFixed(3)}</b>: how much the largest tier is expected to gain, from 0 to 1.</Text>}
            {run.data?.routes.map((one) => (
              <Text size="sm" key={one.route}>
                <b>{one.route}</b> would choose <b>{one.tier}</b>; {one.tiers.slice(1).map((tier, at) => `${tier} from ${(one.thresholds[at] ?? 0).toFixed(3)}`).join(", ")}.
              </Text>
            ))}
            {run.data?.explanation && (
              <>
                <Text size="sm" mt="xs">What moved the score: {run.data.explanation.effects.map((one) => `${one.feature} ${one.share >= 0 ? "+" : "−"}${percent(Math.abs(one.share), 1)}`).join(", ")}.</Text>
                <Text size="sm" mt="xs">Known requests that are most alike:</Text>
                {run.data.explanation.examples.map((one) => (
                  <Text size="xs" c="dimmed" key={one.text}>{percent(one.similarity, 1)} alike: “{one.text}” ({one.kind}, expected gain {one.gain.toFixed(2)})</Text>
                ))}
              </>
            )}
          </div>
        </Stack>
      </form>
    </Card>
  );
}
