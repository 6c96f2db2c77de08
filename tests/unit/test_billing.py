"""From admission to settlement: every accepted request is settled exactly once, by whatever exit."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.errors import (
    ApiError,
    InsufficientQuota,
    ModelNotPriced,
    NotRecordable,
    RateLimited,
    error_headers,
)
from gateway.openai.usage import Usage
from gateway.state.limits import Bound, Left, Standing, Verdict
from gateway.state.memory import MemoryLimits
from gateway.tenancy.billing import Billing
from gateway.tenancy.charge import STEP_TOKENS, Charge, Order
from gateway.tenancy.journal import (
    Accepted,
    Entry,
    Journal,
    JournalError,
    Line,
    Progress,
    Segment,
    read_lines,
)
from gateway.tenancy.keys import Key
from gateway.tenancy.prices import Row
from gateway.tenancy.refusals import _duration, rate_lines
from gateway.tenancy.terms import Terms, bound
from tests.fakes.prices import LARGE, SMALL, book, priced


class FullJournal(Journal):
    """A journal whose disk is full from some line on."""

    room = 10**9

    def append(self, line: Line) -> Segment:
        if self.room == 0:
            raise JournalError("the disk is full")
        self.room -= 1
        return super().append(line)


class Served:
    """One replica was tried; it is not a spot one unless somebody says so."""

    spot = False

    def __init__(self, *tried: str) -> None:
        self.tried = list(tried or ("small-0",))


class Desk:
    """A billing with a clock to move and a journal to read."""

    def __init__(self, directory: Path, balance_nanousd: int = 0, **terms: Any) -> None:
        self.now_s = 1000.0
        self.streamed = True
        self.most: int | None = 5
        self.journal = FullJournal(directory, "a")
        self.limits = MemoryLimits()
        self.billing = Billing(self.journal, self.limits, book(SMALL, LARGE), lambda: self.now_s)
        own = bound("key:k", Terms(**terms))
        bounds = () if own is None else (own,)
        self.key = Key(id="k", org="o", project="p", name="n", prefix="", sha256="", bounds=bounds)
        self.limits.book({"key:k": Standing(balance_nanousd=balance_nanousd, spent={})}, self.now_s)

    def charge(self, request_id: str = "r1", models: tuple[str, ...] = ("small", "large")) -> Charge:
        quote = self.billing.quote(
            Order(
                key=self.key,
                route="auto",
                models=models,
                prompt_tokens=10,
                most_prompt_tokens=10,
                output_tokens=5,
                most_output_tokens=self.most,
                streamed=self.streamed,
                operation="chat",
                end_user="u1",
                metadata='{"team":"a"}',
            )
        )
        return self.billing.charge(request_id, quote)

    def lines(self) -> list[Line]:
        return [line for segment in self.journal.segments() for line, _ in read_lines(segment.path)]

    def go(self, during: Callable[[Charge], None] = lambda _: None) -> None:
        async def request() -> None:
            async with self.charge() as charge:
                charge.accept()
                during(charge)

        asyncio.run(request())


def served(charge: Charge) -> None:
    charge.answered_by("small")
    charge.serving = Served()
    charge.progress(Usage(10, 4, 2), False)


def test_a_request_is_accepted_before_and_settled_after(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.go(served)
    start, end = desk.lines()
    labels = '{"team":"a"}'
    assert start == Accepted("r1", 1000.0, "o", "p", "k", "large", "auto", "chat", "u1", labels)
    assert end == Entry(
        "r1", 1000.0, "o", "p", "k", "small", "auto", "ok", 10, 2, 4, 8 * 50 + 2 * 10 + 4 * 200,
        SMALL.version, "upstream", 1, "small-0", False, 0, 8 * 500 + 2 * 100 + 4 * 2000, "standard", "chat",
        "u1", labels,
    )  # fmt: skip
    assert desk.journal.segments()[0].open_requests == 0


def test_a_stream_that_is_read_off_now_and_then_is_billed_to_its_last_token(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    fed = 0

    def streams(charge: Charge) -> None:
        nonlocal fed
        charge.answered_by("small")
        charge.serving = Served()
        charge.measured_by(lambda: (Usage(10, fed), False))
        for tokens in range(1, 41):
            fed = tokens
            charge.delivers(tokens)
        assert charge.usage == Usage(10, 32)  # not at each token
        fed = 41  # came, and did not get out
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        desk.go(streams)
    _, noted, end = desk.lines()
    assert isinstance(noted, Progress)
    assert noted.completion_tokens == 32
    assert isinstance(end, Entry)
    assert (end.status, end.prompt_tokens, end.completion_tokens) == ("cancelled", 10, 40)


def test_a_second_without_many_tokens_goes_into_the_journal_too(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    def streams(charge: Charge) -> None:
        charge.measured_by(lambda: (Usage(10, 3), False))
        charge.delivers(2)
        desk.now_s += 1.0
        charge.delivers(3)

    desk.go(streams)
    assert [line.completion_tokens for line in desk.lines() if isinstance(line, Progress)] == [3]


@pytest.mark.parametrize(
    ("raised", "status"),
    [(ValueError(), "error"), (asyncio.CancelledError(), "cancelled"), (GeneratorExit(), "cancelled"),
     (KeyboardInterrupt(), "error")],
    ids=repr,
)  # fmt: skip
def test_every_exit_settles_what_was_delivered(tmp_path: Path, raised: BaseException, status: str) -> None:
    desk = Desk(tmp_path, concurrency=1)

    def breaks(charge: Charge) -> None:
        served(charge)
        raise raised

    async def request() -> None:
        async with desk.charge() as charge:
            breaks(charge)

    with pytest.raises(type(raised)):
        _drive(request())
    end = desk.lines()[-1]
    assert isinstance(end, Entry)
    assert (end.status, end.completion_tokens) == (status, 4)
    desk.go()  # the slot is free again


def _drive(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never waits, without a loop that would treat an interrupt in its own way."""
    try:
        coroutine.send(None)
    except StopIteration:
        return


