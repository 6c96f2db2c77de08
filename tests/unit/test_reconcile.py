"""Reconciling while requests are carried: what comes in between two questions is no difference."""

import ctypes
import os
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from gateway import database, tables
from gateway.tenancy import ledger
from gateway.tenancy.journal import Accepted, Entry, Progress
from gateway.tenancy.reconcile import Journals, reconcile
from tests.fakes.entries import entry


def test_what_is_carried_meanwhile_does_not_disturb(tmp_path: Path) -> None:
    reader, writer = (database.connect(f"sqlite:///{tmp_path}/books.db") for _ in range(2))
    database.migrate(writer)
    ledger.insert(writer, [entry("r0")])
    questions = 0

    def carry(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal questions
        if not statement.startswith("SELECT"):
            return
        questions += 1
        ledger.insert(writer, [entry(f"r{questions}")])

    sa.event.listen(reader, "after_cursor_execute", carry)
    report = reconcile(reader, tmp_path / "journal", tmp_path / "kept")
    assert questions > 2
    assert report.well
    assert report.rows == 1 or report.rows == 2  # the transaction begins with its first reading
    for engine in (reader, writer):
        engine.dispose()


def segment(folder: Path, name: str, *lines: Accepted | Progress | Entry) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def begun(request_id: str, ts: float = 1_700_000_000.0) -> Accepted:
    return Accepted(request_id, ts, "org", "project", "key_1", "small", "auto")


def test_a_request_may_begin_in_one_segment_and_end_in_the_next(tmp_path: Path) -> None:
    live, kept = tmp_path / "journal", tmp_path / "kept"
    segment(
        kept, "p-000001.jsonl", begun("whole"), begun("lost"), Progress("lost", "small", "v", 5, 7, 70, "r")
    )
    segment(kept, "p-000002.jsonl", entry("whole"), entry("a-hit"))
    segment(live, "q-000001.jsonl", begun("running"), entry("settled"), begun("untold"))
    size = (live / "q-000001.jsonl").stat().st_size
    for carried, certain in ((size, True), (0, False)):
        found = list(Journals(live, kept, {"q-000001.jsonl": carried}).entries())
        assert [(name, sure) for name, _, sure in found] == [
            ("whole", True),
            ("a-hit", True),
            ("settled", certain),
            ("lost", True),
            ("running", False),
            ("untold", False),
        ]
        lost = {name: one for name, one, _ in found}["lost"]
        assert lost is not None
        assert (lost.status, lost.completion_tokens, lost.amount_nanousd) == ("interrupted", 7, 70)


def test_a_kept_segment_is_read_until_it_was_found_right(tmp_path: Path) -> None:
    engine = database.connect(f"sqlite:///{tmp_path}/books.db")
    database.migrate(engine)
    live, kept, proven = tmp_path / "journal", tmp_path / "kept", set[str]()
    segment(kept, "p-000001.jsonl", entry("there"))
    segment(kept, "p-000002.jsonl", entry("not-there", amount_nanousd=9))
    ledger.insert(engine, [entry("there")])
    for _ in range(2):
        report = reconcile(engine, live, kept, 0.0, proven)
        assert (report.missing, report.gap_nanousd, report.journal_entries) == (["not-there"], 9, 2)
    ledger.insert(engine, [entry("not-there", amount_nanousd=9)])
    read = [reconcile(engine, live, kept, 0.0, proven).journal_entries for _ in range(2)]
    assert read == [2, 0]
    segment(kept, "p-000003.jsonl", entry("later"))
    (kept / "p-000001.jsonl").unlink()
    report = reconcile(engine, live, kept, 0.0, proven)
    assert (report.missing, report.journal_entries) == (["later"], 1)
    assert proven == {"p-000001.jsonl", "p-000002.jsonl"}
    # What goes from a proven one's rows is missing in the sums, and named by who reads everything.
    ledger.insert(engine, [entry("later")])
    with engine.begin() as connection:
        connection.execute(sa.delete(tables.ledger).where(tables.ledger.c.request_id == "not-there"))
    assert reconcile(engine, live, kept, 0.0, proven).gap_nanousd == 9
    assert reconcile(engine, live, kept).missing == ["not-there"]
    engine.dispose()


def test_what_was_written_to_last_before_the_days_in_question_is_not_read(tmp_path: Path) -> None:
    live, kept = tmp_path / "journal", tmp_path / "kept"
    segment(kept, "p-000001.jsonl", entry("old"))
    segment(kept, "p-000002.jsonl", entry("new"))
    os.utime(kept / "p-000001.jsonl", (1000.0, 1000.0))
    assert [name for name, _, _ in Journals(live, kept, since_s=2000.0).entries()] == ["new"]


def test_a_long_ledger_is_sorted_beside_the_memory(tmp_path: Path) -> None:
    engine = database.connect(f"sqlite:///{tmp_path}/books.db")
    database.migrate(engine)
    ledger.insert(engine, [entry("r0")])
    others = ", ".join(column.name for column in tables.ledger.columns if column.name != "request_id")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 199999) "
            f"INSERT INTO ledger (request_id, {others}) SELECT 'r' || i, {others} FROM ledger, n"
        )
        connection.exec_driver_sql("UPDATE usage_daily SET requests = 200000")
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now
    before_kib = _peak_kib()
    report = reconcile(engine, tmp_path / "journal", tmp_path / "kept")
    assert report.rows == 200_000
    assert _peak_kib() - before_kib < 8 * 1024  # 20 MiB where it is all held
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA temp_store").scalar() == 2  # of those that write
    engine.dispose()


def _peak_kib() -> int:
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1])
