// What works and what does not: models, loops, parts, and whether the books agree.
import { Group, SimpleGrid, Stack, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { api, got } from "../api/client";
import { Status } from "../parts/badges";
import { Books } from "../parts/books";
import { To } from "../parts/link";
import { Card, Failed, Heading, Loading } from "../parts/states";
import { useSession } from "../session";
import { words } from "../words";

const t = words.health;

export default function Health() {
  const { may } = useSession();
  const { data, error, refetch } = useQuery({ queryKey: ["live"], queryFn: () => got(api.GET("/admin/v1/live")), refetchInterval: 5_000 });
  const heading = <Heading title={t.health} about={t.askedEveryFiveSeconds}>{data && <Status status={data.status} />}</Heading>;
  if (error && !data) return <>{heading}<Failed error={error} again={() => void refetch()} /></>;
  if (!data) return <>{heading}<Loading /></>;
  const { models = {}, loops = {}, ...rest } = data.parts as { models?: Record<string, string>; loops?: Record<string, string> } & Record<string, string>;
  const troubles = [...Object.entries(loops), ...Object.entries(rest)];
  return (
    <>
      {heading}
      <SimpleGrid cols={{ base: 1, md: 2 }}>
        <Card title={t.models} side={<To to="/fleet">{t.modelsFleet}</To>}>
          <Stack gap="xs">
            {Object.entries(models).map(([name, state]) => (
              <Group key={name} justify="space-between" wrap="nowrap"><Text size="sm" style={{ overflowWrap: "anywhere" }}>{name}</Text><Status status={state} /></Group>
            ))}
          </Stack>
        </Card>
        <Stack>
          <Card title={t.parts}>
            {troubles.length === 0 ? <Text size="sm">{t.databaseJournalProbesAndRoll}</Text> : (
              <Stack gap="xs">{troubles.map(([name, said]) => <Text size="sm" key={name} style={{ color: "var(--bad)" }}>{name}: {String(said)}</Text>)}</Stack>
            )}
          </Card>
          {may("money.read") && <Books gap_nanousd={data.ledger_gap_nanousd} />}
        </Stack>
      </SimpleGrid>
    </>
  );
}
