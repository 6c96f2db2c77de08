import { expect, test } from "vitest";
import { at, expected } from "./forecast";

const curve = [
  { share: 0, quality: 0.7, random: 0.7, oracle: null, cost_usd: 1 },
  { share: 0.5, quality: 0.9, random: 0.85, oracle: null, cost_usd: 2 },
  { share: 1, quality: 1, random: 1, oracle: null, cost_usd: 3 },
];

test("a share between two points is between their figures", () => {
  expect(at(curve, 0.25)).toEqual({ share: 0.25, quality: expect.closeTo(0.8), cost_usd: expect.closeTo(1.5) });
  expect(at(curve, 7).quality).toBe(1);
});

test("a quality takes the least share that reaches it, or all", () => {
  expect(expected(curve, "quality", 0.8).share).toBeCloseTo(0.25);
  expect(expected(curve, "quality", 2).share).toBe(1);
});

test("a cost takes the greatest share that it allows, or none", () => {
  expect(expected(curve, "cost_per_request_usd", 2.5).share).toBeCloseTo(0.75);
  expect(expected(curve, "cost_per_request_usd", 0.5).share).toBe(0);
  expect(expected(curve.map((one) => ({ ...one, cost_usd: null })), "cost_per_request_usd", 1).share).toBe(0);
});