def test_progress_goes_into_the_journal_now_and_then(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    def stream(charge: Charge) -> None:
        served(charge)
        for tokens in range(5, 101):
            charge.progress(Usage(10, tokens), True)
        desk.now_s += 1.5
        charge.progress(Usage(10, 101), True)

    desk.go(stream)
    progress = [line for line in desk.lines() if isinstance(line, Progress)]
    assert [line.completion_tokens for line in progress] == [32, 64, 96, 101]
    assert progress[0] == Progress(
        "r1", "small", SMALL.version, 10, 32, 10 * 50 + 32 * 200, "small-0",
        baseline_nanousd=10 * 500 + 32 * 2000,
    )  # fmt: skip
    buffered = Desk(tmp_path / "other")
    buffered.streamed = False
    buffered.go(lambda charge: charge.progress(Usage(10, 1000), False))
    assert not any(isinstance(line, Progress) for line in buffered.lines())


def test_the_reservation_is_for_the_dearest_model_and_is_given_back(tmp_path: Path) -> None:
    dearest = 10 * 500 + 5 * 2000
    desk = Desk(tmp_path, credit="prepaid", balance_nanousd=dearest + 100, floor_nanousd=100)
    desk.go()
    short = Desk(tmp_path / "short", credit="prepaid", balance_nanousd=dearest + 99, floor_nanousd=100)
    with pytest.raises(InsufficientQuota):
        short.go()
    assert short.lines() == []
    desk.go()  # nothing was used, so everything is there again
    desk.go(served)
    with pytest.raises(InsufficientQuota):
        desk.go()


def refusal(desk: Desk) -> ApiError:
    async def two() -> None:
        async with desk.charge():
            await desk.charge("r2", ("small",)).__aenter__()

    with pytest.raises(ApiError) as caught:
        asyncio.run(two())
    return caught.value


def test_a_refusal_says_which_limit_and_when_to_come_again(tmp_path: Path) -> None:
    requests = refusal(Desk(tmp_path / "1", rpm=1, tpm=1000))
    assert isinstance(requests, RateLimited)
    assert (requests.type, requests.code) == ("requests", "rate_limit_exceeded")
    headers = dict(error_headers(requests))
    assert headers[b"retry-after"] == b"60"
    assert headers[b"x-ratelimit-limit-requests"] == b"1"
    assert headers[b"x-ratelimit-remaining-requests"] == b"0"
    assert headers[b"x-ratelimit-reset-requests"] == b"1m0s"
    assert headers[b"x-ratelimit-remaining-tokens"] == b"985"
    tokens = refusal(Desk(tmp_path / "2", tpm=20))
    assert tokens.type == "tokens"
    assert "20 tokens per minute" in tokens.message
    at_once = refusal(Desk(tmp_path / "3", concurrency=1))
    assert at_once.type == "rate_limit_error"
    budget = refusal(Desk(tmp_path / "4", budget_nanousd=15_001))
    assert isinstance(budget, InsufficientQuota)
    assert "budget" in budget.message
    assert dict(error_headers(budget)) == {b"x-should-retry": b"false"}


def test_an_answer_from_the_cache_needs_one_line(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    async def request() -> None:
        async with desk.charge() as charge:
            charge.answered_by("small")
            charge.source = "hit-exact"
            charge.progress(Usage(10, 4), False)

    asyncio.run(request())
    (line,) = desk.lines()
    assert isinstance(line, Entry)
    assert (line.status, line.source, line.completion_tokens) == ("ok", "hit-exact", 4)
    assert desk.journal.segments()[0].open_requests == 0


def test_an_answer_from_the_cache_is_written_when_the_disk_has_room_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    async def request() -> None:
        async with desk.charge() as charge:
            charge.source = "hit-exact"
            desk.journal.room = 0

    asyncio.run(request())
    assert desk.lines() == []
    desk.journal.room = 10
    assert desk.journal.pay() == 0
    assert [type(line) for line in desk.lines()] == [Entry]


def test_without_a_journal_nothing_is_admitted_and_nothing_stays_taken(tmp_path: Path) -> None:
    desk = Desk(tmp_path, concurrency=1, credit="prepaid", balance_nanousd=15_000)
    desk.journal.room = 0
    for _ in range(3):
        with pytest.raises(NotRecordable):
            desk.go()
    desk.journal.room = 10
    desk.go()


def test_a_disk_that_fills_up_cuts_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(tmp_path, concurrency=1)

    def stream(charge: Charge) -> None:
        served(charge)
        desk.journal.room = 0
        charge.progress(Usage(10, 100), False)

    desk.go(stream)
    assert [type(line) for line in desk.lines()] == [Accepted]
    assert desk.journal.segments()[0].open_requests == 1  # a crash now would settle it by what is written
    assert sum("r1" in record.getMessage() for record in caplog.records) == 2
    assert desk.journal.pay() == 1
    desk.journal.room = 10
    assert desk.journal.pay() == 0
    end = desk.lines()[-1]
    assert isinstance(end, Entry)
    assert (end.request_id, end.completion_tokens) == ("r1", 100)
    assert desk.journal.segments()[0].open_requests == 0
    desk.go()


async def _stream(charge: Charge, tokens: int, size: int = 1) -> int:
    """Deliver so many tokens in pieces, as the pipeline does; gives how many there was room for."""
    charge.answered_by("small")
    delivered = 0
    while delivered < tokens:
        usage = Usage(10, min(tokens, delivered + size))
        if usage.completion_tokens > charge.covered_tokens and not await charge.extend(usage):
            break
        charge.progress(usage, False)
        delivered = usage.completion_tokens
    return delivered


async def _streamed(desk: Desk, tokens: int, size: int = 1) -> int:
    async with desk.charge(models=("small",)) as charge:
        return await _stream(charge, tokens, size)


def test_a_stream_reserves_in_steps_and_ends_at_the_floor(tmp_path: Path) -> None:
    """sub2api#7002: a live stream drove a prepaid balance below its floor."""
    room = 10 * 50 + (2 * STEP_TOKENS + 40) * 200
    desk = Desk(tmp_path, credit="prepaid", balance_nanousd=room + 7, floor_nanousd=7)
    desk.most = None
    assert asyncio.run(_streamed(desk, 5000)) == 2 * STEP_TOKENS + 40
    end = desk.lines()[-1]
    assert isinstance(end, Entry)
    assert (end.status, end.amount_nanousd) == ("stopped", room)
    with pytest.raises(InsufficientQuota):
        asyncio.run(_streamed(desk, 1))


def test_a_stream_that_fits_is_not_stopped_and_reserves_no_more_than_it_may_need(tmp_path: Path) -> None:
    desk = Desk(tmp_path, credit="prepaid", balance_nanousd=10 * 50 + 300 * 200)
    desk.most = 300
    assert asyncio.run(_streamed(desk, 300, 7)) == 300
    assert desk.lines()[-1].status == "ok"  # type: ignore[union-attr]  # the last line is the entry


def test_a_stream_grows_only_when_it_must(tmp_path: Path) -> None:
    """What one stream has not reserved yet is there for others."""

    async def two(desk: Desk) -> None:
        async with desk.charge("r1", ("small",)) as one, desk.charge("r2", ("small",)) as other:
            assert await _stream(one, 100) == 100
            assert await _stream(other, 100) == 100
            with pytest.raises(InsufficientQuota):
                await desk.charge("r3", ("small",)).__aenter__()

    desk = Desk(tmp_path, credit="prepaid", balance_nanousd=2 * (10 * 50 + STEP_TOKENS * 200))
    desk.most = None
    asyncio.run(two(desk))
    assert asyncio.run(_streamed(desk, 100)) == 100


def test_a_buffered_request_reserves_the_most_it_can_cost(tmp_path: Path) -> None:
    most = 10 * 50 + 1000 * 200
    for balance, fits in ((most, True), (most - 1, False)):
        desk = Desk(tmp_path / str(fits), credit="prepaid", balance_nanousd=balance)
        desk.streamed, desk.most = False, 1000
        with contextlib.nullcontext() if fits else pytest.raises(InsufficientQuota):
            asyncio.run(_streamed(desk, 1))


def test_an_end_user_who_was_never_seen_is_bound_at_once(tmp_path: Path) -> None:
    """litellm#40095: the first requests of an unknown end user went past the default budget."""
    desk = Desk(tmp_path)
    desk.streamed = False
    limited = Bound(account="user:o/", budget_nanousd=10 * 50 + 5 * 200)
    desk.key = msgspec.structs.replace(desk.key, end_users=(limited,))

    async def two() -> None:
        async with desk.charge("r1", ("small",)):
            await desk.charge("r2", ("small",)).__aenter__()

    with pytest.raises(InsufficientQuota, match="end user"):
        asyncio.run(two())


def test_complaint_10_a_model_without_a_price_is_refused_or_flagged(tmp_path: Path) -> None:
    """litellm#10598: what has no price must never be silently free."""
    desk = Desk(tmp_path)
    desk.billing.refuse_unpriced = True
    desk.charge()
    with pytest.raises(ModelNotPriced, match="'other'"):
        desk.charge(models=("small", "other"))
    desk.billing.refuse_unpriced = False
    desk.go(lambda charge: charge.answered_by("other"))
    end = desk.lines()[-1]
    assert isinstance(end, Entry)
    assert end.price_version == "unpriced"


def test_a_quote_holds_while_its_prices_are_in_force(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    dearer = priced("small", input=1.0, output=2.0)
    rows = (
        Row(price=SMALL, valid_from_s=0.0),
        Row(price=LARGE, valid_from_s=0.0),
        Row(price=dearer, valid_from_s=2000.0, valid_to_s=3000.0),
    )
    desk.billing.prices.replace(rows)
    order = desk.charge().order
    quote = desk.billing.quote(order)

    def holds(now_s: float) -> bool:
        desk.now_s = now_s
        return desk.billing.holds(quote)

    assert (holds(0.0), holds(1999.9), holds(2000.0), holds(-1.0)) == (True, True, False, False)
    desk.now_s = 2500.0
    quote = desk.billing.quote(order)
    assert quote.prices[0] == dearer
    assert (holds(1999.9), holds(2000.0), holds(2999.9), holds(3000.0)) == (False, True, True, False)
    desk.now_s = 2500.0
    desk.billing.prices.replace([*rows])
    assert not desk.billing.holds(quote)  # another book, whatever it says


def test_a_spot_replica_is_a_discount(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.billing.prices = book(priced("small", input=1.0, output=2.0, spot=0.5), LARGE)

    def during(charge: Charge) -> None:
        charge.answered_by("small")
        charge.serving = Served("small-0", "small-1")
        charge.serving.spot = True
        charge.progress(Usage(10, 4), False)

    desk.go(during)
    end = desk.lines()[-1]
    assert isinstance(end, Entry)
    assert (end.service, end.amount_nanousd, end.attempts) == ("spot", 9000, 2)


def test_a_cache_hit_is_booked_at_its_factor(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    def hit(charge: Charge) -> None:
        charge.answered_by("small")
        charge.source = "hit-exact"
        charge.progress(Usage(10, 4), False)
        assert charge.cost_usd == charge.cost_of(Usage(10, 4)) == pytest.approx(130e-9)

    desk.go(hit)
    end = desk.lines()[-1]
    assert isinstance(end, Entry)
    assert (end.source, end.amount_nanousd, end.attempts, end.replicas) == ("hit-exact", 130, 0, "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, b"0ms"), (0.0121, b"12ms"), (0.999, b"999ms"), (1.0, b"1s"), (6.5, b"6.5s"), (59.4, b"59.4s"),
     (59.9, b"1m0s"), (60.0, b"1m0s"), (90.2, b"1m30s"), (119.7, b"2m0s"), (3600.0, b"60m0s")],
)  # fmt: skip
def test_durations_are_written_as_openai_does(seconds: float, text: bytes) -> None:
    assert _duration(seconds) == text


def test_headers_only_for_rates_that_are_configured() -> None:
    assert rate_lines(Verdict()) == b""
    assert rate_lines(Verdict(tokens=Left(100, 40, 36.0))) == (
        b"x-ratelimit-limit-tokens: 100\r\n"
        b"x-ratelimit-remaining-tokens: 40\r\n"
        b"x-ratelimit-reset-tokens: 36s\r\n"
    )
