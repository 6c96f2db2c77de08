"""Attempts on replicas, with scripted replies: who is tried, and that leaving closes everything at once."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.clients.base import ClientError, ConnectionBroken, Outgoing, Taker
from backends.replica import Event, Phase, Replica
from gateway.app import Edges, opened
from gateway.attempts import Attempts
from gateway.calls import Incoming
from gateway.config_file import parse
from gateway.dispatcher import Dispatcher
from gateway.errors import ApiError, RateLimited
from gateway.judging import Judge
from gateway.openai.schemas import CHAT
from gateway.restraint import LEAST_SAMPLES, SAMPLES, FirstBytes
from gateway.settings import HedgeSettings, ModelSettings
from gateway.telemetry import Telemetry
from gateway.trip import Call
from routing.decision import Query
from tests.fakes.loop import run


class ScriptedReply:
    """Gives its pieces, raises its errors, then waits for ever."""

    ended = False

    def __init__(self, *pieces: bytes | ClientError, status: int = 200) -> None:
        self.status = status
        self.headers: dict[str, str] = {}
        self.closed = 0
        self.delay_s = 0.0
        self._pieces = list(pieces)

    async def read(self) -> bytes:
        await asyncio.sleep(self.delay_s)
        if not self._pieces:
            await asyncio.Event().wait()
        piece = self._pieces.pop(0)
        if isinstance(piece, ClientError):
            raise piece
        return piece

    def offer(self, taker: Taker) -> None: ...

    async def read_all(self, limit_bytes: int) -> bytes:
        return await self.read()

    def close(self) -> None:
        self.closed += 1


class ScriptedClient:
    """Answers a POST with the next reply, a GET with 200."""

    def __init__(self, *replies: ScriptedReply) -> None:
        self.replies = list(replies)
        self.urls: list[str] = []

    async def send(self, request: Outgoing) -> ScriptedReply:
        if request.method == "GET":
            return ScriptedReply(b"{}")
        self.urls.append(request.url)
        return self.replies[len(self.urls) - 1]

    def withdraw(self, url: str) -> None:
        """See ``InferenceClient.withdraw``."""

    async def close(self) -> None:
        return


class Echo:
    """A receiver that changes nothing."""

    done = False

    def begin(self) -> None:
        return

    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b"end"


class House:
    """Attempts over replicas r0, r1, ... of one model."""

    def __init__(self, *replies: ScriptedReply, replicas: int = 2) -> None:
        loop = asyncio.get_running_loop()
        self.client = ScriptedClient(*replies)
        self.dispatcher = Dispatcher(now=loop.time, draw=lambda: 0.0, expected_ready_s=lambda _model: None)
        self.dispatcher.configure([ModelSettings(name="small", policy="least_tokens")])
        self.names = [f"r{number}" for number in range(replicas)]
        fleet = {id_: Replica(id=id_, model="small", url=id_, phase=Phase.READY) for id_ in self.names}
        self.dispatcher.update(fleet)
        self.blamed: list[str] = []
        judge = Judge(self._report, self.dispatcher.rest, Telemetry(), loop.time)
        self.attempts = Attempts(self.dispatcher, self.client, judge, {})

    def _report(self, replica_id: str, event: Event, reason: str = "") -> None:
        if event in (Event.FAILED, Event.REFUSED, Event.THROTTLED):
            self.blamed.append(replica_id)

    async def burden(self, replica_id: str, tokens: int) -> None:
        """Keep a replica busy with other work."""
        others = frozenset(self.names) - {replica_id}
        query = Query(model="small", prompt_tokens=tokens, exclude=others)
        await self.dispatcher.acquire(query, 0, 1e9)

    def call(self, deadline_s: float = 1e9) -> Call:
        return Call(
            model="small",
            path="/p",
            body=b"{}",
            headers=[],
            receiver=Echo(),
            query=Query(model="small", prompt_tokens=1),
            band=1,
            deadline_s=deadline_s,
            first_byte_s=1.0,
            idle_s=1.0,
            max_attempts=3,
        )

    async def collect(self, call: Call) -> list[bytes]:
        pieces: list[bytes] = []

        async def deliver(piece: bytes) -> bool:
            pieces.append(piece)
            return True

        await self.attempts.run(call, deliver)
        return pieces


BROKEN = ConnectionBroken("broken")


def test_another_replica_is_tried_although_the_first_is_the_idler_one() -> None:
    async def main() -> None:
        replies = ScriptedReply(BROKEN), ScriptedReply(b"{}", status=500), ScriptedReply(b"a", b"")
        house = House(*replies, replicas=3)
        await house.burden("r1", 100)
        await house.burden("r2", 200)
        call = house.call()
        assert await house.collect(call) == [b"a", b"end"]
        assert call.trip.tried == ["r0", "r1", "r2"]
        assert house.blamed == ["r0", "r1"]
        assert [reply.closed for reply in replies] == [1, 1, 1]

    run(main())


def test_nothing_is_tried_again_after_the_first_byte() -> None:
    async def main() -> None:
        house = House(ScriptedReply(b"a", BROKEN), ScriptedReply(b"b", b""))
        with pytest.raises(ApiError):
            await house.collect(house.call())
        assert len(house.client.urls) == 1

    run(main())


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_a_clients_mistake_is_tried_once_and_blames_nobody(status: int) -> None:
    async def main() -> None:
        house = House(ScriptedReply(b'{"error": {"message": "no"}}', status=status))
        with pytest.raises(ApiError) as refused:
            await house.collect(house.call())
        assert (refused.value.status, refused.value.message) == (status, "no")
        assert (len(house.client.urls), house.blamed) == (1, [])

    run(main())


def test_a_refusal_whose_body_never_comes_is_still_the_clients_mistake() -> None:
    async def main() -> None:
        house = House(ScriptedReply(BROKEN, status=400), ScriptedReply(b"a", b""))
        with pytest.raises(ApiError) as refusal:
            await house.collect(house.call())
        assert (refusal.value.status, len(house.client.urls), house.blamed) == (400, 1, [])

    run(main())


def test_a_clients_deadline_blames_nobody() -> None:
    async def main() -> None:
        house = House(ScriptedReply(BROKEN))
        now_s = asyncio.get_running_loop().time()
        with pytest.raises(ApiError):
            await house.collect(house.call(deadline_s=now_s))
        assert house.blamed == []

    run(main())


def test_leaving_frees_at_once() -> None:
    """When nobody wants more, slot and reply are back before anything else happens."""

    async def main() -> None:
        reply = ScriptedReply(b"a", b"b")
        house = House(reply)
        pieces: list[bytes] = []

        async def deliver(piece: bytes) -> bool:
            pieces.append(piece)
            assert house.dispatcher.running() == {"small": 1}
            return False

        await house.attempts.run(house.call(), deliver)
        assert (pieces, reply.closed, house.dispatcher.running()) == ([b"a"], 1, {"small": 0})

    run(main())


CONFIG = """
[server]
state_dir = "{directory}/state"
[database]
url = "sqlite:///{directory}/db"
[[models]]
name = "small"
[[models.replicas]]
url = "http://scripted/v1"
[[keys]]
name = "test"
key_env = "KEY"
"""
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


class Held:
    """An outlet that is stuck at the first piece."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    def accept(self, head: bytes) -> None: ...

    async def whole(self, head: bytes, body: bytes) -> None: ...

    async def begin(self, head: bytes) -> None: ...

    lane = None

    async def piece(self, data: bytes) -> None:
        self.reached.set()
        await asyncio.sleep(3600)


