"""Rates, concurrency and credit of one key, by the clock that the tests move."""

import asyncio
from typing import Any

from gateway.state.limits import Ask, Left, MemoryLimits, Verdict

DOLLAR = 10**9


def ask(**wanted: Any) -> Ask:
    return Ask(**{"key_id": "k", "tokens": 1, "cost_nanousd": 0, **wanted})


def take(limits: MemoryLimits, one: Ask, now_s: float = 0.0) -> Verdict:
    return asyncio.run(limits.take(one, now_s))


def test_without_limits_everything_is_admitted_and_nothing_is_said_of_rates() -> None:
    """litellm#22726: no budget configured is never an exceeded one."""
    limits = MemoryLimits()
    for _ in range(100):
        assert take(limits, ask(tokens=10**9, cost_nanousd=10**18)) == Verdict()


def test_a_rate_is_refilled_evenly_and_says_what_is_left() -> None:
    limits, one = MemoryLimits(), ask(rpm=60)
    assert take(limits, one).requests == Left(60, 59, 1.0)
    for left in range(58, -1, -1):
        verdict = take(limits, one)
        assert verdict.requests is not None
        assert verdict.requests.remaining == left
    refused = take(limits, one, 0.25)
    assert refused.short == "requests"
    assert refused.requests == Left(60, 0, 59.75)
    assert refused.retry_after_s is not None
    assert abs(refused.retry_after_s - 0.75) < 1e-3
    assert take(limits, one, 0.25 + refused.retry_after_s + 1e-3).short is None
    assert take(limits, one, 1000.0).requests == Left(60, 59, 1.0)


def test_a_window_passes_under_constant_traffic_too() -> None:
    """litellm#14204: refused requests do not make the wait longer."""
    limits, one = MemoryLimits(), ask(rpm=6)

    async def all_along() -> int:
        return sum([(await limits.take(one, step / 10)).short is None for step in range(6000)])

    assert asyncio.run(all_along()) in range(6 + 59, 6 + 61)


def test_tokens_are_given_back_when_fewer_were_used() -> None:
    limits, one = MemoryLimits(), ask(tokens=100, tpm=100)
    assert take(limits, one).tokens == Left(100, 0, 60.0)
    refused = take(limits, ask(tokens=1, tpm=100, rpm=9))
    assert (refused.short, refused.tokens, refused.requests) == (
        "tokens",
        Left(100, 0, 60.0),
        Left(9, 9, 0.0),
    )
    limits.settle(one, 40, 0, 0.0)
    assert take(limits, ask(tokens=60, tpm=100)).short is None
    assert take(limits, ask(tokens=1, tpm=100)).short == "tokens"


def test_tokens_beyond_the_estimate_are_booked() -> None:
    limits, one = MemoryLimits(), ask(tokens=10, tpm=60)
    take(limits, one)
    limits.settle(one, 180, 0, 0.0)
    refused = take(limits, one)
    assert refused.tokens == Left(60, 0, 180.0)
    assert take(limits, one, 129.9).short == "tokens"
    assert take(limits, one, 130.1).short is None


def test_an_estimate_over_the_whole_limit_cannot_empty_the_books() -> None:
    """A huge ``max_tokens`` takes a full bucket, and what was used counts like anything else."""
    for huge in (1000, 10**25, 10**400):
        limits, one = MemoryLimits(), ask(tokens=huge, tpm=60)
        now_s = 1.7e9
        assert take(limits, one, now_s).short is None
        assert take(limits, ask(tokens=1, tpm=60), now_s).short == "tokens"
        limits.settle(one, 60, 0, now_s)
        refused = take(limits, one, now_s)
        assert refused.short == "tokens"
        assert refused.retry_after_s is not None
        assert abs(refused.retry_after_s - 60) < 1e-3


def test_concurrency_is_given_back_at_settlement() -> None:
    limits, one = MemoryLimits(), ask(concurrency=2)
    assert [take(limits, one).short for _ in range(3)] == [None, None, "concurrency"]
    limits.settle(one, 0, 0, 0.0)
    assert [take(limits, one).short for _ in range(2)] == [None, "concurrency"]


def test_a_refused_request_takes_nothing() -> None:
    limits = MemoryLimits()
    everything = {"rpm": 10, "tpm": 100, "concurrency": 5, "credit_nanousd": 10, "budget_nanousd": 10}
    for _ in range(20):
        assert take(limits, ask(cost_nanousd=11, tokens=5, **everything)).short == "credit"
        assert take(limits, ask(cost_nanousd=1, tokens=101, **everything, key_id="other")).short in (
            None, "tokens",
        )  # fmt: skip
    verdict = take(limits, ask(cost_nanousd=10, tokens=100, **everything))
    assert (verdict.requests, verdict.tokens) == (Left(10, 9, 6.0), Left(100, 0, 60.0))


def test_fifty_at_once_on_a_credit_for_ten_admit_ten() -> None:
    """litellm#34732: reservations are atomic."""
    limits, one = MemoryLimits(), ask(cost_nanousd=DOLLAR, credit_nanousd=10 * DOLLAR)

    async def all_at_once() -> list[Verdict]:
        return await asyncio.gather(*(limits.take(one, 0.0) for _ in range(50)))

    verdicts = asyncio.run(all_at_once())
    assert sum(verdict.short is None for verdict in verdicts) == 10
    for _ in range(10):
        limits.settle(one, 1, DOLLAR // 2, 0.0)
    assert sum(take(limits, one).short is None for _ in range(50)) == 5


def test_a_budget_is_for_a_month_and_credit_for_ever() -> None:
    limits = MemoryLimits()
    limits.book("k", spent_nanousd=50, spent_month_nanousd=9)
    assert take(limits, ask(cost_nanousd=2, budget_nanousd=10)).short == "budget"
    assert take(limits, ask(cost_nanousd=1, budget_nanousd=10)).short is None
    limits.settle(ask(cost_nanousd=1), 1, 1, 0.0)
    assert take(limits, ask(cost_nanousd=1, budget_nanousd=10)).short == "budget"
    limits.new_month()
    assert take(limits, ask(cost_nanousd=10, budget_nanousd=10)).short is None
    assert take(limits, ask(cost_nanousd=1, credit_nanousd=61)).short == "credit"


def test_what_was_spent_before_is_added_to_what_was_spent_since() -> None:
    """The database may come back long after the first requests."""
    limits = MemoryLimits()
    take(limits, ask(cost_nanousd=5))
    limits.settle(ask(cost_nanousd=5), 1, 5, 0.0)
    limits.book("k", spent_nanousd=90, spent_month_nanousd=0)
    assert take(limits, ask(cost_nanousd=6, credit_nanousd=100)).short == "credit"
    assert take(limits, ask(cost_nanousd=5, credit_nanousd=100)).short is None


def test_keys_do_not_share_anything() -> None:
    limits = MemoryLimits()
    limits.book("b", spent_nanousd=10**18, spent_month_nanousd=10**18)
    for _ in range(3):
        take(limits, ask(key_id="a", rpm=1, concurrency=1))
    assert take(limits, ask(key_id="c", rpm=1, concurrency=1, credit_nanousd=5)).short is None
