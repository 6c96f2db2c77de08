// Filters live in the address, so that a view can be sent to somebody.
import { useNavigate, useSearch } from "@tanstack/react-router";

export type Filters = Record<string, string | undefined>;

export function useFilters(): [Filters, (change: Filters) => void] {
  const search = useSearch({ strict: false }) as Filters;
  const navigate = useNavigate();
  const set = (change: Filters) => {
    const next = Object.fromEntries(Object.entries({ ...search, ...change }).filter(([, value]) => value));
    void navigate({ to: ".", search: next, replace: true });
  };
  return [search, set];
}

/** The text of a filter: numbers that the address holds become text again. */
export function text(value: unknown): string | undefined {
  return value === undefined || value === null || value === "" ? undefined : String(value);
}
