// The first run: name the organisation, make a key, send a request, watch it arrive.
import { Button, Code, Group, Select, Stack, Stepper, Text, Textarea, TextInput } from "@mantine/core";
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, Failure, got, type Schemas } from "../api/client";
import { usd } from "../format";
import { Secret } from "../parts/action";
import { To } from "../parts/link";
import { Card, Failed, Heading, Loading } from "../parts/states";
import { ask, type Heard, NOTHING_HEARD } from "../stream";
import { words } from "../words";

const t = words.begin;

export default function Begin() {
  const [step, setStep] = useState(0);
  const [org, setOrg] = useState("");
  const [made, setMade] = useState<Schemas["MadeKey"] | null>(null);
  const [heard, setHeard] = useState<Heard>(NOTHING_HEARD);
  const request = heard.headers.find(([name]) => name === "x-request-id")?.[1];
  return (
    <>
      <Heading title={t.begin} about={t.fourStepsAboutAMinute} />
      <Card>
        <Stepper active={step} size="sm" orientation="vertical" aria-label={t.steps}>
          <Stepper.Step label={t.organisation} description={step > 0 ? org : t.whoIsBilled} />
          <Stepper.Step label={t.key} description={made ? made.name : t.whatAProgramSignsIn} />
          <Stepper.Step label={t.firstRequest} description={t.aRealOne} />
          <Stepper.Step label={t.arrived} description={t.inTheLedger} />
        </Stepper>
      </Card>
      <div style={{ marginTop: 16 }}>
        {step === 0 && <Organise done={(name) => { setOrg(name); setStep(1); }} />}
        {step === 1 && <MakeKey org={org} made={made} setMade={setMade} done={() => setStep(2)} />}
        {step === 2 && made && <Send secret={made.key} heard={heard} setHeard={setHeard} done={() => setStep(3)} />}
        {step === 3 && <Arrived id={request ?? ""} />}
      </div>
    </>
  );
}

function Organise({ done }: { done: (name: string) => void }) {
  const run = useMutation({
    mutationFn: async (name: string) => {
      const known = await got(api.GET("/admin/v1/orgs", { params: { query: { name } } }));
      if (known.data.length === 0) await got(api.POST("/admin/v1/orgs", { body: { name, title: "" } }));
      return name;
    },
    onSuccess: done,
  });
  return (
    <Card title={t.nameTheOrganisation}>
      <form onSubmit={(event) => { event.preventDefault(); run.mutate(String(new FormData(event.currentTarget).get("name")).trim()); }}>
        <Stack gap="sm" align="flex-start">
          <TextInput name="name" label={t.organisation} description={t.aCompanyADepartmentOne} required maxLength={200} w="min(24rem, 100%)" autoFocus />
          {run.error && <Failed error={run.error} />}
          <Button type="submit" loading={run.isPending}>{t.goOn}</Button>
        </Stack>
      </form>
    </Card>
  );
}

function MakeKey({ org, made, setMade, done }: { org: string; made: Schemas["MadeKey"] | null; setMade: (made: Schemas["MadeKey"]) => void; done: () => void }) {
  const run = useMutation({
    mutationFn: async ({ project, name }: { project: string; name: string }) => {
      const known = await got(api.GET("/admin/v1/projects", { params: { query: { org, name: project } } }));
      const { id } = known.data[0] ?? (await got(api.POST("/admin/v1/projects", { body: { org, name: project, title: "" } })));
      return got(api.POST("/admin/v1/keys", { body: { project_id: id, name, scopes: ["inference"] } }));
    },
    onSuccess: setMade,
  });
  if (made) {
    return (
      <Card title={t.theKeyOf(org)}>
        <Stack gap="sm" align="flex-start">
          <Secret name={t.theKey(made.name)} text={made.key} />
          <Button onClick={done}>{t.iHaveItGoOn}</Button>
        </Stack>
      </Card>
    );
  }
  return (
    <Card title={t.aKeyFor(org)}>
      <form onSubmit={(event) => {
        event.preventDefault();
        const given = new FormData(event.currentTarget);
        run.mutate({ project: String(given.get("project")).trim(), name: String(given.get("name")).trim() });
      }}>
        <Stack gap="sm" align="flex-start">
          <TextInput name="project" label={t.project} description={t.keysOfOnePurpose} defaultValue="default" required maxLength={200} w="min(24rem, 100%)" />
          <TextInput name="name" label={t.key} description={t.whatUsesIt} defaultValue="first" required maxLength={200} w="min(24rem, 100%)" autoFocus />
          {run.error && <Failed error={run.error} />}
          <Button type="submit" loading={run.isPending}>{t.makeTheKey}</Button>
        </Stack>
      </form>
    </Card>
  );
}

