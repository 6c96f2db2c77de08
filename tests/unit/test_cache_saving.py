"""What the semantic tier knows outlives the process: texts, answers, what was learned."""

from pathlib import Path

import pytest

from semantic_cache import saving
from semantic_cache.cache import SemanticCache
from semantic_cache.ledger import Bounds
from semantic_cache.saving import OwnFile
from semantic_cache.stores.index import MemoryIndex
from semantic_cache.stores.memory import MemoryStore
from semantic_cache.verify import MOST_COUNTED
from tests.fakes.loop import now
from tests.fakes.words import Words
from tests.unit.test_semantic_cache import FORMS, TOPICS, ask, learned, look_up, make


def saved(cache: SemanticCache, path: Path) -> Path:
    async def collect() -> list[bytes]:
        return [frame async for frame in cache.frames()]

    saving.write(path, now(collect()))
    return path


def test_another_process_serves_what_this_one_learned(tmp_path: Path) -> None:
    cache = learned()
    path = saved(cache, tmp_path / "state" / "semantic.cache")
    assert path.stat().st_mode & 0o777 == 0o600
    other = make()
    assert now(other.resume(saving.read(path), 10.0)) > 10
    agreed = hits = 0
    for form in FORMS[-3:]:
        for topic in TOPICS:
            asked = ask(form.format(topic))
            mine, theirs = look_up(cache, asked, 10.0).entry, look_up(other, asked, 10.0).entry
            agreed += mine == theirs
            hits += theirs is not None
    assert agreed >= 27  # the metric is fresher after a start
    assert hits > 15


def test_what_has_expired_is_left_behind(tmp_path: Path) -> None:
    path = saved(learned(), tmp_path / "semantic.cache")
    assert now(make().resume(saving.read(path), 1001.0)) == 0


def test_a_broken_file_is_read_as_far_as_it_is_sound(tmp_path: Path) -> None:
    path = saved(learned(), tmp_path / "semantic.cache")
    data = path.read_bytes()
    for size in (0, 3, 40, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        assert now(make().resume(saving.read(path), 0.0)) <= 120
    path.write_bytes(b"\x00\x00\x00\x04xxxx" + data)
    assert now(make().resume(saving.read(path), 0.0)) == 0
    assert list(saving.read(tmp_path / "none")) == []


def test_a_file_of_another_embedding_is_not_read(tmp_path: Path) -> None:
    path = saved(learned(), tmp_path / "semantic.cache")
    words = Words("backwards", lambda vector: vector[::-1].copy())
    other = SemanticCache(MemoryStore(10_000_000), MemoryIndex(1000), words, lambda: 0.9, words)
    other.adopt(Bounds(error=0.3))
    with pytest.raises(ValueError, match="embedding 'words'"):
        now(other.resume(saving.read(path), 0.0))
    assert not look_up(other, ask(FORMS[0].format(TOPICS[0]))).near


def test_judges_of_another_version_begin_anew_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, cache = tmp_path / "semantic.cache", make()
    frames = list(saving.read(saved(learned(), path)))
    learnt = next(frame for frame in frames if isinstance(frame, saving.Learned))
    del learnt.state["constancy"]
    other = saving.Learned("t/other", learnt.state)
    assert now(cache.resume([*frames, other], 0.0)) > 10
    assert not cache.judges
    assert [one.getMessage() for one in caplog.records] == [
        "what 2 routes had learned is of another version: they begin to learn anew"
    ]


def test_one_process_of_a_directory_owns_the_file(tmp_path: Path) -> None:
    first, second = OwnFile(tmp_path / "x.cache"), OwnFile(tmp_path / "x.cache")
    assert first.mine()
    assert not second.mine()
    assert first.mine()


def test_words_that_were_counted_further_by_an_earlier_version_are_as_common_as_can_be() -> None:
    judge = learned().judges["t/m"]
    state = judge.state()
    state["words"] = dict.fromkeys(state["words"], 10**6)
    judge.resume(state)
    assert set(judge.state()["words"].values()) == {MOST_COUNTED}
