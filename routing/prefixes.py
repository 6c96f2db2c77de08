"""Which replica has seen the beginning of a prompt: marks of a prompt's prefixes, and who got them.

A mark is a keyed hash of everything up to one of the lengths in ``ENDS_BYTES``, which grow by half: two
prompts share their first k marks exactly where they share so many bytes, the count is bounded, and of a
shared beginning at least two thirds are recognised. Marks are salted by the tenant, because the table
remembers: with common marks a tenant would learn, from where its own prompt is sent and how fast it is
answered, what another one has asked. Pure; the longest prompt costs one hash of ``ENDS_BYTES[-1]`` bytes.
"""

from collections.abc import Sequence
from hashlib import blake2b

ENDS_BYTES = tuple(round(256 * 1.5**step) for step in range(15))
BYTES_PER_TOKEN = 4
MARK_BYTES = 8
MARKS_PER_REPLICA = 16_384


def marks(content: bytes | memoryview, salt: bytes) -> tuple[bytes, ...]:
    """Give the marks of a prompt, shortest prefix first; none of one shorter than the first end."""
    size = len(content)
    if size < ENDS_BYTES[0]:
        return ()
    view = memoryview(content)
    mark = blake2b(salt, digest_size=MARK_BYTES).digest()
    found = []
    start = 0
    for end in ENDS_BYTES:
        if end > size:
            break
        mark = blake2b(view[start:end], digest_size=MARK_BYTES, key=mark).digest()
        found.append(mark)
        start = end
    return tuple(found)


def tokens_of(depth: int) -> int:
    """Give about how many tokens the first ``depth`` marks stand for."""
    return ENDS_BYTES[depth - 1] // BYTES_PER_TOKEN if depth else 0


class WarmTable:
    """Who got which marks lately; of each replica the oldest are forgotten beyond ``limit``."""

    def __init__(self, limit: int = MARKS_PER_REPLICA) -> None:
        self._limit = limit
        self._marks: dict[str, dict[bytes, None]] = {}

    def note(self, replica: str, prefix: Sequence[bytes]) -> None:
        """Note that the replica gets a prompt with these marks."""
        seen = self._marks.setdefault(replica, {})
        for mark in reversed(prefix):  # the shortest is the newest, so that a chain is forgotten from its end
            seen.pop(mark, None)
            seen[mark] = None
        while len(seen) > self._limit:
            del seen[next(iter(seen))]

    def depth(self, replica: str, prefix: Sequence[bytes]) -> int:
        """Give how many leading marks the replica has seen."""
        seen = self._marks.get(replica)
        if seen is None:
            return 0
        for depth in range(len(prefix), 0, -1):
            if prefix[depth - 1] in seen:
                return depth
        return 0

    def keep(self, replicas: Sequence[str]) -> None:
        """Forget every other replica: who left routing comes back cold."""
        self._marks = {id_: seen for id_, seen in self._marks.items() if id_ in replicas}
