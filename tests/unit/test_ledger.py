"""From the journal into SQL: after a crash, after a rotation, after the database was away."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gateway import database
from gateway.tenancy import journal as journals
from gateway.tenancy import ledger
from gateway.tenancy.carrier import Carrier, recover, settle_lines
from gateway.tenancy.journal import Journal, Line
from tests.fakes.entries import accepted, entry, progress


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = database.connect(f"sqlite:///{tmp_path / 'ledger.db'}")
    database.migrate(made)
    yield made
    made.dispose()


def rows(engine: sa.Engine) -> dict[str, dict[str, Any]]:
    found = list(ledger.export(engine, 0.0, 1e12))
    assert len({row["request_id"] for row in found}) == len(found)
    return {row["request_id"]: row for row in found}


def left_behind(directory: Path, *segments: list[Line]) -> None:
    """Write segments as a process that is gone has left them."""
    for number, lines in enumerate(segments):
        journal = Journal(directory, f"gone{number}")
        for line in lines:
            journal.append(line)
        journal.close(settled=False)


def test_what_a_gone_process_left_is_settled_by_its_last_progress(tmp_path: Path, engine: sa.Engine) -> None:
    left_behind(
        tmp_path / "journal",
        [accepted("settled"), accepted("running"), accepted("queued"), progress("running", 32)],
        [progress("running", 64), entry("settled", amount_nanousd=9), accepted("late")],
    )
    assert recover(engine, tmp_path / "journal", set()) == 4
    found = rows(engine)
    assert {name: row["status"] for name, row in found.items()} == {
        "settled": "ok", "running": "interrupted", "queued": "interrupted", "late": "interrupted",
    }  # fmt: skip
    running, queued = found["running"], found["queued"]
    assert (running["model"], running["completion_tokens"], running["prompt_tokens"]) == ("small", 64, 10)
    assert (running["amount_nanousd"], running["replicas"], running["estimated"]) == (
        64 * 200,
        "small-0",
        True,
    )
    assert (queued["model"], queued["amount_nanousd"], queued["attempts"]) == ("large", 0, 0)
    assert found["settled"]["amount_nanousd"] == 9
    assert list((tmp_path / "journal").iterdir()) == []
    assert recover(engine, tmp_path / "journal", set()) == 0


def test_a_row_that_was_carried_before_the_crash_stays_as_it_is(tmp_path: Path, engine: sa.Engine) -> None:
    ledger.insert(engine, [entry("r1", amount_nanousd=9)])
    left_behind(tmp_path / "journal", [accepted("r1"), progress("r1", 32)])
    recover(engine, tmp_path / "journal", set())
    assert (rows(engine)["r1"]["status"], rows(engine)["r1"]["amount_nanousd"]) == ("ok", 9)


def test_segments_stay_while_the_database_does_not_take_them(tmp_path: Path) -> None:
    left_behind(tmp_path / "journal", [accepted("r1")])
    unmigrated = database.connect(f"sqlite:///{tmp_path / 'empty.db'}")
    for _ in range(2):
        with pytest.raises(sa.exc.OperationalError):
            recover(unmigrated, tmp_path / "journal", set())
    assert len(list((tmp_path / "journal").iterdir())) == 1
    database.migrate(unmigrated)
    assert recover(unmigrated, tmp_path / "journal", set()) == 1
    unmigrated.dispose()


def test_a_carried_segment_is_dropped_only_when_its_requests_are_settled(
    tmp_path: Path, engine: sa.Engine
) -> None:
    journal = Journal(tmp_path / "journal", "a")
    carrier = Carrier(engine, journal)
    first = journal.append(accepted("open"))
    first.open_requests += 1
    journal.append(accepted("big", model="m" * journals.SEGMENT_BYTES))
    assert len(journal.segments()) == 2
    carrier.step()
    assert first.path.exists()
    assert not carrier.caught_up()
    journal.append(entry("open"))
    first.open_requests -= 1
    assert carrier.step() == 1
    assert not first.path.exists()
    assert carrier.caught_up()
    assert list(rows(engine)) == ["open"]
    journal.close(settled=True)


def test_more_lines_than_a_batch_are_carried(tmp_path: Path, engine: sa.Engine) -> None:
    journal = Journal(tmp_path / "journal", "a")
    count = ledger.BATCH + 5
    for number in range(count):
        journal.append(entry(f"r{number}"))
    assert Carrier(engine, journal).step() == count
    assert len(rows(engine)) == count
    journal.close(settled=True)


def test_a_step_carries_what_was_there_when_it_began(tmp_path: Path, engine: sa.Engine) -> None:
    journal = Journal(tmp_path / "journal", "a")
    names = iter(["r1", "r2", "r3"])

    def meanwhile(_connection: sa.Connection) -> None:
        journal.append(entry(next(names)))

    sa.event.listen(engine, "commit", meanwhile)
    journal.append(entry("r0"))
    carrier = Carrier(engine, journal)
    assert [carrier.step(), carrier.step(), carrier.step()] == [1, 1, 1]
    sa.event.remove(engine, "commit", meanwhile)
    assert not carrier.caught_up()
    assert carrier.step() == 1
    assert carrier.caught_up()
    assert sorted(rows(engine)) == ["r0", "r1", "r2", "r3"]
    journal.close(settled=True)


def test_lines_stay_while_the_database_is_away_and_come_when_it_is_back(tmp_path: Path) -> None:
    engine = database.connect(f"sqlite:///{tmp_path / 'later.db'}")
    journal = Journal(tmp_path / "journal", "a")
    carrier = Carrier(engine, journal)
    journal.append(entry("r1"))
    for _ in range(3):
        with pytest.raises(sa.exc.OperationalError):
            carrier.step()
        assert not carrier.caught_up()
    journal.append(entry("r2"))
    database.migrate(engine)
    assert carrier.step() == 2
    assert sorted(rows(engine)) == ["r1", "r2"]
    engine.dispose()
    journal.close(settled=True)


CRASH = """
import sys
from pathlib import Path
from gateway.tenancy import journal as journals
from gateway.tenancy.journal import Journal
from tests.fakes.entries import accepted, entry, progress

