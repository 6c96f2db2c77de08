"""However streams come and grow, a balance never passes its floor, and what fits is never stopped."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InsufficientQuota
from gateway.openai.usage import Usage
from gateway.state.limits import Bound, Standing
from gateway.state.memory import MemoryLimits
from gateway.tenancy.billing import Billing
from gateway.tenancy.charge import Charge, Order
from gateway.tenancy.journal import Entry, Journal, read_lines
from gateway.tenancy.keys import Key
from tests.fakes.prices import book, priced

streams = st.tuples(
    st.integers(0, 60),  # prompt tokens, of which 20 were estimated
    st.lists(st.integers(1, 90), max_size=12),  # tokens of each piece
    st.none() | st.integers(1, 800),  # max_tokens
)


class Stream:
    """One stream, a piece at a time, as the pipeline handles it."""

    def __init__(self, charge: Charge, prompt: int, pieces: list[int]) -> None:
        self.charge, self.prompt, self.pieces = charge, prompt, list(pieces)
        self.tokens = 0

    async def step(self) -> bool:
        if not self.pieces:
            return False
        usage = Usage(self.prompt, self.tokens + self.pieces.pop(0))
        if usage.completion_tokens > self.charge.covered_tokens and not await self.charge.extend(usage):
            return False
        self.tokens = usage.completion_tokens
        self.charge.progress(usage, False)
        return True


async def run(billing: Billing, key: Key, wanted: list[tuple[int, list[int], int | None]]) -> int:
    """Let all streams run at once, a piece of each in turn; gives how many were admitted."""
    running: list[Stream] = []
    for number, (prompt, pieces, most) in enumerate(wanted):
        order = Order(
            key=key, route="", models=("m",), prompt_tokens=20,
            most_prompt_tokens=60, output_tokens=0, most_output_tokens=most, streamed=True,
        )  # fmt: skip
        charge = billing.charge(f"r{number}", billing.quote(order))
        try:
            await charge.__aenter__()
        except InsufficientQuota:
            continue
        charge.answered_by("m")
        total, kept = 0, []
        for piece in pieces:
            total += piece
            if most is not None and total > most:
                break
            kept.append(piece)
        running.append(Stream(charge, prompt, kept))
    admitted = len(running)
    while running:
        for one in list(running):
            if not await one.step():
                await one.charge.__aexit__(None, None, None)
                running.remove(one)
    return admitted


@settings(max_examples=150)
@given(
    st.lists(streams, min_size=1, max_size=6), st.integers(0, 400_000), st.integers(-1000, 1000),
    st.sampled_from([(1.0, 2.0, None), (0.05, 0.2, 0.4), (1.0, 0.0, None)]),
)  # fmt: skip
def test_a_balance_never_passes_its_floor(
    wanted: list[tuple[int, list[int], int | None]],
    balance: int,
    floor: int,
    usd: tuple[float, float, float | None],
) -> None:
    bound = Bound(account="key:k", credit=True, floor_nanousd=floor)
    key = Key(id="k", org="o", project="p", name="n", prefix="", sha256="", bounds=(bound,))
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder), "a")
        limits = MemoryLimits()
        limits.book({"key:k": Standing(balance_nanousd=balance, spent={})}, 1000.0)
        price = priced("m", input=usd[0], output=usd[1], reasoning=usd[2])
        billing = Billing(journal, limits, book(price), lambda: 1000.0)
        admitted = asyncio.run(run(billing, key, wanted))
        lines = [line for line, _ in read_lines(journal.segments()[0].path)]
        journal.close(settled=True)
    entries = [line for line in lines if isinstance(line, Entry)]
    assert len(entries) == admitted
    spent = sum(one.amount_nanousd for one in entries)
    assert spent == 0 or balance - spent >= floor
    dearest = max(price.output_nanousd, price.reasoning_nanousd)
    room = balance - floor - len(wanted) * (60 * price.input_nanousd + (256 + 1080) * dearest)
    if room >= 0:  # with room for everything at once nothing is refused or cut
        assert admitted == len(wanted)
        assert {one.status for one in entries} <= {"ok"}
