// Routes: their tiers and aim, what another aim would give, how the traffic of late was shared out, what was learnt.
import { Button, Group, SimpleGrid, Stack, Text, Textarea } from "@mantine/core";
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, got, type Schemas } from "../api/client";
import { begins, count, day, percent, usd } from "../format";
import { Action } from "../parts/action";
import { Aim } from "../parts/aim";
import { Explained } from "../parts/explained";
import { type Search, To } from "../parts/link";
import { useSession } from "../session";
import { Card, Empty, Failed, Heading, Loading } from "../parts/states";
import { words } from "../words";

const t = words.routing;

const AIMS: Record<string, string> = {
  large_share: t.ofRequestsToTheLargest,
  quality: t.ofTheLargestTiersQuality,
  cost_per_request_usd: t.usdPerRequest,
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
  const heading = <Heading title={t.routing} about={t.aRouteIsAVirtual} />;
  if (isPending) return <>{heading}<Loading /></>;
  if (error) return <>{heading}<Failed error={error} again={() => void refetch()} /></>;
  return (
    <>
      {heading}
      {data.routes.length === 0 ? (
        <Card><Empty title={t.noRoute}>{t.addARoutesTableWith()}</Empty></Card>
      ) : (
        <SimpleGrid cols={{ base: 1, lg: 2 }}>
          {data.routes.map((route) => <Route key={route.name} route={route} usage={data.usage} />)}
          <WhatIf />
          <Learnt rows={data.learnt} />
          {data.routes.map((route) => <Aim key={route.name} route={route} />)}
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
    <Card title={route.name} side={<To to="/playground" search={{ model: route.name }}>{t.tryIt}</To>}>
      <Stack gap="sm">
        {Object.entries(route.objective).map(([name, value]) => (
          <Text size="sm" key={name}>{t.aim(name === "cost_per_request_usd" ? value : percent(Number(value), 1), AIMS[name] ?? name)}</Text>
        ))}
        {route.tiers.map((tier, place) => {
          const rows = of(tier);
          const requests = sum(rows, "requests");
          return (
            <div key={tier}>
              <Group justify="space-between" wrap="nowrap">
                <Text size="sm">{place + 1}. <To to="/requests" search={{ model: tier }}>{tier}</To></Text>
                <Text size="sm" className="num">{requests === 0 ? t.noneInAWeek : t.each(percent(requests, all), <To to="/requests" search={{ model: tier, source: "upstream", from: begins(day(new Date(), 7)) }}>{count(requests)}</To>, usd(sum(rows, "amount_nanousd") / requests))}</Text>
              </Group>
              <div className="bar" aria-hidden><div style={{ width: `${all ? (100 * requests) / all : 0}%` }} /></div>
            </div>
          );
        })}
        <Text size="xs" c="dimmed">{t.whatTheseModelsAnsweredIn(route.fallback.length > 0 && t.whenNoTierIsReady(route.fallback.join(", ")))}</Text>
      </Stack>
    </Card>
  );
}

/** The filters of a tenant's requests: accounts are org:NAME, project:ORGANISATION/NAME, key:ID. */
function whose(tenant: string): Search {
  const [, kind, name = ""] = /^(org|project|key):(.*)$/s.exec(tenant) ?? [];
  const [org, ...project] = name.split("/");
  return kind === "key" ? { key_id: name } : kind === "project" ? { org, project: project.join("/") } : kind === "org" ? { org: name } : {};
}

/** What labels of live traffic say: feedback, and shadows that asked the other tier too. */
function Learnt({ rows }: { rows: readonly Schemas["Learnt"][] }) {
  const { may } = useSession();
  return (
    <Card title={t.shadowFeedbackAndRegret}>
      {rows.length === 0 ? (
        <Empty title={t.noLabelsYet}>{t.theyComeFromPostV()}</Empty>
      ) : (
        <Stack gap="sm">
          {rows.map((one) => (
            <div key={one.route}>
              <Group justify="space-between">
                <Text size="sm" fw={600}>{one.route}</Text>
                {may("fleet.write") && one.restorable && (
                  <Action
                    size="compact-xs" label={t.takeTheResetBack} title={t.bringBackWhatLearnt(one.route)} confirm={t.takeBack}
                    act={() => got(api.POST("/admin/v1/routing/learning/restore", { body: { route: one.route } }))}
                  >
                    <Text size="sm">{t.whatWasInForceBefore}</Text>
                  </Action>
                )}
                {may("fleet.write") && (
                  <Action
                    size="compact-xs" danger label={t.goBackToWhatIs} title={t.forgetWhatLearnt(one.route)} confirm={t.goBack}
                    act={() => got(api.POST("/admin/v1/routing/learning/reset", { body: { route: one.route } }))}
                  >
                    <Text size="sm">{t.theShippedOrderAnd}</Text>
                  </Action>
                )}
              </Group>
              <Text size="sm">{t.labelsWithBothTiersOutcomes(<To to="/requests" search={{ route: one.route, source: "upstream" }}>{count(one.labels)}</To>, <To to="/requests" search={{ route: one.route, source: "upstream" }}>{count(one.both)}</To>, one.regret === null ? t.notKnownYet : percent(one.regret, 1), one.regret !== null && t.ofTheQualityThatThe, one.calibrated ? t.calibratedOnThem : t.notCalibratedOnThemYet)}</Text>
              {Object.entries(one.trials).map(([tenant, trial]) => (
                <Text size="xs" c="dimmed" key={tenant}>{t.challengerShippedShareOfThe(tenant, trial.challenger.toFixed(3), trial.shipped.toFixed(3), <To to="/requests" search={{ route: one.route, source: "upstream", ...whose(tenant) }}>{count(trial.labels)}</To>, one.in_force.includes(tenant) ? t.theChallengerIsInForce : t.theShippedOrderStays)}</Text>
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
    <Card title={t.whatIf}>
      <form onSubmit={(event) => { event.preventDefault(); run.mutate(); }}>
        <Stack gap="sm" align="flex-start">
          <Textarea w="100%" label={t.aPrompt} description={t.whichTierWouldItGet} value={prompt} onChange={(event) => setPrompt(event.currentTarget.value)} autosize minRows={3} maxRows={10} required />
          <Button type="submit" loading={run.isPending}>{t.tryIt}</Button>
          {run.error && <Failed error={run.error} />}
          <div role="status">
            {run.data && <Text size="sm">{t.scoreHowMuchTheLargest(run.data.score.toFixed(3))}</Text>}
            {run.data?.routes.map((one) => (
              <Text size="sm" key={one.route}>{t.wouldChoose(one.route, one.tier, one.tiers.slice(1).map((tier, at) => `${tier} from ${(one.thresholds[at] ?? 0).toFixed(3)}`).join(", "))}</Text>
            ))}
            {run.data?.explanation && <Explained known={run.data.explanation} />}
          </div>
        </Stack>
      </form>
    </Card>
  );
}
