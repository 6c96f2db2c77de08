"""Whatever is taken and settled in whatever order: never more than the limits allow."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.state.limits import Account, Ask, MemoryLimits

RPM, TPM, CONCURRENCY, CREDIT = 30, 600, 4, 500


class Taking(RuleBasedStateMachine):
    """Counts what was admitted by itself, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = MemoryLimits()
        self.start_s = self.now_s = 1_700_000_000.0
        self.open: list[Ask] = []
        self.admitted = 0
        self.used_tokens = 0
        self.spent = 0

    @property
    def account(self) -> Account:
        return self.limits._accounts.get("k", Account())

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(tokens=st.integers(0, 900), cost=st.integers(0, 60))
    def take(self, tokens: int, cost: int) -> None:
        one = Ask(
            key_id="k", tokens=tokens, cost_nanousd=cost, rpm=RPM, tpm=TPM, concurrency=CONCURRENCY,
            credit_nanousd=CREDIT,
        )  # fmt: skip
        before = repr(self.account)
        verdict = asyncio.run(self.limits.take(one, self.now_s))
        if verdict.short is None:
            assert len(self.open) < CONCURRENCY
            self.open.append(one)
            self.admitted += 1
            self.used_tokens += min(tokens, TPM)
        else:
            assert repr(self.account) == before
            if verdict.retry_after_s is not None:
                assert 0 < verdict.retry_after_s < 180
        for left in (verdict.requests, verdict.tokens):
            if left is not None:
                assert 0 <= left.remaining <= left.limit
                assert left.reset_s >= 0

    @precondition(lambda self: self.open)
    @rule(data=st.data(), share=st.floats(0, 1), cost_share=st.floats(0, 1))
    def settle(self, data: st.DataObject, share: float, cost_share: float) -> None:
        one = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        held = min(one.tokens, TPM)
        tokens, cost = int(held * share), int(one.cost_nanousd * cost_share)
        self.limits.settle(one, tokens, cost, self.now_s)
        self.used_tokens -= held - tokens
        self.spent += cost

    @invariant()
    def rates_hold(self) -> None:
        passed_s = self.now_s - self.start_s
        assert self.admitted <= RPM + passed_s * RPM / 60 + 1e-3
        assert self.used_tokens <= TPM + passed_s * TPM / 60 + 1e-3

    @invariant()
    def the_account_adds_up(self) -> None:
        assert self.account.running == len(self.open)
        assert self.account.reserved_nanousd == sum(one.cost_nanousd for one in self.open) >= 0
        assert self.account.spent_nanousd == self.spent
        assert self.account.spent_nanousd + self.account.reserved_nanousd <= CREDIT


Taking.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTaking = Taking.TestCase