def test_leaving_the_pipeline_frees_at_once(tmp_path: Path) -> None:
    """The same through every layer of the pipeline, with the bill written."""

    async def main() -> None:
        reply = ScriptedReply(CHUNK, CHUNK)
        edges = Edges(environ={"KEY": "sk-1"}, clients=lambda: ScriptedClient(reply))
        body: dict[str, Any] = {
            "model": "small",
            "stream": True,
            "messages": [{"role": "user", "content": "x"}],
        }
        incoming = Incoming(
            endpoint=CHAT,
            headers={b"authorization": b"Bearer sk-1"},
            body=msgspec.json.encode(body),
            request_id="req_1",
            started_s=edges.now(),
        )
        async with opened(parse(CONFIG.format(directory=tmp_path), "test"), edges) as process:
            out = Held()
            task = asyncio.create_task(process.pipeline.infer(incoming, out))
            await out.reached.wait()
            (journal,) = (tmp_path / "state" / "journal").iterdir()
            assert b'"req_1"' in journal.read_bytes()
            assert b'"cancelled"' not in journal.read_bytes()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert reply.closed == 1
            assert b'"cancelled"' in journal.read_bytes()

    asyncio.run(main())


def refused(status: int, **headers: str) -> ScriptedReply:
    reply = ScriptedReply(b"{}", status=status)
    reply.headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return reply


def test_a_late_first_byte_has_a_second_replica_asked_and_the_loser_is_cancelled() -> None:
    async def main() -> None:
        slow, quick = ScriptedReply(), ScriptedReply(b"a", b"")
        house = House(slow, quick)
        await house.burden("r1", 100)
        call = house.call()
        call.hedge = HedgeSettings(after_ms=100)
        assert await house.collect(call) == [b"a", b"end"]
        assert (slow.closed, quick.closed, house.dispatcher.running()) == (1, 1, {"small": 1})
        assert [one.replica for one in call.trip.tries] == ["r0", "r1"], (
            "another one, though it is the busier"
        )
        assert [one.outcome for one in call.trip.tries] == ["lost", "ok"]
        assert call.trip.tried[-1] == call.trip.tries[1].replica
        assert house.blamed == []

    run(main())


