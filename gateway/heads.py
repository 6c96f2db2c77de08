"""Heads of requests that were parsed before, by their bytes: a client sends nearly the same one each time.

A message of a known head and exactly its body needs no parser: equal bytes mean the same. Only what is plain
is known: a POST of one ``content-length`` on a connection that stays. A head is kept when it comes a second
time, so that those that are new each time cost next to nothing.
"""

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote

import httptools
import msgspec

MOST_HEADS = 512
MOST_BYTES = 4096  # of a head that is kept
MOST_MESSAGE_BYTES = 64 * 1024
_END = b"\r\n\r\n"
_NOT_PLAIN = frozenset((b"transfer-encoding", b"expect", b"upgrade"))


class Head(msgspec.Struct, frozen=True):
    """What a head says."""

    path: str
    raw_path: bytes
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    named: Mapping[bytes, bytes]
    body_bytes: int


class Heads:
    """The heads that came lately."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}
        self._once: set[int] = set()

    def find(self, data: bytes) -> tuple[Head, bytes] | None:
        """Give head and body where the data are one message of a known head."""
        end = data.find(_END)
        if end < 0:
            return None
        head = self._known.get(data[:end])
        if head is None or len(data) != end + len(_END) + head.body_bytes:
            return None
        return head, data[end + len(_END) :]

    def again(self, data: bytes) -> bool:
        """Tell whether data begin with a short head that came before; notes that it came."""
        end = data.find(_END)
        if not 0 <= end <= MOST_BYTES or len(data) > MOST_MESSAGE_BYTES:
            return False
        mark = hash(data[:end])
        if mark in self._once:
            return True
        if len(self._once) >= 4 * MOST_HEADS:
            self._once.clear()
        self._once.add(mark)
        return False

    def keep(self, data: bytes, head: Head) -> None:
        """Keep what the parser found in data that were one message, where it is short and plain."""
        end = data.find(_END)
        if (
            end > MOST_BYTES
            or len(data) > MOST_MESSAGE_BYTES
            or len(data) != end + len(_END) + head.body_bytes
        ):
            return
        names = [name for name, _ in head.headers]
        if names.count(b"content-length") != 1 or not _NOT_PLAIN.isdisjoint(names):
            return
        if any(name == b"connection" and value.lower() != b"keep-alive" for name, value in head.headers):
            return
        if len(self._known) >= MOST_HEADS:
            self._known.clear()
        self._known[data[:end]] = head


@lru_cache(256)
def parts_of(url: bytes) -> tuple[str, bytes, bytes]:
    """Give path, raw path and query of a request's target, as the scope has them."""
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return unquote(path) if "%" in path else path, parsed.path, parsed.query or b""
