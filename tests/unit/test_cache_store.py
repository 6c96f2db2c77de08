"""Where answers are kept: found by key and time, bounded in bytes; and what may be kept at all."""

import asyncio

import pytest

from semantic_cache.policy import cacheable, exact_key, reusable
from semantic_cache.stores.base import Entry
from semantic_cache.stores.memory import OVERHEAD_BYTES, MemoryStore


def entry(body: bytes = b"x", expires_s: float = 10.0) -> Entry:
    return Entry(
        id="e", tenant="t", model="m", body=body, prompt_tokens=1, cached_tokens=0, completion_tokens=1,
        stored_s=0.0, expires_s=expires_s,
    )  # fmt: skip


def get(store: MemoryStore, key: bytes, now_s: float = 0.0) -> Entry | None:
    return asyncio.run(store.get(key, now_s))


def put(store: MemoryStore, key: bytes, one: Entry) -> None:
    asyncio.run(store.put(key, one))


def test_an_entry_is_found_until_it_expires() -> None:
    store = MemoryStore(10_000)
    put(store, b"a", entry())
    assert get(store, b"b") is None
    assert get(store, b"a", 9.999) == entry()
    assert get(store, b"a", 10.0) is None
    assert (len(store), store.size_bytes) == (0, 0)


def test_the_latest_counts() -> None:
    store = MemoryStore(10_000)
    put(store, b"a", entry(b"1" * 100))
    put(store, b"a", entry(b"2"))
    assert get(store, b"a") == entry(b"2")
    assert (len(store), store.size_bytes) == (1, OVERHEAD_BYTES + 1)


def test_the_least_recently_used_goes_first() -> None:
    store = MemoryStore(3 * (OVERHEAD_BYTES + 10))
    for key in (b"a", b"b", b"c"):
        put(store, key, entry(b"x" * 10))
    get(store, b"a")
    put(store, b"d", entry(b"x" * 10))
    assert [key for key in (b"a", b"b", b"c", b"d") if get(store, key)] == [b"a", b"c", b"d"]


def test_an_entry_over_the_bound_is_not_kept_and_its_older_one_is_gone() -> None:
    store = MemoryStore(OVERHEAD_BYTES + 10)
    put(store, b"a", entry(b"old"))
    put(store, b"a", entry(b"x" * 11))
    assert get(store, b"a") is None
    put(store, b"a", entry(b"x" * 10))
    assert get(store, b"a") is not None


def test_a_purge_forgets_everything() -> None:
    store = MemoryStore(10_000)
    put(store, b"a", entry())
    put(store, b"b", entry())
    assert asyncio.run(store.purge()) == 2
    assert (len(store), store.size_bytes, get(store, b"a")) == (0, 0, None)


@pytest.mark.parametrize(
    ("temperature", "limit", "kept"),
    [
        (None, 1.0, True),
        (None, 0.9, False),
        (0.0, 0.0, True),
        (0.1, 0.0, False),
        (1.0, 1.0, True),
        (1.1, 1.0, False),
    ],
)
def test_hot_sampling_is_not_cached(temperature: float | None, limit: float, kept: bool) -> None:
    assert cacheable(temperature, limit) is kept


def test_answers_cut_short_are_not_served_again() -> None:
    assert reusable(["stop", "tool_calls"])
    assert reusable([])
    for reason in ("length", "content_filter", "abort", "error"):
        assert not reusable(["stop", reason])


def test_scope_is_a_hard_partition() -> None:
    parts = [
        ("t", "m", b"q"),
        ("tm", "", b"q"),
        ("", "tm", b"q"),
        ("t", "mq", b""),
        ("t", "m", b"q2"),
        ("u", "m", b"q"),
    ]
    found = {exact_key(*one) for one in parts}
    assert len(found) == len(parts)
    assert {len(key) for key in found} == {32}
    assert exact_key("t", "m", b"q") in found
