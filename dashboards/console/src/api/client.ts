// The one way to the gateway: typed by its OpenAPI description, with the session's proof on every change.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema";
import { words } from "../words";

const t = words.client;

export type Schemas = components["schemas"];
export type Gets = { [P in keyof paths]: paths[P] extends { get: object } ? P : never }[keyof paths];

const KEY = "switchgear-admin-key"; // of this tab only: session storage ends with it
let csrf: string | null = null;
let onEnd: () => void = () => {};

export const adminKey = {
  read: () => sessionStorage.getItem(KEY),
  keep: (text: string) => sessionStorage.setItem(KEY, text),
  drop: () => sessionStorage.removeItem(KEY),
};

/** Notes the token that a change of this session needs. */
export function proveWith(token: string | null): void {
  csrf = token;
}

/** Says what happens when the gateway no longer knows who asks. */
export function whenSessionEnds(act: () => void): void {
  onEnd = act;
}

/** An answer that is not the one asked for, in words for a person. */
export class Failure extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly param: string | null = null,
  ) {
    super(message);
  }
}

export const api = createClient<paths>({ baseUrl: "", querySerializer: { array: { style: "form", explode: true } } });
api.use({
  onRequest({ request }) {
    const key = adminKey.read();
    if (key) request.headers.set("authorization", `Bearer ${key}`);
    else if (csrf) request.headers.set("x-csrf-token", csrf);
    return request;
  },
});

interface Answer<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** Gives what was asked for. Throws Failure, also where the gateway cannot be reached. */
export async function got<T>(asked: Promise<Answer<T>>): Promise<T> {
  return (await answered(asked)).data as T;
}

/** Like `got`, with the ETag of what was read. */
export async function gotVersioned<T>(asked: Promise<Answer<T>>): Promise<{ value: T; etag: string }> {
  const { data, response } = await answered(asked);
  return { value: data as T, etag: response.headers.get("etag") ?? "" };
}

async function answered<T>(asked: Promise<Answer<T>>): Promise<Answer<T>> {
  let answer: Answer<T>;
  try {
    answer = await asked;
  } catch {
    throw new Failure(0, t.theGatewayDoesNotAnswer);
  }
  if (answer.response.ok) return answer;
  const { status } = answer.response;
  const told = (answer.error as { error?: { message?: string; param?: string | null } } | undefined)?.error;
  if (status === 401) onEnd();
  throw new Failure(status, told?.message ?? t.theGatewayAnswered(status), told?.param ?? null);
}
