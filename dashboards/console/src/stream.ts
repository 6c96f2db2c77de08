// One chat request, heard as it streams.
import { words } from "./words";

const t = words.stream;

export interface Heard {
  text: string;
  status: number | null;
  headers: [string, string][];
  error: string | null;
  first_s: number | null;
  whole_s: number | null;
  cost_usd: number | null;
}

export const NOTHING_HEARD: Heard = { text: "", status: null, headers: [], error: null, first_s: null, whole_s: null, cost_usd: null };

interface Question {
  key: string;
  model: string;
  prompt: string;
  signal: AbortSignal;
}

/** Asks, and says what was heard so far whenever there is more. It does not throw: errors are heard too. */
export async function ask({ key, model, prompt, signal }: Question, say: (now: Heard) => void): Promise<void> {
  let now = NOTHING_HEARD;
  const more = (part: Partial<Heard>) => say((now = { ...now, ...part }));
  const started_ms = performance.now();
  const passed_s = () => (performance.now() - started_ms) / 1000;
  try {
    const reply = await fetch("/v1/chat/completions", {
      method: "POST",
      signal,
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
      body: JSON.stringify({ model, messages: [{ role: "user", content: prompt }], stream: true, stream_options: { include_usage: true } }),
    });
    const headers = [...reply.headers].filter(([name]) => name === "x-request-id" || name.startsWith("x-switchgear-"));
    more({ status: reply.status, headers });
    if (!reply.ok || !reply.body) {
      const told = (await reply.json().catch(() => null)) as { error?: { message?: string } } | null;
      return more({ error: told?.error?.message ?? t.theGatewayAnswered(reply.status) });
    }
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    const lines = new Lines();
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      for (const data of lines.add(piece.value)) {
        const event = read(data);
        if (event.error) more({ error: event.error });
        if (event.text) more({ text: now.text + event.text, first_s: now.first_s ?? passed_s() });
        if (event.cost_usd !== null) more({ cost_usd: event.cost_usd });
      }
    }
    more({ whole_s: passed_s() });
  } catch (failure) {
    more({ error: signal.aborted ? t.stopped : t.theGatewayDoesNotAnswer(String(failure)) });
  }
}

/** Cuts a stream of text into the data of its events, however it was cut before. */
export class Lines {
  private rest = "";

  add(piece: string): string[] {
    const lines = (this.rest + piece).split(/\r?\n/);
    this.rest = lines.pop() ?? "";
    return lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).filter((data) => data !== "[DONE]");
  }
}

interface Event {
  text: string;
  error: string | null;
  cost_usd: number | null;
}

/** Reads one event; what is not JSON says nothing. */
export function read(data: string): Event {
  try {
    const found = JSON.parse(data) as {
      choices?: { delta?: { content?: string | null } }[];
      usage?: { cost?: number } | null;
      error?: { message?: string };
    };
    return {
      text: found.choices?.[0]?.delta?.content ?? "",
      error: found.error ? (found.error.message ?? t.theStreamBroke) : null,
      cost_usd: found.usage?.cost ?? null,
    };
  } catch {
    return { text: "", error: null, cost_usd: null };
  }
}
