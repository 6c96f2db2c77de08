// Figures, money and moments as people read them, in the reader's language and zone. Pure.

const NANO = 1e9;
export const NONE = "—";

/** Nano-dollars as money; small amounts keep the digits that matter. */
export function usd(nanousd: number | null | undefined): string {
  if (nanousd === null || nanousd === undefined) return NONE;
  const value = nanousd / NANO;
  const size = Math.abs(value);
  const digits = size === 0 || size >= 1 ? 2 : size >= 0.01 ? 4 : 6;
  if (size !== 0 && size < 0.000001) return `${value < 0 ? "−" : ""}<$0.000001`;
  const text = new Intl.NumberFormat(undefined, {
    style: "currency",
    currency: "USD",
    currencyDisplay: "narrowSymbol",
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
  return text.format(value);
}

/** Money to the nano-dollar. */
export function usdExact(nanousd: number): string {
  return new Intl.NumberFormat(undefined, {
    style: "currency", currency: "USD", currencyDisplay: "narrowSymbol", minimumFractionDigits: 2, maximumFractionDigits: 9,
  }).format(nanousd / NANO);
}

/** Money beside an axis: as few letters as tell it. */
export function usdBrief(nanousd: number): string {
  return new Intl.NumberFormat(undefined, {
    style: "currency", currency: "USD", currencyDisplay: "narrowSymbol", notation: "compact", minimumFractionDigits: 0, maximumSignificantDigits: 2,
  }).format(nanousd / NANO);
}

export function count(value: number): string {
  return new Intl.NumberFormat().format(value);
}

/** A large figure in few letters: 12.3K. */
export function brief(value: number): string {
  return new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 }).format(value);
}

/** A size in memory: 1.3 GB, of a thousand MB. */
export function bytes(value: number): string {
  const place = value < 1000 ? 0 : Math.min(4, Math.floor(Math.log10(value) / 3));
  const unit = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"][place];
  return new Intl.NumberFormat(undefined, { style: "unit", unit, maximumFractionDigits: 1 }).format(value / 1000 ** place);
}

export function percent(part: number, whole: number): string {
  if (whole === 0) return NONE;
  return new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 1 }).format(part / whole);
}

/** Seconds since 1970 as a moment in the reader's zone. */
export function moment(ts: number | null | undefined): string {
  if (ts === null || ts === undefined) return NONE;
  return new Date(ts * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

export function clock(ts: number): string {
  return new Date(ts * 1000).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
}

/** How long something took or lasts. */
export function duration(seconds: number): string {
  if (seconds < 0.001) return "<1\u00a0ms";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

/** Days before a moment, as the API names them: 2026-11-23, UTC. */
export function day(at: Date, back = 0): string {
  return new Date(at.getTime() - back * 86_400_000).toISOString().slice(0, 10);
}

/** The first second of such a day, as an address holds it. */
export function begins(name: string): string {
  return String(Date.parse(name) / 1000);
}

export interface Bucket {
  le: number | null;
  count: number;
}

/** What happened between two looks at cumulative buckets. */
export function between(before: readonly Bucket[] | undefined, now: readonly Bucket[]): Bucket[] {
  const known = new Map(before?.map((one) => [one.le, one.count]));
  return now.map(({ le, count: seen }) => ({ le, count: Math.max(0, seen - (known.get(le) ?? 0)) }));
}

/** Adds cumulative buckets of several models up. */
export function together(all: readonly (readonly Bucket[])[]): Bucket[] {
  const sums = new Map<number | null, number>();
  for (const buckets of all) for (const one of buckets) sums.set(one.le, (sums.get(one.le) ?? 0) + one.count);
  return [...sums].map(([le, seen]) => ({ le, count: seen }));
}

/** A quantile of cumulative buckets, linear within the bucket; null where there is nothing. */
export function quantile(buckets: readonly Bucket[], share: number): number | null {
  const rank = share * (buckets.at(-1)?.count ?? 0);
  if (rank === 0) return null;
  let [low, below] = [0, 0];
  for (const { le, count: seen } of buckets) {
    if (seen >= rank) return le === null ? low : low + ((le - low) * (rank - below)) / (seen - below);
    if (le !== null) low = le;
    below = seen;
  }
  return low;
}
