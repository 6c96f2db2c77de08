"""Labels in a file that several processes share, and what they put in force in the grading."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from backends.engines import ENGINES
from gateway.catalogue import Catalogue, Target
from gateway.choosing import Reading
from gateway.grading import Grading
from gateway.learning import Learning, label_of
from gateway.settings import Objective
from gateway.settings import parse as parse_settings
from gateway.telemetry import Telemetry
from routing.labels import Label
from tests.fakes.configs import MODEL

TOML = "".join(MODEL.replace('name = "m"', f'name = "{name}"') for name in ("small", "large")) + (
    '[[routes]]\nname = "auto"\ntiers = ["small", "large"]\nobjective = { quality = 0.9 }\n'
)


@pytest.fixture(scope="module")
def shipped() -> Grading:
    return Grading.load(lambda: 0.0)


def target() -> Target:
    return Catalogue(parse_settings(TOML, "x"), ENGINES).routes()[0]


def labels(grading: Grading, count: int, tenant: str = "t") -> list[Label]:
    """Labels whose gain goes against the shipped order: short questions gain, long ones do not."""
    found = []
    for number in range(count):
        long = number % 2
        text = (
            "Prove " * (number % 7) + f"that the sum of {number} primes is even" if long else f"Name {number}"
        )
        reading = grading.read(text)
        one = label_of(reading, ts=0.0, route="auto", tenant=tenant, source="shadow", large_served=False)
        found.append(
            Label(
                ts=0.0, route="auto", tenant=tenant, source="shadow", score=one.score, large_served=False,
                small=float(long), large=1.0, columns=one.columns,
            )
        )  # fmt: skip
    return found


def test_labels_are_shared_by_the_file_and_a_broken_line_is_left_out(
    tmp_path: Path, shipped: Grading
) -> None:
    path = tmp_path / "state" / "labels.jsonl"
    one, other = (Learning(path, lambda: shipped, Telemetry()) for _ in range(2))
    for label in labels(shipped, 3):
        one.note(label)
    asyncio.run(one.step())
    with path.open("ab") as file:
        file.write(b"junk\n" + b'{"half": ')
    asyncio.run(other.step())
    assert [lesson.labels for lesson in other.learnt()] == [3]
    assert other.learnt()[0].regret == pytest.approx(2 / 3)


def test_a_file_that_cannot_be_written_loses_no_label(tmp_path: Path, shipped: Grading) -> None:
    path = tmp_path / "labels.jsonl"
    path.mkdir()
    learning = Learning(path, lambda: shipped, Telemetry())
    learning.note(labels(shipped, 1)[0])
    with pytest.raises(OSError, match="directory"):
        asyncio.run(learning.step())
    path.rmdir()
    asyncio.run(learning.step())
    assert learning.learnt()[0].labels == 1


def test_enough_labels_recalibrate_the_quality_and_bring_a_challenger_for_their_tenant(
    tmp_path: Path,
) -> None:
    grading, route = Grading.load(lambda: 0.0), target()
    aim = Objective(quality=0.9)
    grading.place(route, aim, 0.5, 0)
    before = grading.thresholds(route)
    learning = Learning(tmp_path / "labels.jsonl", lambda: grading, Telemetry())
    for label in labels(grading, 200):
        learning.note(label)
    asyncio.run(learning.step())
    (lesson,) = learning.learnt()
    assert (lesson.labels, lesson.both, lesson.calibrated) == (200, 200, True)
    assert lesson.in_force == ["t"]
    assert grading.thresholds(route) != before
    easy, hard = (grading.read(text) for text in ("Name 3", "Prove that the sum of 9 primes is even"))
    assert easy.score < hard.score
    taught = [grading.adapted(one, route, "t") for one in (easy, hard)]
    assert taught[0].score > taught[1].score
    assert taught[0].shipped == easy.score
    assert grading.adapted(easy, route, "another") is easy
    assert learning.reset("auto")
    assert grading.adapted(easy, route, "t") is easy
    assert grading.share_for("auto", 0.9) == Grading.load(lambda: 0.0).share_for("auto", 0.9)
    assert not learning.reset("none")


def test_labels_hold_numbers_only_and_none_of_the_precise_grade(shipped: Grading) -> None:
    reading = shipped.read("a secret question")
    fast = label_of(reading, ts=1.0, route="r", tenant="t", source="feedback", large_served=True)
    assert np.frombuffer(fast.columns, np.float16) == pytest.approx(reading.columns, abs=1e-2)
    precise = Reading(0.5, reading.columns, precise=True)
    assert label_of(precise, ts=1.0, route="r", tenant="t", source="s", large_served=True).columns == b""


@pytest.mark.parametrize(
    "text", ["", "   ", "日本語の質問です", "Что такое любовь?", "\x00\x01\x02", "🙂" * 50]
)
def test_what_cannot_be_read_is_unsure(shipped: Grading, text: str) -> None:
    assert not shipped.read(text).sure


@pytest.mark.parametrize("text", ["What is 2 + 2?", "Was ist der Unterschied zwischen ähnlich und gleich?"])
def test_what_can_be_read_is_sure(shipped: Grading, text: str) -> None:
    assert shipped.read(text).sure
