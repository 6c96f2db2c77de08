import { expect, test } from "vitest";
import { moment, NONE, usdExact } from "./format";
import { fields, told } from "./told";

test("parts of something are named by their path", () => {
  expect(fields({ name: "k", terms: { rpm: 7, models: ["a"], none: null } })).toEqual({ name: "k", "terms.rpm": 7, "terms.models": ["a"], "terms.none": null });
  expect(fields(null)).toEqual({});
});

test("money has its currency, and moments stand in the reader's zone", () => {
  expect(told("terms.budget_nanousd", 1_500_000_000)).toBe(usdExact(1_500_000_000));
  expect(told("input_nanousd", 250)).toMatch(/0.00000025/);
  expect(told("expires_s", 1_796_061_000)).toBe(moment(1_796_061_000));
  expect(told("overlap_s", 86_400)).toBe("86400");
  expect(told("rpm", 7)).toBe("7");
  expect([told("revoked_s", null), told("name", undefined)]).toEqual([NONE, NONE]);
});
