import { describe, expect, it } from "vitest";
import { between, day, duration, quantile, together, usd, usdBrief } from "./format";

describe("money", () => {
  it("keeps the digits that matter", () => {
    expect(usd(0)).toBe("$0.00");
    expect(usd(1_234_560_000_000)).toBe("$1,234.56");
    expect(usd(123_400)).toBe("$0.000123");
    expect(usd(5)).toBe("<$0.000001");
    expect(usd(null)).toBe("—");
  });
  it("is short beside an axis", () => {
    expect([0, 80_000_000, 600_000, 1_540_000_000_000].map(usdBrief)).toEqual(["$0", "$0.08", "$0.0006", "$1.5K"]);
  });
});

const buckets = (...counts: number[]) => [0.1, 1, null].map((le, at) => ({ le, count: counts[at] ?? 0 }));

describe("buckets", () => {
  const [before, now] = [buckets(5, 5, 5), buckets(5, 15, 15)];
  it("tell what happened between two looks", () => {
    expect(between(before, now)).toEqual(buckets(0, 10, 10));
    expect(between(undefined, now)).toEqual(now);
    expect(between(now, before)).toEqual(buckets(0, 0, 0)); // the gateway began anew
  });
  it("give quantiles within the bucket", () => {
    expect(quantile(between(before, now), 0.5)).toBeCloseTo(0.55);
    expect(quantile(buckets(0, 0, 4), 0.5)).toBe(1);
    expect(quantile(buckets(), 0.5)).toBeNull();
  });
  it("add up", () => expect(together([before, now])).toEqual(buckets(10, 20, 20)));
});

it("names days in UTC", () => expect(day(new Date("2026-03-01T00:30:00Z"), 1)).toBe("2026-02-28"));
it("says how long", () => expect([duration(0.25), duration(75), duration(90000)]).toEqual(["250 ms", "1 min", "1 d 1 h"]));
