// What an aim would give, read off the curve that the gateway tells: so a slider need not ask for each step.
import type { Schemas } from "./api/client";

type Point = Schemas["Point"];
export type AimName = "large_share" | "quality" | "cost_per_request_usd";

export interface Expected {
  share: number;
  quality: number;
  cost_usd: number | null;
}

/** The point of the curve at a share of the largest tier. */
export function at(curve: readonly Point[], share: number): Expected {
  const place = Math.min(Math.max(share, 0), 1) * (curve.length - 1);
  const low = curve[Math.floor(place)];
  const high = curve[Math.ceil(place)];
  if (!low || !high) return { share, quality: 0, cost_usd: null };
  const part = place - Math.floor(place);
  const between = (from: number, to: number) => from + (to - from) * part;
  return {
    share,
    quality: between(low.quality, high.quality),
    cost_usd: low.cost_usd === null || high.cost_usd === null ? null : between(low.cost_usd, high.cost_usd),
  };
}

/** What an aim gives: the least share that reaches a quality, the greatest that a cost allows. */
export function expected(curve: readonly Point[], aim: AimName, value: number): Expected {
  if (aim === "large_share") return at(curve, value);
  const steps = Array.from({ length: 1001 }, (_, step) => at(curve, step / 1000));
  const found = aim === "quality"
    ? steps.find((one) => one.quality >= value - 1e-9) ?? steps.at(-1)
    : steps.findLast((one) => one.cost_usd !== null && one.cost_usd <= value + 1e-12) ?? steps[0];
  return found ?? at(curve, 0);
}
