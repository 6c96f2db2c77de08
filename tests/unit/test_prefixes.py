"""The marks of a prompt and who is warm for it."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from routing.prefixes import BYTES_PER_TOKEN, ENDS_BYTES, WarmTable, marks, tokens_of

LONG = bytes(index * 7 % 251 for index in range(100_000))


def test_marks_are_few_however_long_the_prompt() -> None:
    assert marks(LONG[:255], b"t") == ()
    assert len(marks(LONG[:256], b"t")) == 1
    assert len(marks(LONG * 10, b"t")) == len(ENDS_BYTES) == 15
    assert all(later <= 1.5 * earlier + 1 for earlier, later in itertools.pairwise(ENDS_BYTES))


@given(st.integers(0, 20_000), st.integers(0, 5000), st.integers(0, 5000))
def test_two_prompts_share_marks_exactly_as_far_as_they_share_bytes(
    shared: int, mine: int, others: int
) -> None:
    one = marks(LONG[:shared] + b"\x00" + LONG[:mine], b"t")
    two = marks(LONG[:shared] + b"\xff" + LONG[:others], b"t")
    common = sum(end <= shared for end in ENDS_BYTES)
    assert one[:common] == two[:common]
    assert not set(one[common:]) & set(two[common:])


def test_another_tenant_has_other_marks() -> None:
    assert not set(marks(LONG, b"one")) & set(marks(LONG, b"two"))


def test_a_replica_is_warm_as_far_as_it_has_seen_the_prompt() -> None:
    table = WarmTable()
    table.note("r0", marks(LONG[:1000], b"t"))
    for size, depth in ((100, 0), (300, 1), (1000, 4), (9000, 4)):
        assert table.depth("r0", marks(LONG[:size], b"t")) == depth
    assert table.depth("r1", marks(LONG, b"t")) == 0
    assert table.depth("r0", marks(LONG, b"u")) == 0
    assert tokens_of(4) == ENDS_BYTES[3] // BYTES_PER_TOKEN
    table.keep(["r1"])
    assert table.depth("r0", marks(LONG, b"t")) == 0


def test_the_table_is_bounded_and_forgets_the_oldest_from_its_end() -> None:
    table = WarmTable(limit=6)
    old, new = marks(LONG[:1000], b"old"), marks(LONG[:1000], b"new")
    table.note("r0", old)
    table.note("r0", new)
    assert len(table._marks["r0"]) == 6
    assert (table.depth("r0", old), table.depth("r0", new)) == (2, 4)
