"""Which of several gateways acts for all: the holder of a Lease, and what they tell each other on it.

- A holder renews it; whoever saw no renewal for `DURATION_S` by its own clock takes it. Clocks are never
  compared, only how long the record stayed as it was.
- A holder that could not renew stops acting after `ACTS_S`, well before another may begin.
- Every write carries the version that was read: of two at once, one is refused.
"""

import datetime
from collections.abc import Callable

from backends.clients.kubernetes import KubeApi, KubeError, Object

DURATION_S = 15
ACTS_S = 10.0
NOT_FOUND, CONFLICT = 404, 409
TRIES = 5


class Lease:
    def __init__(
        self,
        api: KubeApi,
        place: tuple[str, str],
        me: str,
        now: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`place` is its namespace and name."""
        self.notes: dict[str, str] = {}
        """Its annotations, as last read."""
        self._api, self._me, self._now, self._wall = api, me, now, wall
        self._space, self._name = f"/apis/coordination.k8s.io/v1/namespaces/{place[0]}/leases", place[1]
        self._renewed_s = float("-inf")
        self._seen: object = None
        self._seen_s = 0.0

    @property
    def held(self) -> bool:
        """Whether this gateway may act now."""
        return self._now() < self._renewed_s + ACTS_S

    async def step(self) -> None:
        """Renew it, take it, or let its holder be. Raises KubeError."""
        asked_s = self._now()
        try:
            found = await self._api.call("GET", f"{self._space}/{self._name}")
        except KubeError as error:
            if error.status != NOT_FOUND:
                raise
            await self._write("POST", self._space, {"metadata": {"name": self._name}, "spec": {}}, asked_s)
            return
        self.notes = found["metadata"].get("annotations") or {}
        spec = found.get("spec") or {}
        said = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if said != self._seen:
            self._seen, self._seen_s = said, asked_s
        holder = spec.get("holderIdentity") or ""
        if holder in ("", self._me) or asked_s - self._seen_s > DURATION_S:
            await self._write("PUT", f"{self._space}/{self._name}", found, asked_s)
        else:
            self._renewed_s = float("-inf")

    async def note(self, name: str, text: str) -> None:
        """Tell all gateways something by an annotation. Raises KubeError."""
        path = f"{self._space}/{self._name}"
        for tries_left in reversed(range(TRIES)):
            found = await self._api.call("GET", path)
            notes = {**(found["metadata"].get("annotations") or {}), name: text}
            found["metadata"]["annotations"] = notes
            try:
                await self._api.call("PUT", path, found)
            except KubeError as error:
                if error.status != CONFLICT or not tries_left:
                    raise
            else:
                self.notes = notes
                return

    async def release(self) -> None:
        """Let another take it at once; for a shutdown. Raises KubeError."""
        if self.held:
            self._renewed_s = float("-inf")
            found = await self._api.call("GET", f"{self._space}/{self._name}")
            if (found.get("spec") or {}).get("holderIdentity") == self._me:
                found["spec"]["holderIdentity"] = ""
                await self._api.call("PUT", f"{self._space}/{self._name}", found)

    async def _write(self, method: str, path: str, found: Object, asked_s: float) -> None:
        """Write it as ours; somebody who was faster is its holder."""
        spec = found["spec"]
        stamp = datetime.datetime.fromtimestamp(self._wall(), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if spec.get("holderIdentity") != self._me:
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
            spec["acquireTime"] = stamp
        spec |= {"holderIdentity": self._me, "leaseDurationSeconds": DURATION_S, "renewTime": stamp}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **found}
        try:
            await self._api.call(method, path, body)
        except KubeError as error:
            self._renewed_s = float("-inf")
            if error.status != CONFLICT:
                raise
        else:
            self._renewed_s = asked_s
