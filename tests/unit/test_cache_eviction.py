"""What goes when it is full: what saves least, is least likely to be asked again, and takes most room."""

import asyncio
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest

from semantic_cache.stores.base import Alias, Entry
from semantic_cache.stores.index import MemoryIndex
from semantic_cache.stores.memory import OVERHEAD_BYTES, MemoryStore

TEXT = Alias(
    id="", answer="", text="x" * 20, vector=np.eye(4, dtype=np.float32)[0], owner="", worth=100.0,
    stored_s=7200.0, expires_s=1e9,
)  # fmt: skip
KEPT = 24


async def kept(*aliases: Alias) -> set[str]:
    """Give what is left where one text too many comes."""
    index = MemoryIndex(len(aliases) - 1)
    for one in aliases:
        await index.add(b"s", one)
    return {one.id for _, one in await index.listed()}


@pytest.mark.parametrize(
    "poorer",
    [{"worth": 1.0}, {"stored_s": 0.0}, {"text": "x" * 20_000}],
    ids=["saves less", "older", "takes more room"],
)
def test_the_text_of_least_value_goes(poorer: dict[str, Any]) -> None:
    """Each of a few that are looked at is weighed; the one that is poorer by a single thing goes."""
    good = [msgspec.structs.replace(TEXT, id=str(n), answer=str(n)) for n in range(KEPT)]
    lost = 0
    for at in range(KEPT):
        good[at] = msgspec.structs.replace(good[at], **poorer)
        lost += str(at) not in asyncio.run(kept(*good))
        good[at] = msgspec.structs.replace(TEXT, id=str(at), answer=str(at))
    assert lost > KEPT / 2, "sixteen are looked at, so most often it is among them"


def test_an_answer_that_many_ask_for_stays() -> None:
    asked = [msgspec.structs.replace(TEXT, id=f"often{n}", answer="often", worth=20.0) for n in range(8)]
    once = [msgspec.structs.replace(TEXT, id=str(n), answer=str(n), worth=20.0) for n in range(KEPT)]
    left = asyncio.run(kept(*asked, *once))
    assert {one.id for one in asked} <= left


def test_a_bound_in_bytes_holds_and_is_given_back() -> None:
    async def play() -> None:
        index = MemoryIndex(1_000, max_bytes=50_000)
        for n in range(200):
            await index.add(b"s", msgspec.structs.replace(TEXT, id=str(n), answer=str(n)))
            assert 0 < index.size_bytes <= 50_000
        assert 10 < len(index) < 200
        await index.drop([str(n) for n in range(200)])
        assert (index.size_bytes, len(index)) == (0, 0)

    asyncio.run(play())


def test_of_the_longest_unused_answers_the_cheapest_for_its_size_goes() -> None:
    def entry(tokens: int, size: int = 100) -> Entry:
        return Entry(
            id="e", tenant="t", model="m", body=b"x" * size, prompt_tokens=0, cached_tokens=0,
            completion_tokens=tokens, stored_s=0.0, expires_s=1e9,
        )  # fmt: skip

    async def play() -> None:
        store = MemoryStore(4 * (OVERHEAD_BYTES + 100))
        for key, tokens in ((b"dear", 500), (b"cheap", 3), (b"dearer", 900), (b"late", 50)):
            await store.put(key, entry(tokens))
        await store.put(b"new", entry(1))
        assert await store.get(b"cheap", 0.0) is None
        assert await store.get(b"dear", 0.0) is not None

    asyncio.run(play())


@pytest.mark.parametrize("scopes", [1, 50, 2_000], ids=lambda n: f"{n} scopes")
def test_what_it_takes_is_about_what_it_says(scopes: int) -> None:
    """Also where each text is in a scope of its own, as with prompts that hold a document."""

    async def play() -> None:
        index = MemoryIndex(10_000)
        vector = np.full(256, 1 / 16, np.float32)
        tracemalloc.start()
        try:
            for n in range(2_000):
                one = msgspec.structs.replace(
                    TEXT,
                    id=f"{n:024d}",
                    answer=f"{n:064d}",
                    text=f"a question with the number {n}",
                    vector=vector,
                )
                await index.add(b"%032d" % (n % scopes), one)
            taken_bytes = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert 0.5 < taken_bytes / index.size_bytes < 1.3

    asyncio.run(play())
