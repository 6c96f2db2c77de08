"""The index of texts: exact within a scope, whatever comes, expires and goes; never more than its bound."""

import asyncio

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from semantic_cache.saving import Linked, Text
from semantic_cache.stores.base import Alias
from semantic_cache.stores.graph import Graph
from semantic_cache.stores.index import MemoryIndex

SCOPES = [b"a", b"b", b"c"]


def alias(number: int, answer: int, expires_s: float) -> Alias:
    vector = np.random.default_rng(number).normal(size=8).astype(np.float32)
    return Alias(
        id=str(number), answer=str(answer), text="x" * (number % 7), vector=vector / np.linalg.norm(vector),
        owner="", worth=float(number % 5), stored_s=0.0, expires_s=expires_s,
    )  # fmt: skip


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(SCOPES), st.integers(0, 5), st.floats(1, 100)),
        st.tuples(st.just("drop"), st.integers(0, 5)),
        st.tuples(st.just("near"), st.sampled_from(SCOPES), st.integers(1, 6), st.floats(0, 100)),
    ),
    max_size=60,
)


@settings(max_examples=60)
@given(STEPS)
def test_it_finds_what_a_plain_list_finds(steps: list[tuple[object, ...]]) -> None:
    asyncio.run(play(steps))


async def play(steps: list[tuple[object, ...]]) -> None:
    index, model = MemoryIndex(1000, graph_from=12), list[tuple[bytes, Alias]]()
    asked = np.eye(8, dtype=np.float32)[0]
    for number, step in enumerate(steps):
        match step:
            case ("add", bytes() as scope, int() as answer, float() as expires_s):
                one = alias(number, answer, expires_s)
                await index.add(scope, one)
                model.append((scope, one))
            case ("drop", int() as answer):
                gone = [pair for pair in model if pair[1].answer == str(answer)]
                assert await index.drop({str(answer)}) == len(gone)
                model = [pair for pair in model if pair[1].answer != str(answer)]
            case ("near", bytes() as scope, int() as count, float() as now_s):
                model = [pair for pair in model if pair[1].expires_s > now_s]
                here = sorted((one for at, one in model if at == scope), key=lambda one: -one.vector @ asked)
                found = await index.near(scope, asked, count, now_s)
                assert [one.id for one in found] == [one.id for one in here[:count]]
        assert len(index) == len(model)
    assert await index.purge() == len(model)
    assert len(index) == 0


@settings(max_examples=30)
@given(st.integers(1, 20), st.lists(st.sampled_from(SCOPES), min_size=1, max_size=80))
def test_it_never_holds_more_than_its_bound(bound: int, scopes: list[bytes]) -> None:
    index = MemoryIndex(bound)
    for number, scope in enumerate(scopes):
        asyncio.run(index.add(scope, alias(number, number, 100.0)))
        assert len(index) == min(number + 1, bound)


def test_among_more_texts_than_are_read_as_they_are_the_nearest_are_found() -> None:
    chance = np.random.default_rng(7)
    vectors = chance.normal(size=(1_600, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    async def play() -> None:
        index = MemoryIndex(10_000)
        for number, vector in enumerate(vectors):
            await index.add(b"s", replace(alias(number, number, 1e9), vector=vector))
            if number == 1_500:  # from here on, the bytes are kept in step
                await index.near(b"s", vector, 8, 0.0)
        gone = {str(number) for number in range(0, 1_600, 7)}
        await index.drop(gone)
        left = [number for number in range(1_600) if str(number) not in gone]
        for asked in vectors[:40]:
            cosines = vectors[left] @ asked
            best = [str(left[at]) for at in np.argsort(-cosines)[:8]]
            found = await index.near(b"s", asked, 8, 0.0)
            assert [one.id for one in found] == best
            assert np.allclose(found.cosines, found.vectors @ asked, atol=1e-6)
            assert np.allclose(found.times(vectors[0]), found.vectors @ vectors[0], atol=1e-6)
            named = found.named()
            assert (list(named), named.vectors.size) == (list(found), 0)
            assert named.cosines is found.cosines

    asyncio.run(play())


@settings(max_examples=30, deadline=None)
@given(st.integers(13, 60), st.integers(0, 60), st.booleans())
def test_texts_that_come_without_their_graph_are_covered_at_once(count: int, gone: int, partly: bool) -> None:
    async def play() -> None:
        before, after = MemoryIndex(1000, graph_from=12), MemoryIndex(1000, graph_from=12)
        for number in range(count):
            await before.add(b"s", alias(number, number, 1e9))
        frames = list(before.frames())
        graphs = [frame for frame in frames if isinstance(frame, Linked)]
        if partly:  # a graph that lacks what came since it was saved
            await before.add(b"s", alias(1_000, 1_000, 1e9))
            frames = [*before.frames()]
            frames[-1:] = graphs
        else:
            frames = [frame for frame in frames if not isinstance(frame, Linked)]
        for frame in frames:
            assert isinstance(frame, Text | Linked)
            after.resume(frame)
        after.cover()
        await after.drop({str(gone)})
        await before.drop({str(gone)})
        asked = np.eye(8, dtype=np.float32)[0]
        found = await after.near(b"s", asked, 5, 0.0)
        assert [one.id for one in found] == [one.id for one in await before.near(b"s", asked, 5, 0.0)]
        (graph,) = [frame for frame in after.frames() if isinstance(frame, Linked)]
        assert len(Graph.restored(8, graph.graph)) == len(after) == len(before)

    asyncio.run(play())


def test_few_texts_get_no_graph() -> None:
    index = MemoryIndex(1000, graph_from=12)
    for label in range(1, 12):
        index.resume(Text.of(b"s", alias(label, label, 1e9), label))
    index.cover()
    assert not any(isinstance(frame, Linked) for frame in index.frames())
