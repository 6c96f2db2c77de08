import { expect, test } from "vitest";
import { edges, layerAt, places, steps, tenths } from "./scale";

test("an axis goes from zero in round whole steps to where the most fits", () => {
  expect(steps(0)).toEqual([0]);
  expect(steps(1)).toEqual([0, 1]);
  expect(steps(7)).toEqual([0, 2, 4, 6, 8]);
  expect(steps(100)).toEqual([0, 50, 100]);
  expect(steps(4100)).toEqual([0, 2000, 4000, 6000]);
  for (const most of [3, 19, 99, 101, 12_345, 9.9e12]) {
    expect(steps(most).at(-1)!).toBeGreaterThanOrEqual(most);
    expect(steps(most).length).toBeLessThanOrEqual(6);
  }
});

test("shares stand between whole tenths", () => {
  expect(tenths([0.83, 0.97])).toEqual([0.8, 0.9, 1]);
  expect(tenths([1.04])).toEqual([1, 1.1]);
});

test("a height is within the layer that is drawn there, or above them all", () => {
  const row = edges({ at: "x", one: 3, none: 0, two: 5 }, ["one", "none", "two", "unknown"]);
  expect(row).toEqual([0, 3, 3, 8, 8]);
  expect([0, 2.9, 3, 7.9, 8].map((height) => layerAt(row, height))).toEqual([0, 0, 2, 2, -1]);
  expect(layerAt([0, 0], 0)).toBe(-1);
});

test("labels are few and begin at the first", () => {
  expect(places(90, 7)).toEqual([0, 13, 26, 39, 52, 65, 78]);
  expect(places(3, 7)).toEqual([0, 1, 2]);
  expect(places(0, 7)).toEqual([]);
});
