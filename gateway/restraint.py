"""What keeps one request's trouble from becoming everybody's. Pure: counts and times come in.

- ``Budget``: retries and hedges are a share of the requests, and a few more after a pause: when everything
  fails, trying again must not double the load.
- ``FirstBytes``: after which time a first byte is late, as a quantile of the latest ones.
- ``Suspects``: a request that failed wherever it was tried may be the cause itself. It takes no replica out
  of routing by being sent again, and is tried once only, until it succeeds or is forgotten.
"""

from bisect import insort
from collections import OrderedDict, deque
from hashlib import blake2b

from gateway.settings import HedgeSettings

RETRY_SHARE = 0.1
SAVED = 10.0
"""So many tries over its share a model may have at once."""
SAMPLES = 200
LEAST_SAMPLES = 20
SUSPECTED_S = 60.0
SUSPECTS = 1024


class Budget:
    """Lets ``share`` of a growing count through."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._left = SAVED
        self._counted = 0

    def spend(self, count: int) -> bool:
        """Take one, after so many requests in all; False where none is left."""
        self._left = min(SAVED, self._left + self.share * (count - self._counted))
        self._counted = count
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class FirstBytes:
    """The latest times to the first byte, and a quantile of them."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []

    def note(self, took_s: float) -> None:
        """Note one."""
        self._latest.append(took_s)
        insort(self._sorted, took_s)
        if len(self._latest) > SAMPLES:
            self._sorted.remove(self._latest.popleft())

    def late_s(self, quantile: float) -> float | None:
        """Give the time above which one is late; None while too few are known."""
        count = len(self._sorted)
        return self._sorted[min(int(quantile * count), count - 1)] if count >= LEAST_SAMPLES else None


class Restraint:
    """What a model's calls may do beside the one attempt that each has; ``requests`` counts them."""

    def __init__(self) -> None:
        self.requests = 0
        self.first_bytes = FirstBytes()
        self._retries = Budget(RETRY_SHARE)
        self._hedges = Budget(0.0)

    def may_retry(self) -> bool:
        """Take one retry out of the budget."""
        return self._retries.spend(self.requests)

    def may_hedge(self, hedge: HedgeSettings) -> bool:
        """Take one hedge out of the budget."""
        self._hedges.share = hedge.budget
        return self._hedges.spend(self.requests)

    def late_s(self, hedge: HedgeSettings) -> float | None:
        """Give from when on a first byte is late; None while that is not known."""
        return (
            hedge.after_ms / 1000 if hedge.after_ms is not None else self.first_bytes.late_s(hedge.quantile)
        )


class Suspects:
    """Requests, by the hash of what is sent, that failed on every replica they were tried on."""

    def __init__(self) -> None:
        self._until_s: OrderedDict[bytes, float] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._until_s)

    def add(self, path: str, body: bytes, now_s: float) -> None:
        """Suspect a request from now on."""
        name = _name(path, body)
        self._until_s[name] = now_s + SUSPECTED_S
        self._until_s.move_to_end(name)
        if len(self._until_s) > SUSPECTS:
            self._until_s.popitem(last=False)

    def holds(self, path: str, body: bytes, now_s: float) -> bool:
        """Tell whether a request is suspected."""
        name = _name(path, body)
        until_s = self._until_s.get(name)
        if until_s is not None and until_s <= now_s:
            del self._until_s[name]
            return False
        return until_s is not None

    def clear(self, path: str, body: bytes, now_s: float) -> None:
        """A replica has served it: it was not the request."""
        self._until_s.pop(_name(path, body), None)
        while self._until_s and next(iter(self._until_s.values())) <= now_s:
            self._until_s.popitem(last=False)


def _name(path: str, body: bytes) -> bytes:
    return blake2b(body, key=path.encode(), digest_size=16).digest()
