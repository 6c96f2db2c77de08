"""The books balance whatever comes: rows once or often, in any batches, and money in any order."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import database, tables
from gateway.tenancy import ledger, transfers
from gateway.tenancy.journal import Entry
from gateway.tenancy.reconcile import reconcile
from gateway.tenancy.transfers import Transfer, remaining
from tests.fakes.entries import entry

entries = st.builds(
    lambda number, ts, key, amount, user, source: entry(
        f"r{number}", ts=ts, key_id=f"k{key}", project=f"p{key % 2}", amount_nanousd=amount, end_user=user,
        source=source,
    ),
    st.integers(0, 12), st.floats(0, 400_000), st.integers(0, 3), st.integers(0, 10**9),
    st.sampled_from(["", "u1", "u2"]), st.sampled_from(["upstream", "hit-exact", "joined"]),
)  # fmt: skip
moves = st.builds(
    lambda kind, key, amount, name: Transfer(
        kind=kind, account=f"key:k{key}", org="org", ts=5.0, actor="test", idempotency_key=name,
        amount_nanousd=amount if kind != "correction" else amount - 500,
    ),
    st.sampled_from(["grant", "top_up", "refund", "correction", "write_off"]), st.integers(0, 3),
    st.integers(501, 1000), st.sampled_from(["", "a", "b"]),
)  # fmt: skip


@settings(max_examples=40)
@given(st.lists(st.lists(entries, max_size=6) | moves, max_size=6))
def test_whatever_is_booked_everything_agrees(steps: list[list[Entry] | Transfer]) -> None:
    first: dict[str, Entry] = {}
    with TemporaryDirectory() as folder:
        engine = database.connect(f"sqlite:///{folder}/x.db")
        database.migrate(engine)
        for step in steps:
            if isinstance(step, list):
                new = ledger.insert(engine, step)
                before = len(first)
                for one in step:
                    first.setdefault(one.request_id, one)
                assert new == len(first) - before
            else:
                with engine.begin() as connection:
                    try:
                        transfers.transfer(connection, step)
                    except transfers.TransferError:  # the key of another movement
                        continue
        report = reconcile(engine, Path(folder) / "none", Path(folder) / "none")
        with engine.connect() as connection:
            rows = list(connection.execute(sa.select(tables.balances)))
        engine.dispose()
    assert report.well, report
    assert report.rows == len(first)
    assert sum(row.transferred_nanousd for row in rows) == 0
    used = {row.account: row.used_nanousd for row in rows}
    spent = sum(one.amount_nanousd for one in first.values())
    assert -used.get("revenue", 0) == used.get("org:org", 0) == spent
    for level in ("key:", "project:"):
        assert sum(amount for name, amount in used.items() if name.startswith(level)) == spent


credits_ = st.lists(
    st.tuples(st.integers(1, 100), st.none() | st.integers(1, 9), st.integers(0, 60)), min_size=1, max_size=6
)


@given(credits_, st.integers(0, 60))
def test_what_is_left_of_grants_is_what_was_not_used(
    given_: list[tuple[int, int | None, int]], used_after: int
) -> None:
    """Each grant comes after some more use; the one that expires first is used first."""
    used = 0
    rows: list[dict[str, Any]] = []
    for number, (amount, expires, used_before) in enumerate(given_):
        used += used_before
        rows.append(
            {
                "id": f"g{number}", "kind": "grant", "credit": "a", "debit": "promotions",
                "amount_nanousd": amount, "expires_s": expires, "used_nanousd": used,
            }
        )  # fmt: skip
    used += used_after
    left = remaining(rows, "a", used)
    total = sum(amount for amount, _, _ in given_)
    assert all(0 <= left[row["id"]] <= row["amount_nanousd"] for row in rows)
    assert sum(left.values()) == max(0, total - used)
    last = rows[-1]["id"]
    if left[last] < rows[-1]["amount_nanousd"] and rows[-1]["expires_s"] is None and total > used:
        others = [row for row in rows[:-1] if row["expires_s"] is not None]
        assert all(left[row["id"]] == 0 for row in others)
