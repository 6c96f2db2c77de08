// Ask two models or routes the same and watch: the answers as they stream, what the gateway decided, the cost.
import { Button, Code, Group, PasswordInput, SimpleGrid, Stack, Table, Tabs, Text, Textarea, TextInput } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { duration, usd } from "../format";
import { Copy } from "../parts/action";
import { text, useFilters } from "../parts/filters";
import { To } from "../parts/link";
import { Card, Failed, Heading } from "../parts/states";
import { ask, type Heard, NOTHING_HEARD } from "../stream";
import { words } from "../words";

const t = words.playground;

export default function Playground() {
  const [filters, set] = useFilters();
  const [key, setKey] = useState("");
  const [prompt, setPrompt] = useState(t.nameThreeUsesOfA);
  const one = text(filters.model) ?? "";
  const other = text(filters.other) ?? "";
  const [heard, setHeard] = useState<Heard[]>([NOTHING_HEARD, NOTHING_HEARD]);
  const [stop, setStop] = useState<AbortController | null>(null);
  const models = useQuery({
    queryKey: ["playground", "models", key],
    enabled: key.length > 8,
    retry: false,
    queryFn: async () => {
      const reply = await fetch("/v1/models", { headers: { authorization: `Bearer ${key}` } });
      const body = (await reply.json()) as { data?: { id: string }[]; error?: { message: string } };
      if (!reply.ok) throw new Error(body.error?.message ?? t.theGatewayAnswered(reply.status));
      return body.data?.map((model) => model.id) ?? [];
    },
  });
  const first = one || models.data?.[0] || "";
  useEffect(() => () => stop?.abort(), [stop]); // who leaves the page hears no more, and pays for no more

  async function run() {
    const controller = new AbortController();
    setStop(controller);
    setHeard([NOTHING_HEARD, NOTHING_HEARD]);
    const say = (place: number) => (now: Heard) => setHeard((all) => all.map((was, at) => (at === place ? now : was)));
    const wanted = [first, other].filter(Boolean);
    await Promise.all(wanted.map((model, place) => ask({ key, model, prompt, signal: controller.signal }, say(place))));
    setStop(null);
  }

  return (
    <>
      <Heading title={t.playground} about={t.realRequestsWithAKey} />
      <Stack>
        <Card>
          <form onSubmit={(event) => { event.preventDefault(); void run(); }}>
            <Stack gap="sm">
              <SimpleGrid cols={{ base: 1, sm: 3 }}>
                <PasswordInput label={t.apiKey} description={t.keptInThisPageOnly} value={key} onChange={(event) => setKey(event.currentTarget.value)} required autoComplete="off" error={models.error?.message} />
                <TextInput label={t.modelOrRoute} description={models.data ? t.yours(models.data.join(", ")) : t.yourKeyTellsWhich} value={one} placeholder={first} onChange={(event) => set({ model: event.currentTarget.value })} list="models" required={first === ""} />
                <TextInput label={t.besideIt} description={t.anotherOneToCompare} value={other} onChange={(event) => set({ other: event.currentTarget.value })} list="models" placeholder={t.none} />
              </SimpleGrid>
              <datalist id="models">{models.data?.map((model) => <option key={model} value={model} />)}</datalist>
              <Textarea label={t.prompt} value={prompt} onChange={(event) => setPrompt(event.currentTarget.value)} autosize minRows={3} maxRows={12} required />
              <Group>
                <Button type="submit" loading={stop !== null}>{t.send}</Button>
                {stop && <Button variant="default" onClick={() => stop.abort()}>{t.stop}</Button>}
                {key === "" && <Text size="sm" c="dimmed">{t.noKeyAtHandMake()}</Text>}
              </Group>
            </Stack>
          </form>
        </Card>
        <SimpleGrid cols={{ base: 1, md: other ? 2 : 1 }}>
          {[first, other].map((model, place) => (place === 0 || model ? <Answer key={place} model={model} heard={heard[place] ?? NOTHING_HEARD} /> : null))}
        </SimpleGrid>
        <Snippets model={first || "auto"} prompt={prompt} />
      </Stack>
    </>
  );
}

function Answer({ model, heard }: { model: string; heard: Heard }) {
  return (
    <Card title={model || t.answer} side={heard.status === null ? undefined : <Text size="sm" c="dimmed">{heard.status}{heard.first_s !== null && t.firstToken(duration(heard.first_s))}{heard.whole_s !== null && t.whole(duration(heard.whole_s))}</Text>}>
      {heard.error && <Failed error={new Error(heard.error)} />}
      <Text size="sm" style={{ whiteSpace: "pre-wrap", overflowWrap: "anywhere", minHeight: "3em" }} aria-live="polite">{heard.text || (heard.error ? "" : t.theAnswerAppearsHereAs)}</Text>
      {heard.status !== null && (
        <Table mt="sm" verticalSpacing={3} aria-label={t.whatTheGatewaySaid}>
          <Table.Tbody>
            {heard.cost_usd !== null && <Table.Tr><Table.Th scope="row" fw={500}>{t.cost}</Table.Th><Table.Td className="num">{usd(heard.cost_usd * 1e9)}</Table.Td></Table.Tr>}
            {heard.headers.map(([name, value]) => (
              <Table.Tr key={name}>
                <Table.Th scope="row" fw={500}>{name.replace("x-switchgear-", "")}</Table.Th>
                <Table.Td className="num" style={{ whiteSpace: "normal", overflowWrap: "anywhere" }}>{name === "x-request-id" ? <To to={`/requests/${value}`}>{value}</To> : value}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      )}
    </Card>
  );
}

function Snippets({ model, prompt }: { model: string; prompt: string }) {
  const url = `${location.origin}/v1`;
  const said = JSON.stringify(prompt);
  const body = JSON.stringify({ model, messages: [{ role: "user", content: prompt }] });
  const texts: Record<string, string> = {
    Python: `from openai import OpenAI\n\nclient = OpenAI(base_url="${url}", api_key="...")\nreply = client.chat.completions.create(model=${JSON.stringify(model)}, messages=[{"role": "user", "content": ${said}}])\nprint(reply.choices[0].message.content)`,
    Node: `import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: "${url}", apiKey: "..." });\nconst reply = await client.chat.completions.create({ model: ${JSON.stringify(model)}, messages: [{ role: "user", content: ${said} }] });\nconsole.log(reply.choices[0].message.content);`,
    curl: `curl ${url}/chat/completions -H "authorization: Bearer $KEY" -H "content-type: application/json" \\\n  -d '${body.replaceAll("'", "'\\''")}'`,
  };
  return (
    <Card title={t.theSameInCode}>
      <Tabs defaultValue="Python">
        <Tabs.List mb="xs">{Object.keys(texts).map((name) => <Tabs.Tab key={name} value={name}>{name}</Tabs.Tab>)}</Tabs.List>
        {Object.entries(texts).map(([name, code]) => (
          <Tabs.Panel key={name} value={name}>
            <Stack gap="xs"><Code block style={{ whiteSpace: "pre-wrap" }} tabIndex={0}>{code}</Code><Copy text={code} label={t.copy} /></Stack>
          </Tabs.Panel>
        ))}
      </Tabs>
    </Card>
  );
}
