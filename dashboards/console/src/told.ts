// Fields of the admin API as people read them: moments in their zone, money with its currency, the rest as it is. Pure.
import { moment, NONE, usdExact } from "./format";

const EPOCH_S = 1e9; // from here on seconds are a moment, below it a span of time

/** The fields of something, those of parts of it by their path: terms.rpm. */
export function fields(state: unknown, under = ""): Record<string, unknown> {
  if (state === null || typeof state !== "object") return {};
  return Object.fromEntries(
    Object.entries(state).flatMap(([name, value]) =>
      value !== null && typeof value === "object" && !Array.isArray(value)
        ? Object.entries(fields(value, `${under}${name}.`))
        : [[under + name, value] as [string, unknown]],
    ),
  );
}

/** A field's value in words. */
export function told(name: string, value: unknown): string {
  if (value === undefined || value === null) return NONE;
  if (typeof value === "number" && name.endsWith("_nanousd")) return usdExact(value);
  if (typeof value === "number" && name.endsWith("_s") && value >= EPOCH_S) return moment(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}
