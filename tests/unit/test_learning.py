"""Labels in a database that several processes share, and what they put in force in the grading of all."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from backends.engines import ENGINES
from gateway import database, lessons, tables
from gateway.catalogue import Catalogue, Target
from gateway.choosing import Reading
from gateway.config_file import parse as parse_settings
from gateway.grading import Grading
from gateway.learning import Archive, Learning, label_of
from gateway.lessons import Lesson
from gateway.settings import Objective
from gateway.telemetry import Telemetry
from gateway.tenancy import changes
from gateway.tenancy.changes import Change
from routing.complexity import Classifier
from routing.feedback import Feedback
from routing.labels import Label
from tests.fakes.configs import MODEL

TOML = "".join(MODEL.replace('name = "m"', f'name = "{name}"') for name in ("small", "large")) + (
    '[[routes]]\nname = "auto"\ntiers = ["small", "large"]\nobjective = { quality = 0.9 }\n'
)

TENANT = "project:acme/chat"


@pytest.fixture(scope="module")
def shipped() -> Grading:
    return Grading.load(lambda: 0.0)


def target() -> Target:
    return Catalogue(parse_settings(TOML, "x"), ENGINES).routes()[0]


def labels(grading: Grading, count: int, tenant: str = TENANT) -> list[Label]:
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


class Gateways:
    """Gateway processes on one database: what each has of the learning."""

    def __init__(self, path: Path) -> None:
        self.engine = database.connect(f"sqlite:///{path}")
        database.migrate(self.engine)
        self.now_s = 1000.0

    def one(self, name: str = "a", grading: Grading | None = None) -> Learning:
        archive = Archive(self.engine_of, self.revision, lambda: self.now_s, threading.Lock(), name)
        return Learning(archive, lambda: grading, Telemetry())

    def engine_of(self) -> sa.Engine:
        return self.engine

    def revision(self) -> int:
        with self.engine.connect() as connection:
            return changes.revision(connection)

    def audit(self) -> list[tuple[str, str, str]]:
        rows = sa.select(tables.audit.c.action, tables.audit.c.org, tables.audit.c.subject)
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(rows.order_by(tables.audit.c.ts))]

    def change(self, do: Callable[[Change, str], Any]) -> Any:
        self.now_s += 1.0
        with changes.changing(self.engine, "admin-key", self.now_s) as change:
            return do(change, "auto")

    def close(self) -> None:
        self.engine.dispose()


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[Gateways]:
    made = Gateways(tmp_path / "x.db")
    yield made
    made.close()


def steps(*some: Learning) -> None:
    for one in some:
        asyncio.run(one.step())


def test_labels_are_known_to_all_processes_and_a_broken_one_is_left_out(
    gateways: Gateways, shipped: Grading
) -> None:
    one, other = (gateways.one(name, shipped) for name in "ab")
    for label in labels(shipped, 3):
        one.note(label)
    steps(one)
    with gateways.engine.begin() as connection:
        connection.execute(sa.insert(tables.routing_labels).values(route="auto", body=b"junk"))
    steps(other, other)
    assert [lesson.labels for lesson in other.learnt()] == [3]
    assert other.learnt()[0].regret == pytest.approx(2 / 3)


def test_a_database_that_is_away_loses_no_label(gateways: Gateways, shipped: Grading) -> None:
    learning = gateways.one("a", shipped)
    learning.note(labels(shipped, 1)[0])
    there = gateways.engine
    gateways.engine = database.connect("sqlite:////proc/none/x.db")
    with pytest.raises(SQLAlchemyError):
        steps(learning)
    gateways.engine = there
    steps(learning)
    assert learning.learnt()[0].labels == 1


def test_enough_labels_recalibrate_the_quality_and_bring_a_challenger_for_their_tenant(
    gateways: Gateways,
) -> None:
    grading, route = Grading.load(lambda: 0.0), target()
    aim = Objective(quality=0.9)
    grading.place(route, aim, 0.5, 0)
    before = grading.thresholds(route)
    learning = gateways.one("a", grading)
    for label in labels(grading, 200):
        learning.note(label)
    steps(learning)
    (lesson,) = learning.learnt()
    assert (lesson.labels, lesson.both, lesson.calibrated) == (200, 200, True)
    assert lesson.in_force == [TENANT]
    assert lesson.trials[TENANT].better
    assert grading.thresholds(route) != before
    easy, hard = (grading.read(text) for text in ("Name 3", "Prove that the sum of 9 primes is even"))
    assert easy.score < hard.score
    taught = [grading.adapted(one, route, TENANT) for one in (easy, hard)]
    assert taught[0].score > taught[1].score
    assert taught[0].shipped == easy.score
    assert grading.adapted(easy, route, "another") is easy
    assert sorted(gateways.audit()) == [("routing.promote", "*", "auto"), ("routing.promote", "acme", "auto")]


def taught(gateways: Gateways) -> tuple[Learning, Grading]:
    """A process in which a challenger is in force."""
    grading = Grading.load(lambda: 0.0)
    learning = gateways.one("a", grading)
    for label in labels(grading, 200):
        learning.note(label)
    steps(learning)
    assert ("auto", TENANT) in grading.challengers
    return learning, grading


def standing(gateways: Gateways) -> Lesson:
    """What stands there of the tenant."""
    return lessons.read(gateways.engine).by_name["auto", TENANT]


def test_what_is_in_force_is_the_same_in_every_process_and_after_a_restart(gateways: Gateways) -> None:
    _, grading = taught(gateways)
    other = Grading.load(lambda: 0.0)
    asyncio.run(gateways.one("b", other).follow())
    reading, route = grading.read("Name 3"), target()
    assert other.curves == grading.curves
    assert other.adapted(reading, route, TENANT).score == pytest.approx(
        grading.adapted(reading, route, TENANT).score
    )
    assert other.adapted(reading, route, TENANT).own == reading.score


def test_a_reset_holds_in_all_processes_and_after_a_restart_until_it_is_taken_back(
    gateways: Gateways,
) -> None:
    learning, grading = taught(gateways)
    other = Grading.load(lambda: 0.0)
    second = gateways.one("b", other)
    steps(second)
    share = Grading.load(lambda: 0.0).share_for("auto", 0.9)
    assert other.share_for("auto", 0.9) != share
    gateways.change(lessons.reset)
    late = Grading.load(lambda: 0.0)
    third = gateways.one("c", late)
    steps(learning, second, third, learning)
    for each in (grading, other, late):
        assert (each.challengers, each.curves) == ({}, {})
        assert each.share_for("auto", 0.9) == share
    (lesson,) = third.learnt()
    assert (lesson.labels, lesson.set_aside, lesson.restorable) == (0, 200, True)
    assert gateways.change(lessons.restore)
    steps(learning, second, third)
    for each in (grading, other, late):
        assert ("auto", TENANT) in each.challengers
    assert [one.labels for one in third.learnt()] == [200]
    assert not gateways.change(lessons.restore)
    assert [action for action, _, _ in gateways.audit()][2:] == ["routing.reset", "routing.restore"]


def test_a_reset_where_nothing_is_in_force_is_taken_back_with_the_one_before(gateways: Gateways) -> None:
    learning, grading = taught(gateways)
    gateways.change(lessons.reset)
    for label in labels(grading, 20):
        learning.note(label)
    steps(learning)
    gateways.change(lessons.reset)
    steps(learning)
    assert (learning.learnt()[0].labels, learning.learnt()[0].set_aside) == (0, 220)
    assert gateways.change(lessons.restore)
    steps(learning)
    assert learning.learnt()[0].labels == 220
    assert ("auto", TENANT) in grading.challengers
    assert not gateways.change(lessons.restore)


def test_a_trial_that_fails_after_a_reset_leaves_what_can_be_taken_back(gateways: Gateways) -> None:
    learning, grading = taught(gateways)
    gateways.change(lessons.reset)
    for label in labels(grading, 150):
        learning.note(msgspec.structs.replace(label, small=1.0 - label.score))
    steps(learning)
    assert ("auto", TENANT) not in grading.challengers
    assert not learning.learnt()[0].trials[TENANT].better
    assert gateways.change(lessons.restore)
    asyncio.run(learning.follow())
    assert ("auto", TENANT) in grading.challengers


@pytest.mark.parametrize("then_withdrawn", [False, True])
def test_what_is_promoted_after_a_reset_does_not_take_the_place_of_what_can_be_taken_back(
    gateways: Gateways, then_withdrawn: bool
) -> None:
    learning, grading = taught(gateways)
    reading, route = grading.read("Name 3"), target()
    before = grading.adapted(reading, route, TENANT).score
    gateways.change(lessons.reset)
    for number, label in enumerate(labels(grading, 120)):
        learning.note(msgspec.structs.replace(label, small=label.small if number % 5 else 0.5))
    steps(learning)
    assert grading.adapted(reading, route, TENANT).score not in (before, reading.score)
    if then_withdrawn:
        other = msgspec.structs.replace(standing(gateways), in_force=False, body=b"")
        gateways.change(lambda change, _: lessons.put(change, other))
    assert gateways.change(lessons.restore)
    asyncio.run(learning.follow())
    assert grading.adapted(reading, route, TENANT).score == before


@pytest.mark.parametrize("body", [b"", b"junk", b"PK\x03\x04junk"])
def test_a_lesson_that_cannot_be_read_leaves_the_others_in_force(
    gateways: Gateways, shipped: Grading, body: bytes
) -> None:
    grading = Grading.load(lambda: 0.0)
    learning = gateways.one("a", grading)
    broken = Lesson(route="broken", in_force=True, weights=shipped.version, body=body)
    good = msgspec.structs.replace(broken, route="auto", body=b"[0.5,1.0]")
    with changes.changing(gateways.engine, "admin-key", gateways.now_s) as change:
        for one in (broken, msgspec.structs.replace(broken, tenant="org:x"), good):
            lessons.put(change, one)
    asyncio.run(learning.follow())
    assert (grading.curves, grading.challengers) == ({"auto": [0.5, 1.0]}, {})


def test_labels_behind_many_that_cannot_be_read_count(gateways: Gateways, shipped: Grading) -> None:
    junk = [{"route": "auto", "body": b"{}"}] * lessons.AT_ONCE
    with gateways.engine.begin() as connection:
        connection.execute(sa.insert(tables.routing_labels), junk)
    lessons.add(gateways.engine, labels(shipped, 3))
    learning = gateways.one("a", shipped)
    steps(learning, learning)
    assert learning.learnt()[0].labels == 3


def test_all_numbers_of_the_weights_have_a_part_in_their_name(shipped: Grading) -> None:
    head = shipped.classifier.head
    for name in head.__struct_fields__:
        other = msgspec.structs.replace(head, **{name: getattr(head, name) + 1})
        named = Grading(shipped._reader, Classifier(other), shipped.facts, lambda: 0.0).version
        assert named != shipped.version, name


def test_new_labels_teach_again_after_a_reset_and_old_ones_do_not(gateways: Gateways) -> None:
    learning, grading = taught(gateways)
    gateways.change(lessons.reset)
    for label in labels(grading, 40):
        learning.note(label)
    steps(learning)
    assert grading.challengers == {}
    assert learning.learnt()[0].labels == 40
    for label in labels(grading, 120):
        learning.note(label)
    steps(learning)
    assert ("auto", TENANT) in grading.challengers


def test_a_challenger_that_is_better_no_more_is_withdrawn_with_a_line(gateways: Gateways) -> None:
    """The labels that taught it have gone with time; by the new ones the shipped order is right."""
    _, grading = taught(gateways)
    with gateways.engine.begin() as connection:
        connection.execute(sa.delete(tables.routing_labels))
    gateways.now_s += 100.0
    learning = gateways.one("b", grading)
    for label in labels(grading, 150):
        learning.note(msgspec.structs.replace(label, small=1.0 - label.score))
    steps(learning)
    assert ("auto", TENANT) not in grading.challengers
    assert not learning.learnt()[0].trials[TENANT].better
    assert gateways.audit()[-1] == ("routing.demote", "acme", "auto")


def test_one_process_works_out_what_labels_teach(gateways: Gateways) -> None:
    one, other = (gateways.one(name, Grading.load(lambda: 0.0)) for name in "ab")
    grading = Grading.load(lambda: 0.0)
    for label in labels(grading, 120):
        one.note(label)
    steps(one)
    revision = gateways.revision()
    steps(other, other)
    assert gateways.revision() == revision
    gateways.now_s += 100.0  # the first one is gone
    steps(other)
    assert gateways.revision() == revision + 1
    assert len(gateways.audit()) == 2


def test_lessons_and_labels_of_other_weights_do_not_count(gateways: Gateways) -> None:
    learning, grading = taught(gateways)
    for table in (tables.routing_lessons,):
        with gateways.engine.begin() as connection:
            connection.execute(sa.update(table).values(weights="another"))
            changes.bump(connection)
    asyncio.run(learning.follow())
    assert (grading.challengers, grading.curves) == ({}, {})
    strange = gateways.one("b", None)  # without a grading there is no name of the weights
    for label in labels(grading, 150, tenant="else"):
        strange.note(msgspec.structs.replace(label, columns=b"12"))
    steps(strange)
    gateways.now_s += 100.0
    steps(learning)
    assert ("auto", "else") not in grading.challengers


def test_the_oldest_labels_of_a_route_go(gateways: Gateways, shipped: Grading) -> None:
    one = labels(shipped, 1)[0]
    lessons.add(gateways.engine, [one] * (lessons.MOST_LABELS + 10))
    lessons.add(gateways.engine, [msgspec.structs.replace(one, route="other")])
    lessons.tidy(gateways.engine, "auto")
    left = lessons.labels_since(gateways.engine, 0)
    assert len(left) == lessons.MOST_LABELS + 1
    assert min(left) == 11
    learning = gateways.one("a", shipped)
    steps(learning)
    assert {told.route: told.labels for told in learning.learnt()} == {
        "auto": lessons.MOST_LABELS,
        "other": 1,
    }


def test_what_feedback_learnt_survives_being_packed() -> None:
    draw = np.random.default_rng(3)
    columns, scores = draw.normal(size=(60, 9)).astype(np.float32), draw.uniform(size=60)
    fitted = Feedback(columns, scores, draw.uniform(size=60))
    again = Feedback.unpacked(fitted.packed())
    assert again.score(columns, scores) == pytest.approx(fitted.score(columns, scores))
    with pytest.raises(ValueError):
        Feedback.unpacked(b"junk")


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
