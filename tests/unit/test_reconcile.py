"""Reconciling while requests are carried: what comes in between two questions is no difference."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from gateway import database
from gateway.tenancy import ledger
from gateway.tenancy.reconcile import reconcile
from tests.fakes.entries import entry


def test_what_is_carried_meanwhile_does_not_disturb(tmp_path: Path) -> None:
    reader, writer = (database.connect(f"sqlite:///{tmp_path}/books.db") for _ in range(2))
    database.migrate(writer)
    ledger.insert(writer, [entry("r0")])
    questions = 0

    def carry(*_: Any) -> None:
        nonlocal questions
        questions += 1
        ledger.insert(writer, [entry(f"r{questions}")])

    sa.event.listen(reader, "after_cursor_execute", carry)
    report = reconcile(reader, tmp_path / "journal", tmp_path / "kept")
    assert questions > 2
    assert report.well
    assert report.rows == 1 or report.rows == 2  # the transaction begins with its first reading
    for engine in (reader, writer):
        engine.dispose()
