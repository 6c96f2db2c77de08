"""The seams of what is kept: answers by key, and the texts that lead to them."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from semantic_cache.near import Near


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
    asked: str = ""  # the model or route that was asked for
    tags: tuple[str, ...] = ()
    took_s: float = 0.0  # from the request to the answer, when a model gave it


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """A text that leads to an answer, in one scope. Several may lead to the same one."""

    id: str
    answer: str  # the hex of the answer's key in the Store
    text: str
    vector: NDArray[np.float32]  # (d,), unit length
    owner: str  # which user asked, where the request said so
    worth: float  # what a hit saves, nano-dollars
    stored_s: float
    expires_s: float


class Store(Protocol):
    """Keeps entries by key, within a bound of its own.

    A store that is away gives nothing and takes nothing.
    """

    durable: bool
    """Whether what it keeps outlives the process without being saved."""

    async def get(self, key: bytes, now_s: float) -> Entry | None:
        """Give the entry if it is there and has not expired."""

    async def put(self, key: bytes, entry: Entry) -> None:
        """Keep an entry; the latest counts."""

    async def drop(self, keys: Collection[bytes]) -> int:
        """Forget entries; gives how many were there."""

    async def listed(self) -> Sequence[tuple[bytes, Entry]]:
        """Give what is kept, with its keys, at most some thousands."""

    async def purge(self) -> int:
        """Forget everything; gives how many entries there were."""


class Index(Protocol):
    """Finds texts by likeness within one scope, within a bound of its own.

    A store that is away gives nothing and takes nothing: a request goes on as a miss.
    """

    durable: bool
    """Whether what it keeps outlives the process without being saved."""

    def __len__(self) -> int:
        """Give how many texts there are, as far as is known."""

    async def near(self, scope: bytes, vector: NDArray[np.float32], count: int, now_s: float) -> Near[Alias]:
        """Give the `count` texts of the scope with the highest cosine, best first, none of them expired.

        Their own vectors may be left out: they are in its rows.
        """

    async def add(self, scope: bytes, alias: Alias) -> None:
        """Keep a text, unless its owner has filled his share of the scope."""

    async def drop(self, answers: Collection[str]) -> int:
        """Forget all texts of these answers; gives how many."""

    async def listed(self) -> Sequence[tuple[bytes, Alias]]:
        """Give the texts with their scopes, at most some thousands; their vectors may be left out."""

    async def purge(self) -> int:
        """Forget everything; gives how many texts there were."""

    def frames(self) -> Iterable[Any]:
        """Give what a file should keep, as ``saving.Frame``; nothing of what is durable."""

    def resume(self, frame: Any) -> None:
        """Take in one of them."""

    def cover(self) -> None:
        """Make what a search among so many texts needs, where it came with none of ``frames``.

        Takes about 0.25 ms a text on one core: for the start, before there are requests.
        """
