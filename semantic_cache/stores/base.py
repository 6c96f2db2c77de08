"""The seam of a store."""

from typing import Protocol

import msgspec


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One kept answer, in its buffered form, with the tokens it took."""

    id: str
    tenant: str
    model: str
    body: bytes
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    stored_s: float
    expires_s: float
    reasoning_tokens: int = 0


class Store(Protocol):
    """Keeps entries by key, within a bound of its own."""

    async def get(self, key: bytes, now_s: float) -> Entry | None:
        """Give the entry if it is there and has not expired."""

    async def put(self, key: bytes, entry: Entry) -> None:
        """Keep an entry; the latest counts."""

    async def purge(self) -> int:
        """Forget everything; gives how many entries there were."""
