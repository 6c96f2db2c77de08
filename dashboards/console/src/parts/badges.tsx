import { Badge } from "@mantine/core";
import { words } from "../words";

const t = words.badges;

export const SOURCES: Record<string, string> = {
  upstream: "model", "hit-exact": t.cacheExact, "hit-semantic": t.cacheSimilar, joined: t.sharedWithAnother,
};
const GOOD = ["ok", "ready", "active", "delivered"];
const WAITING = ["waiting", "loading", "draining", "stopped", "cancelled", "refused", "degraded", "pending", "revoked", "expired"];

export function Source({ source }: { source: string }) {
  return <>{SOURCES[source] ?? source}</>;
}

/** A state in words; the colour only repeats them. */
export function Status({ status, times = 1 }: { status: string; times?: number }) {
  const tone = GOOD.includes(status) ? "good" : WAITING.includes(status) ? "warn" : "bad";
  return (
    <Badge variant="outline" tt="none" fw={600} styles={{ label: { overflow: "visible" }, root: { minWidth: "max-content", color: `var(--${tone})`, borderColor: `var(--${tone})`, background: "none" } }}>
      {times === 1 ? status : `${times} ${status}`}
    </Badge>
  );
}
