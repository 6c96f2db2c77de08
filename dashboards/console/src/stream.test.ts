import { expect, it } from "vitest";
import { Lines, read } from "./stream";

const STREAM = 'data: {"choices":[{"delta":{"content":"Hé"}}]}\r\n\r\n: beat\n\ndata: {"usage":{"cost":0.5},"choices":[]}\n\ndata: [DONE]\n\n';

it("reads the same events however the stream is cut", () => {
  for (let size = 1; size <= STREAM.length; size++) {
    const lines = new Lines();
    const found: string[] = [];
    for (let at = 0; at < STREAM.length; at += size) found.push(...lines.add(STREAM.slice(at, at + size)));
    expect(found.map(read).map((one) => [one.text, one.cost_usd])).toEqual([["Hé", null], ["", 0.5]]);
  }
});

it("hears errors within the stream", () => {
  expect(read('{"error":{"message":"gone"}}').error).toBe("gone");
  expect(read("{").text).toBe("");
});