journals.SEGMENT_BYTES = 20_000
journal = Journal(Path(sys.argv[1]), "child")
number = 0
while True:
    number += 1
    name = f"r{number}"
    journal.append(accepted(name))
    journal.append(progress(name, 32))
    print("a", name, flush=True)
    if number > 3:
        journal.append(entry(f"r{number - 3}", amount_nanousd=number - 3))
        print("s", f"r{number - 3}", flush=True)
"""


def test_kill_9_loses_no_accepted_request(tmp_path: Path, engine: sa.Engine) -> None:
    """A real process is killed while it writes; what it had said to be done is in the ledger once."""
    child = subprocess.Popen(
        [sys.executable, "-c", CRASH, str(tmp_path / "journal")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    said = [child.stdout.readline() for _ in range(400)]
    child.send_signal(signal.SIGKILL)
    said += [line for line in child.stdout if line.endswith("\n")]
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    done = {kind: {line.split()[1] for line in said if line.startswith(kind)} for kind in "as"}

    recovered = recover(engine, tmp_path / "journal", set())
    found = rows(engine)
    assert recovered == len(found)
    assert done["a"] <= set(found)
    assert len(found) <= len(done["a"]) + 1
    for name in done["s"]:
        assert (found[name]["status"], found[name]["amount_nanousd"]) == ("ok", int(name[1:]))
    for name in done["a"] - done["s"]:
        row = found[name]
        assert row["status"] == "ok" or row["amount_nanousd"] == 32 * 200
    assert 3 <= Counter(row["status"] for row in found.values())["interrupted"] <= 4
    assert list((tmp_path / "journal").iterdir()) == []


def test_progress_without_acceptance_makes_no_row(tmp_path: Path) -> None:
    left_behind(tmp_path, [progress("r1", 32)])
    assert list(settle_lines(sorted(tmp_path.iterdir()))) == []
