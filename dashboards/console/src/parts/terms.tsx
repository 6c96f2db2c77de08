// What a level may and how much of it: the same form for organisations, projects and keys.
import { NumberInput, Select, SimpleGrid, Stack, TagsInput, Text } from "@mantine/core";
import { useState } from "react";
import type { Schemas } from "../api/client";
import { brief, count, usd } from "../format";
import { words } from "../words";

const t = words.terms;

export type Terms = Schemas["Terms"];
type Patch = Record<string, unknown>;

const COUNTS = [
  ["rpm", t.requestsPerMinute], ["tpm", t.tokensPerMinute], ["rpd", t.requestsPerDay],
  ["tpd", t.tokensPerDay], ["concurrency", t.requestsAtOnce],
] as const;
const NANO = 1e9;

/** Fields for a form; `termsOf` reads them back. Empty is: no limit here. */
export function TermsFields({ terms }: { terms: Terms }) {
  const [models, setModels] = useState<string[]>([...(terms.models ?? [])]);
  return (
    <>
      <Text size="sm" c="dimmed">{t.anEmptyFieldSetsNothing}</Text>
      <SimpleGrid cols={{ base: 1, xs: 2 }} spacing="sm">
        {COUNTS.map(([name, label]) => (
          <NumberInput key={name} name={name} label={label} min={1} allowDecimal={false} thousandSeparator="," defaultValue={terms[name] ?? ""} hideControls />
        ))}
        <NumberInput name="budget" label={t.budgetUsd} min={0} decimalScale={6} defaultValue={terms.budget_nanousd == null ? "" : terms.budget_nanousd / NANO} hideControls />
        <Select name="budget_period" label={t.budgetsPeriodUtc} data={["day", "week", "month", "total"]} defaultValue={terms.budget_period ?? "month"} allowDeselect={false} />
        <Select name="band" label={t.highestPriority} data={["batch", "standard", "interactive"]} defaultValue={terms.band ?? null} placeholder={t.notSet} clearable />
        <Select name="credit" label={t.credit} data={[{ value: "prepaid", label: t.prepaid }, { value: "payg", label: t.payAsYouGo }]} defaultValue={terms.credit ?? null} placeholder={t.noCreditNeeded} clearable />
        <NumberInput name="floor" label={t.balanceMayFallToUsd} decimalScale={6} defaultValue={terms.floor_nanousd == null ? "" : terms.floor_nanousd / NANO} hideControls />
        <Select name="cache_scope" label={t.cachedAnswersSharedBy} data={["key", "project", "organisation"]} defaultValue={terms.cache_scope ?? null} placeholder={t.notSet} clearable />
        <NumberInput name="retention_days" label={t.contentKeptDays} min={0} allowDecimal={false} defaultValue={terms.retention_days ?? ""} hideControls />
      </SimpleGrid>
      <TagsInput label={t.allowedModelsAndRoutes} description={t.emptyAllOfThemPress} value={models} onChange={setModels} placeholder={models.length ? undefined : t.all} />
      <input type="hidden" name="models" value={JSON.stringify(models)} />
    </>
  );
}

/** The same fields for something new, which mostly needs none of them. */
export function NewTerms() {
  return (
    <details>
      <summary>{t.limitsBudgetAndModels}</summary>
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
  if (terms.budget_nanousd != null) told.push(t.per(usd(terms.budget_nanousd), terms.budget_period ?? t.month));
  if (terms.credit) told.push(terms.credit === "prepaid" ? t.prepaid2 : t.payAsYouGo2);
  if (terms.floor_nanousd != null) told.push(t.balanceDownTo(usd(terms.floor_nanousd)));
  if (terms.models) told.push(t.only(terms.models.join(", ")));
  if (terms.band) told.push(t.priorityAtMost(terms.band));
  if (terms.cache_scope) told.push(t.cacheWithinThe(terms.cache_scope));
  if (terms.retention_days != null) told.push(t.contentKeptDays2(brief(terms.retention_days)));
  if (terms.end_user) told.push(t.limitsPerEndUser);
  return <Text size="sm" style={{ overflowWrap: "anywhere" }}>{told.length ? told.join(" · ") : t.noLimitsAtThisLevel}</Text>;
}
