"""The tier that each conversation has come to: it may rise, and does not fall.

Pure. A turn is known by the digest of everything up to its last user message; the next turn repeats all of
that, so its digest is found again. Turns on the cheapest tier are not kept, and of the others the latest.
Where several processes part the traffic, each tells the others of its turns (``parted``).
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from hashlib import blake2b

_MOST = 50_000
_MOST_UNTOLD = 10_000


class Conversations:
    """The tiers of the latest turns."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._tiers: OrderedDict[bytes, int] = OrderedDict()
        self._untold: deque[tuple[bytes, int]] = deque(maxlen=_MOST_UNTOLD)
        self.parted = False

    def tier(self, turn: bytes | None) -> int:
        """Give the tier that a turn was on; 0, the cheapest, of one that is not known."""
        return self._tiers.get(turn, 0) if turn is not None else 0

    def note(self, turn: bytes, tier: int) -> None:
        """Remember the tier of a turn."""
        if self.parted:
            self._untold.append((turn, tier))
        self._keep(turn, tier)

    def tell(self) -> list[tuple[bytes, int]]:
        """Give the turns that the others have not heard of, and forget that."""
        told = list(self._untold)
        self._untold.clear()
        return told

    def hear(self, turn: bytes, tier: int) -> None:
        """Remember a turn that another process answered; of two tiers the higher one."""
        self._keep(turn, max(tier, self.tier(turn)))

    def _keep(self, turn: bytes, tier: int) -> None:
        self._tiers[turn] = tier
        self._tiers.move_to_end(turn)
        if len(self._tiers) > self._most:
            self._tiers.popitem(last=False)


def turns(scope: bytes, messages: Iterable[tuple[str, bytes]]) -> tuple[bytes | None, bytes | None]:
    """Give the digests of the user's last turn but one, and of the last one, within a `scope`.

    `messages` are roles and contents in order.
    """
    before: bytes | None = None
    now: bytes | None = None
    told = blake2b(scope, digest_size=16)
    for role, content in messages:
        told.update(b"%d %b %b" % (len(content), role.encode(errors="replace"), content))
        if role == "user":
            before, now = now, told.digest()
    return before, now
