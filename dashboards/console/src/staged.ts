// A text of the configuration file that is not in force yet. It is this tab's own, and outlives a reload.
import { useSyncExternalStore } from "react";

const PLACE = "switchgear-staged";
const listeners = new Set<() => void>();

/** Keeps a text to be looked at and applied in the settings; null forgets it. */
export function stage(text: string | null): void {
  if (text === null) sessionStorage.removeItem(PLACE);
  else sessionStorage.setItem(PLACE, text);
  for (const tell of listeners) tell();
}

export const staged = () => sessionStorage.getItem(PLACE);

function listen(tell: () => void) {
  listeners.add(tell);
  return () => void listeners.delete(tell);
}

export function useStaged(): string | null {
  return useSyncExternalStore(listen, staged);
}
