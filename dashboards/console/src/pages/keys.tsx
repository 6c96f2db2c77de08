// All API keys that one may see.
import { Group } from "@mantine/core";
import { Filter } from "../parts/filter";
import { text, useFilters } from "../parts/filters";
import { KeyList, NewKey } from "../parts/keys";
import { Card, Heading } from "../parts/states";
import { useSession } from "../session";
import { words } from "../words";

const t = words.keys;

const FIELDS = { org: t.organisation, project: t.project, name: t.name } as const;

export default function Keys() {
  const [filters, set] = useFilters();
  const { may } = useSession();
  const wanted = Object.fromEntries(Object.keys(FIELDS).map((name) => [name, text(filters[name])]));
  return (
    <>
      <Heading title={t.apiKeys} about={t.onlyAHashOfEach}>{may("tenants.write") && <NewKey />}</Heading>
      <Card>
        <Group gap="xs" mb="sm" role="search" aria-label={t.filterKeys}>
          {Object.entries(FIELDS).map(([name, label]) => (
            <Filter key={name} label={label} width={170} hint={t.exact} value={text(filters[name])} set={(value) => set({ [name]: value })} />
          ))}
        </Group>
        <KeyList filters={wanted} />
      </Card>
    </>
  );
}
