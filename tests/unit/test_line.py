"""One model's line: what it makes of time that has passed since a replica began."""

import pytest

from routing.decision import Query
from routing.line import REQUEST_TOKENS, Grant, Line, Server, began

PACE_S = 0.01


def paced() -> Line:
    """Two replicas, each known to need ``PACE_S`` for a token of work; nothing runs there."""
    line = Line("m")
    line.staff(Server(id=name, limit=9) for name in ("a", "b"))
    for name in ("a", "b"):
        grant = take(line, name, 100, 0.0)
        began(grant, grant.work_tokens * PACE_S)
        line.release(grant, 9.0)
    return line


def take(line: Line, name: str, tokens: int, now_s: float) -> Grant:
    """Take a slot on that replica."""
    others = frozenset({"a", "b"} - {name})
    grant = line.place(Query(model="m", prompt_tokens=tokens, exclude=others), 0.0, now_s)
    assert grant is not None
    assert grant.server.id == name
    return grant


def chosen(line: Line, now_s: float) -> set[str]:
    """Give whom the policy takes, whoever's turn it is."""
    found = set()
    for _ in range(2):
        grant = line.place(Query(model="m", prompt_tokens=50), 0.0, now_s)
        assert grant is not None
        found.add(grant.server.id)
        line.undo(grant)
    return found


def test_who_began_earlier_is_nearer_to_its_end() -> None:
    line = paced()
    take(line, "a", 1000, 10.0)
    take(line, "b", 900, 10.0)
    assert chosen(line, 10.0) == {"b"}
    line = paced()
    take(line, "a", 1000, 10.0)
    take(line, "b", 900, 17.0)
    assert chosen(line, 17.0) == {"a"}


def test_a_first_byte_begins_the_count_anew() -> None:
    line = paced()
    first = take(line, "a", 1000, 10.0)
    take(line, "a", 1000, 10.0)
    take(line, "b", 900, 18.0)
    began(first, 20.0)
    assert chosen(line, 20.0) == {"b"}


@pytest.mark.parametrize("silent_s", [20.0, 200.0, 20_000.0])
def test_who_is_long_overdue_is_not_taken_for_idle(silent_s: float) -> None:
    """A replica that hangs: at least a third of what lies there counts as before a newcomer."""
    line = paced()
    take(line, "a", 1000, 10.0)
    take(line, "b", 1000 // 3 - REQUEST_TOKENS, 10.0 + silent_s)
    assert chosen(line, 10.0 + silent_s) == {"b"}
