"""The rows of idempotency keys, on both databases."""

from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from gateway.tables import idempotency_keys
from gateway.tenancy import idempotency
from gateway.tenancy.idempotency import Begun, Busy, Claimed, Conflict, Kept


def claimed(owner: str, fingerprint: str = "f", *, until_s: float = 110.0) -> Claimed:
    return Claimed("a" * 64, fingerprint, owner, until_s, 1000.0)


def test_one_of_many_begins(engine: sa.Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(lambda n: idempotency.begin(engine, claimed(f"p{n}"), 100.0), range(8)))
    assert sorted(type(state).__name__ for state in states) == ["Begun", *["Busy"] * 7]


def test_the_life_of_a_key(engine: sa.Engine) -> None:
    begin, finish = idempotency.begin, idempotency.finish
    assert begin(engine, claimed("one"), 100.0) == Begun()
    assert begin(engine, claimed("two"), 105.0) == Busy()
    assert begin(engine, claimed("two", "other"), 105.0) == Conflict()
    idempotency.renew(engine, "one", 120.0)
    assert begin(engine, claimed("two"), 115.0) == Busy(), "it lives"
    assert begin(engine, claimed("two", until_s=140.0), 125.0) == Begun(), "its lease is over"
    finish(engine, "a" * 64, "one", b"late")
    assert begin(engine, claimed("three"), 130.0) == Busy(), "who lost it keeps nothing"
    finish(engine, "a" * 64, "two", b"\x00answer")
    assert begin(engine, claimed("three"), 999.0) == Kept(b"\x00answer")
    assert begin(engine, claimed("three", "other"), 999.0) == Conflict()
    idempotency.sweep(engine, 999.0)
    assert begin(engine, claimed("three"), 999.0) == Kept(b"\x00answer")
    assert begin(engine, claimed("three", "other"), 1000.0) == Begun(), "the retention time is over"
    finish(engine, "a" * 64, "three", None)
    assert begin(engine, claimed("four"), 100.0) == Begun(), "a failure frees the key"
    idempotency.sweep(engine, 2000.0)
    with engine.connect() as connection:
        assert connection.execute(sa.select(idempotency_keys)).first() is None
