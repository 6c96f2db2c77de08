"""What routing has learnt holds in every gateway of a database, and after a restart; so does its reset."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from gateway import database, lessons
from gateway.grading import Grading
from gateway.learning import label_of
from routing.labels import Label
from tests.fakes.processes import until
from tests.integration.admin import ADMIN, emptied, good
from tests.integration.gateway import Gateway, Upstreams, config, model, running

ROUTE = '[[routes]]\nname = "auto"\ntiers = ["small", "large"]\nobjective = { quality = 0.9 }\n'

TENANT = "project:default/default"


@pytest.fixture(params=["sqlite", "postgresql"])
def two(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Gateway, Gateway, str]]:
    """Two gateways on one database, whose URL comes with them."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    if request.param == "postgresql":
        url = emptied(request.getfixturevalue("postgres"))
    upstreams, found = Upstreams(2), []
    with ExitStack() as stack:
        for name in "ab":
            (tmp_path / name).mkdir()
            models = model("small", upstreams.ports[:1]) + model("large", upstreams.ports[1:])
            text = config(models + ROUTE, directory=tmp_path / name)
            own = f"sqlite:///{tmp_path / name / 'gateway.db'}"
            found.append(Gateway(tmp_path / name, text.replace(own, url), SWITCHGEAR_ADMIN_KEY=ADMIN))
        stack.enter_context(running(found[0], upstreams))
        stack.callback(lambda: found[1].stop())
        for one in found:
            until(one.ready)
        yield found[0], found[1], url


def taught(grading: Grading, count: int) -> list[Label]:
    """Labels by which short questions gain and long ones do not: against the shipped order."""
    found = []
    for number in range(count):
        long = number % 2
        text = f"Prove that the sum of {number} primes is even, step by step" if long else f"Name {number}"
        one = label_of(grading.read(text), ts=time.time(), route="auto", tenant=TENANT,
                       source="shadow", large_served=False)  # fmt: skip
        found.append(msgspec.structs.replace(one, small=float(long), large=1.0, weights=grading.version))
    return found


def of_auto(gateway: Gateway) -> dict[str, Any]:
    told = good(gateway, "GET", "routing/learning")["data"]
    return next((one for one in told if one["route"] == "auto"), {"in_force": [], "calibrated": False})


def score(gateway: Gateway) -> float:
    _, headers, _ = gateway.chat("auto", "Name 4")
    return float(headers["x-switchgear-score"])


def test_a_promotion_and_its_reset_hold_in_every_gateway_and_after_a_restart(
    two: tuple[Gateway, Gateway, str],
) -> None:
    one, other, url = two
    shipped = score(one)
    engine = database.connect(url)
    lessons.add(engine, taught(Grading.load(time.monotonic), 200))
    engine.dispose()
    for gateway in (one, other):
        until(lambda gateway=gateway: of_auto(gateway)["in_force"] == [TENANT], 60.0)  # type: ignore[misc]  # bound now
        assert score(gateway) != shipped
    assert len(good(one, "GET", "audit?action=routing.promote")["data"]) == 2

    good(other, "POST", "routing/learning/reset", {"route": "auto"})
    assert of_auto(other)["in_force"] == []
    until(lambda: of_auto(one)["in_force"] == [])
    assert not of_auto(one)["calibrated"]
    assert score(one) == score(other) == shipped
    one.stop()
    one.start()
    until(one.ready)
    until(lambda: of_auto(one).get("set_aside") == 200)
    assert (of_auto(one)["in_force"], of_auto(one)["labels"]) == ([], 0)
    assert score(one) == shipped

    good(one, "POST", "routing/learning/restore", {"route": "auto"})
    for gateway in (one, other):
        until(lambda gateway=gateway: of_auto(gateway)["in_force"] == [TENANT])  # type: ignore[misc]  # bound now
        assert score(gateway) != shipped
    actions = [line["action"] for line in good(other, "GET", "audit?subject=auto")["data"]]
    assert actions[:2] == ["routing.restore", "routing.reset"]


WAITS = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")


def test_who_reads_between_two_writers_misses_no_label(postgres: str) -> None:
    """The first has its ids before the other, and commits after it; whoever read in between goes by ids."""
    first, other, reader = (database.connect(postgres_url) for postgres_url in [emptied(postgres)] * 3)
    database.migrate(reader)
    label = Label(ts=1.0, route="auto", tenant=TENANT, source="shadow", score=0.5, large_served=False)
    begun, go = threading.Event(), threading.Event()

    @sa.event.listens_for(first, "commit")
    def _hold(_connection: sa.Connection) -> None:
        begun.set()
        assert go.wait(60.0)

    writers = [
        threading.Thread(target=lessons.add, args=(engine, [label] * many), daemon=True)
        for engine, many in ((first, 1), (other, 500))
    ]
    writers[0].start()
    assert begun.wait(60.0)
    writers[1].start()

    def waits_or_is_done() -> bool:
        with reader.connect() as connection:
            return not writers[1].is_alive() or bool(connection.execute(WAITS).scalar())

    until(waits_or_is_done)
    seen = lessons.labels_since(reader, 0)
    go.set()
    for one in writers:
        one.join(60.0)
    seen |= lessons.labels_since(reader, max(seen, default=0))
    assert len(seen) == 501
    for engine in (first, other, reader):
        engine.dispose()
