import { Badge } from "@mantine/core";

const SOURCES: Record<string, string> = {
  upstream: "model", "hit-exact": "cache, exact", "hit-semantic": "cache, similar", joined: "shared with another",
};
const GOOD = ["ok", "ready", "active", "delivered"];
const WAITING = ["waiting", "loading", "draining", "stopped", "cancelled", "degraded", "pending", "revoked", "expired"];

export function Source({ source }: { source: string }) {
  return <>{SOURCES[source] ?? source}</>;
}

/** A state in words; the colour only repeats them. */
export function Status({ status, times = 1 }: { status: string; times?: number }) {
  const tone = GOOD.includes(status) ? "good" : WAITING.includes(status) ? "warn" : "bad";
  return (
    <Badge variant="outline" tt="none" fw={600} styles={{ root: { color: `var(--${tone})`, borderColor: `var(--${tone})`, background: "none" } }}>
      {times === 1 ? status : `${times} ${status}`}
    </Badge>
  );
}