def test_the_first_of_two_may_still_be_the_one_that_serves() -> None:
    async def main() -> None:
        late, silent = ScriptedReply(b"a", b""), ScriptedReply()
        late.delay_s = 0.3
        house = House(late, silent)
        await house.burden("r1", 100)
        call = house.call()
        call.hedge = HedgeSettings(after_ms=100)
        assert await house.collect(call) == [b"a", b"end"]
        assert [(one.replica, one.outcome) for one in call.trip.tries] == [("r0", "ok"), ("r1", "lost")]
        assert call.trip.tried == ["r1", "r0"], "who serves stands last"
        assert (late.closed, silent.closed, house.dispatcher.running()) == (1, 1, {"small": 1})

    run(main())


def test_who_leaves_a_hedged_call_frees_both() -> None:
    async def main() -> None:
        replies = ScriptedReply(), ScriptedReply()
        house = House(*replies)
        call = house.call()
        call.hedge = HedgeSettings(after_ms=100)
        asking = asyncio.create_task(house.collect(call))
        await asyncio.sleep(1.0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert [one.closed for one in replies] == [1, 1]
        assert house.dispatcher.running() == {"small": 0}

    run(main())


def test_what_is_late_is_learnt_from_the_latest_first_bytes() -> None:
    """Twenty answers say what is usual; then whoever is slower than nearly all of them is hedged."""

    async def main() -> None:
        house = House(*(ScriptedReply(b"a", b"") for _ in range(60)), replicas=2)
        for number, reply in enumerate(house.client.replies):
            reply.delay_s = 9.0 if number in (5, 30) else 0.2 - number / 1000
        for number in range(40):
            call = house.call()
            call.hedge = HedgeSettings(quantile=0.95, budget=0.1)
            await house.collect(call)
            asked = 2 if number == 30 else 1
            assert len(call.trip.tries) == asked, f"call {number}"
            if asked == 2:
                break
        assert [one.outcome for one in call.trip.tries] == ["lost", "ok"]

    run(main())


def test_first_bytes_are_forgotten_in_their_turn() -> None:
    known = FirstBytes()
    for number in range(LEAST_SAMPLES - 1):
        known.note(float(number))
    assert known.late_s(0.5) is None
    for number in range(1000):
        known.note(float(number))
    assert known.late_s(0.5) == 1000 - SAMPLES / 2
    assert known.late_s(0.999) == 999.0


def test_hedges_are_a_share_of_the_requests() -> None:
    async def main() -> None:
        house = House(*(ScriptedReply(b"a", b"") for _ in range(400)))
        for reply in house.client.replies:
            reply.delay_s = 0.5
        for _ in range(100):
            call = house.call()
            call.hedge = HedgeSettings(after_ms=100, budget=0.1)
            await house.collect(call)
        assert 115 <= len(house.client.urls) <= 120

    run(main())


def test_retries_are_a_tenth_of_the_requests_when_everything_fails() -> None:
    async def main() -> None:
        house = House(*(ScriptedReply(b"{}", status=500) for _ in range(400)), replicas=3)
        for number in range(100):
            call = house.call()
            call.body = b"%d" % number
            with pytest.raises(ApiError):
                await house.collect(call)
        assert 115 <= len(house.client.urls) <= 120

    run(main())


def test_a_request_that_kills_every_server_does_not_meet_them_all() -> None:
    async def main() -> None:
        house = House(*(ScriptedReply(BROKEN) for _ in range(9)), replicas=4)
        with pytest.raises(ApiError) as failed:
            await house.collect(house.call())
        assert failed.value.should_retry is False
        assert len(house.client.urls) == 2
        assert len(house.blamed) == 1, "the second failure may be the request's own fault"
        with pytest.raises(ApiError):
            await house.collect(house.call())
        assert (len(house.client.urls), len(house.blamed)) == (3, 1)

    run(main())


def test_a_server_that_asks_to_be_left_alone_is() -> None:
    async def main() -> None:
        served = [ScriptedReply(b"a", b"") for _ in range(5)]
        house = House(refused(429, retry_after="30"), *served)
        for _ in range(5):
            await house.collect(house.call())
        first, *others = house.client.urls
        assert first not in others
        await asyncio.sleep(30.0)
        assert house.dispatcher.rests_s("small") == 0.0

    run(main())


def test_where_all_ask_to_be_left_alone_for_long_the_client_is_told() -> None:
    async def main() -> None:
        house = House(refused(429, retry_after="30"), refused(429, retry_after="20"))
        with pytest.raises(RateLimited) as told:
            await house.collect(house.call())
        assert told.value.retry_after_s == 20.0
        assert len(house.client.urls) == 2

    run(main())
