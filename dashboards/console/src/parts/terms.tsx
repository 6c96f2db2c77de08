// What a level may and how much of it: the same form for organisations, projects and keys.
import { NumberInput, Select, SimpleGrid, Stack, TagsInput, Text } from "@mantine/core";
import { useState } from "react";
import type { Schemas } from "../api/client";
import { brief, count, usd } from "../format";

export type Terms = Schemas["Terms"];
type Patch = Record<string, unknown>;

const COUNTS = [
  ["rpm", "Requests per minute"], ["tpm", "Tokens per minute"], ["rpd", "Requests per day"],
  ["tpd", "Tokens per day"], ["concurrency", "Requests at once"],
] as const;
const NANO = 1e9;

/** Fields for a form; `termsOf` reads them back. Empty is: no limit here. */
export function TermsFields({ terms }: { terms: Terms }) {
  const [models, setModels] = useState<string[]>([...(terms.models ?? [])]);
  return (
    <>
      <Text size="sm" c="dimmed">An empty field sets nothing at this level; of all levels, the tightest holds.</Text>
      <SimpleGrid cols={{ base: 1, xs: 2 }} spacing="sm">
        {COUNTS.map(([name, label]) => (
          <NumberInput key={name} name={name} label={label} min={1} allowDecimal={false} thousandSeparator="," defaultValue={terms[name] ?? ""} hideControls />
        ))}
        <NumberInput name="budget" label="Budget (USD)" min={0} decimalScale={6} defaultValue={terms.budget_nanousd == null ? "" : terms.budget_nanousd / NANO} hideControls />
        <Select name="budget_period" label="Budget's period (UTC)" data={["day", "week", "month", "total"]} defaultValue={terms.budget_period ?? "month"} allowDeselect={false} />
        <Select name="band" label="Highest priority" data={["batch", "standard", "interactive"]} defaultValue={terms.band ?? null} placeholder="Not set" clearable />
        <Select name="credit" label="Credit" data={[{ value: "prepaid", label: "Prepaid" }, { value: "payg", label: "Pay as you go" }]} defaultValue={terms.credit ?? null} placeholder="No credit needed" clearable />
        <NumberInput name="floor" label="Balance may fall to (USD)" decimalScale={6} defaultValue={terms.floor_nanousd == null ? "" : terms.floor_nanousd / NANO} hideControls />
        <Select name="cache_scope" label="Cached answers shared by" data={["key", "project", "organisation"]} defaultValue={terms.cache_scope ?? null} placeholder="Not set" clearable />
        <NumberInput name="retention_days" label="Content kept (days)" min={0} allowDecimal={false} defaultValue={terms.retention_days ?? ""} hideControls />
      </SimpleGrid>
      <TagsInput label="Allowed models and routes" description="Empty: all of them. Press Enter after each." value={models} onChange={setModels} placeholder={models.length ? undefined : "All"} />
      <input type="hidden" name="models" value={JSON.stringify(models)} />
    </>
  );
}

/** The same fields for something new, which mostly needs none of them. */
export function NewTerms() {
  return (
    <details>
      <summary>Limits, budget and models</summary>
      <Stack gap="sm" mt="xs"><TermsFields terms={{}} /></Stack>
    </details>
  );
}

/** The fields of a form as a patch; null takes a limit away. */
export function termsOf(given: FormData): Patch {
  const field = (name: string) => String(given.get(name) ?? "").replaceAll(",", "").trim();
  const number = (name: string, factor = 1) => (field(name) === "" ? null : Math.round(Number(field(name)) * factor));
  const word = (name: string) => field(name) || null;
  const models = JSON.parse(String(given.get("models") ?? "[]")) as string[];
  const budget = number("budget", NANO);
  return {
    ...Object.fromEntries(COUNTS.map(([name]) => [name, number(name)])),
    budget_nanousd: budget,
    budget_period: budget === null ? null : word("budget_period"),
    band: word("band"),
    credit: word("credit"),
    floor_nanousd: number("floor", NANO),
    cache_scope: word("cache_scope"),
    retention_days: number("retention_days"),
    models: models.length ? models : null,
  };
}

/** A patch as the terms of something new: without what is not set. */
export function newTerms(given: FormData): Terms {
  return Object.fromEntries(Object.entries(termsOf(given)).filter(([, value]) => value !== null)) as Terms;
}

/** The terms in words. */
export function TermsText({ terms }: { terms: Terms }) {
  const told: string[] = COUNTS.flatMap(([name, label]) => (terms[name] ? [`${count(terms[name])} ${label.toLowerCase()}`] : []));
  if (terms.budget_nanousd != null) told.push(`${usd(terms.budget_nanousd)} per ${terms.budget_period ?? "month"}`);
  if (terms.credit) told.push(terms.credit === "prepaid" ? "prepaid" : "pay as you go");
  if (terms.floor_nanousd != null) told.push(`balance down to ${usd(terms.floor_nanousd)}`);
  if (terms.models) told.push(`only ${terms.models.join(", ")}`);
  if (terms.band) told.push(`${terms.band} priority at most`);
  if (terms.cache_scope) told.push(`cache within the ${terms.cache_scope}`);
  if (terms.retention_days != null) told.push(`content kept ${brief(terms.retention_days)} days`);
  if (terms.end_user) told.push("limits per end user");
  return <Text size="sm" style={{ overflowWrap: "anywhere" }}>{told.length ? told.join(" · ") : "No limits at this level."}</Text>;
}