function Send({ secret, heard, setHeard, done }: { secret: string; heard: Heard; setHeard: (heard: Heard) => void; done: () => void }) {
  const models = useQuery({
    queryKey: ["begin", "models"],
    queryFn: async () => {
      const reply = await fetch("/v1/models", { headers: { authorization: `Bearer ${secret}` } });
      const body = (await reply.json()) as { data?: { id: string }[]; error?: { message: string } };
      if (!reply.ok) throw new Failure(reply.status, body.error?.message ?? t.theGatewayAnswered(reply.status));
      return body.data?.map((one) => one.id) ?? [];
    },
  });
  const [model, setModel] = useState<string | null>(null);
  const [prompt, setPrompt] = useState(t.sayHelloInOneSentence);
  const [busy, setBusy] = useState(false);
  const chosen = model ?? models.data?.[0] ?? null;
  if (models.error) return <Failed error={models.error} again={() => void models.refetch()} />;
  if (!models.data) return <Loading />;
  const send = async () => {
    if (!chosen) return;
    setBusy(true);
    await ask({ key: secret, model: chosen, prompt, signal: new AbortController().signal }, setHeard);
    setBusy(false);
  };
  const code = `from openai import OpenAI\n\nclient = OpenAI(base_url="${location.origin}/v1", api_key="...")\nreply = client.chat.completions.create(model=${JSON.stringify(chosen)}, messages=[{"role": "user", "content": ${JSON.stringify(prompt)}}])\nprint(reply.choices[0].message.content)`;
  return (
    <Card title={t.sendTheFirstRequest}>
      <Stack gap="sm" align="flex-start">
        <Select label={t.modelOrRoute} data={models.data} value={chosen} onChange={setModel} allowDeselect={false} w="min(24rem, 100%)" />
        <Textarea label={t.prompt} value={prompt} onChange={(event) => setPrompt(event.currentTarget.value)} autosize minRows={2} w="100%" />
        <Group><Button loading={busy} onClick={() => void send()}>{t.send}</Button>{heard.status === 200 && !busy && <Button variant="default" onClick={done}>{t.watchItArrive}</Button>}</Group>
        {heard.error && <Failed error={new Error(heard.error)} />}
        <Text size="sm" style={{ whiteSpace: "pre-wrap" }} aria-live="polite">{heard.text}</Text>
        <Text size="sm" c="dimmed">{t.theSameFromPython}</Text>
        <Code block w="100%" style={{ whiteSpace: "pre-wrap" }} tabIndex={0}>{code}</Code>
      </Stack>
    </Card>
  );
}

function Arrived({ id }: { id: string }) {
  const { data, error } = useQuery({
    queryKey: ["begin", "arrived", id],
    refetchInterval: (query) => (query.state.data ? false : 1_000),
    queryFn: async () => (await got(api.GET("/admin/v1/requests", { params: { query: { request_id: id, limit: 1 } } }))).data[0] ?? null,
  });
  return (
    <Card title={t.watchItArrive}>
      {error ? <Failed error={error} /> : !data ? <Group><Loading /><Text size="sm">{t.itIsOnItsWay}</Text></Group> : (
        <Stack gap="xs">
          <Text size="sm">{t.itHasArrivedAnsweredWith(data.model, data.completion_tokens, usd(data.amount_nanousd))}</Text>
          <Text size="sm">{t.seeTheOverviewOrAsk(<To to={`/requests/${id}`}>{t.howItWasDecided}</To>)}</Text>
        </Stack>
      )}
    </Card>
  );
}
