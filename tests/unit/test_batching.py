"""Embeddings of many clients in one upstream call: who is joined, what each one gets, whom a failure hits."""

import asyncio
import json
import math
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.clients.base import ConnectionBroken, Outgoing, Taker
from backends.replica import Phase, Replica
from gateway.attempts import Attempts
from gateway.batching import Batching, shares
from gateway.dispatcher import Dispatcher
from gateway.errors import ApiError, translate
from gateway.judging import Judge
from gateway.openai.answers import WholeReceiver
from gateway.settings import ModelSettings
from gateway.telemetry import Telemetry
from gateway.trip import Call
from routing.decision import Query
from tests.fakes.loop import run

CALL_S = 1.0


class Embedder:
    """Embeds a text as its length, a second a call; refuses a call that holds an empty text."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.broken = self.short = False
        self.aborted = 0

    async def send(self, request: Outgoing) -> "Answer":
        body = json.loads(request.body)
        self.bodies.append(body)
        try:
            await asyncio.sleep(CALL_S)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        if self.broken:
            raise ConnectionBroken("gone")
        given = body["input"]
        texts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        if "" in texts:
            return Answer(
                400, {"error": {"message": "an empty text", "type": "BadRequestError", "code": 400}}
            )
        rows = [{"object": "embedding", "index": n, "embedding": [len(t)]} for n, t in enumerate(texts)]
        tokens = sum(len(text) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
        if self.short and len(rows) > 1:
            del rows[0]
        return Answer(200, {"object": "list", "data": rows[::-1], "model": "up", "usage": usage})

    def withdraw(self, url: str) -> None:
        """See ``InferenceClient.withdraw``."""

    async def close(self) -> None:
        return


class Answer:
    """A whole answer."""

    ended = True

    def __init__(self, status: int, body: object) -> None:
        self.status = status
        self.headers: dict[str, str] = {}
        self._body = json.dumps(body).encode()

    async def read(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def offer(self, taker: Taker) -> None: ...

    async def read_all(self, limit_bytes: int) -> bytes:
        return self._body

    def close(self) -> None:
        return


class House:
    """One embedding model with a window of 3 ms."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.upstream = Embedder()
        model = ModelSettings(name="embed", kind="embedding", batch_window_ms=3.0, max_attempts=1)
        dispatcher = Dispatcher(now=loop.time, draw=lambda: 0.0, expected_ready_s=lambda _model: None)
        dispatcher.configure([model])
        dispatcher.update({"r0": Replica(id="r0", model="embed", url="u", phase=Phase.READY)})
        judge = Judge(lambda *_: None, dispatcher.rest, Telemetry(), loop.time)
        attempts = Attempts(dispatcher, self.upstream, judge, {})
        self.batching = Batching(attempts)
        self.batching.configure([model])

    async def ask(self, given: Any, deadline_s: float = math.inf, **fields: Any) -> Any:
        """Give the answer, or the error as a client sees it."""
        call = call_of(given, deadline_s, **fields)
        pieces: list[bytes] = []

        async def deliver(piece: bytes) -> bool:
            pieces.append(piece)
            return True

        try:
            await self.batching.run(call, deliver)
        except Exception as error:
            return translate(error)
        assert call.trip.tried == ["r0"]
        answer = json.loads(b"".join(pieces))
        answer["data"].sort(key=lambda row: row["index"])
        assert [row["index"] for row in answer["data"]] == list(range(len(answer["data"])))
        assert isinstance(call.receiver, WholeReceiver)
        assert call.receiver.final is not None
        assert call.receiver.final.prompt_tokens == answer["usage"]["prompt_tokens"]
        return answer

    async def all(self, *asked: Coroutine[Any, Any, Any]) -> list[Any]:
        """Ask in this order, the first one a little earlier."""
        tasks = []
        for one in asked:
            tasks.append(asyncio.create_task(one))
            await asyncio.sleep(0.0001)
        return await asyncio.gather(*tasks)


def call_of(given: Any, deadline_s: float = math.inf, band: int = 1, **fields: Any) -> Call:
    return Call(
        model="embed", path="/embeddings", headers=[], band=band, deadline_s=deadline_s,
        body=json.dumps({"model": "up", "input": given, **fields}).encode(),
        receiver=WholeReceiver("embed", limit_bytes=10**6),
        query=Query(model="embed", prompt_tokens=5), first_byte_s=60.0, idle_s=60.0, max_attempts=1,
    )  # fmt: skip


def lengths(answer: Any) -> list[int]:
    return [row["embedding"][0] for row in answer["data"]]


def test_what_arrives_while_a_call_is_under_way_goes_together() -> None:
    async def main() -> None:
        house = House()
        answers = await house.all(
            house.ask("a"), house.ask(["bb", "ccc"]), house.ask("dddd"), house.ask(["e"])
        )
        assert [body["input"] for body in house.upstream.bodies] == ["a", ["bb", "ccc", "dddd", "e"]]
        assert [lengths(answer) for answer in answers] == [[1], [2, 3], [4], [1]]
        assert [answer["usage"]["prompt_tokens"] for answer in answers] == [1, 5, 3, 2]
        assert {answer["model"] for answer in answers} == {"embed"}

    run(main())


def test_nobody_waits_while_nothing_is_under_way_nor_longer_than_the_window() -> None:
    async def main() -> None:
        house = House()
        now = asyncio.get_running_loop().time
        began_s = now()
        await house.ask("a")
        assert now() - began_s == pytest.approx(CALL_S, abs=1e-3)
        began_s = now()
        await house.all(house.ask("a"), house.ask("b"))
        assert now() - began_s == pytest.approx(CALL_S + 0.003, abs=1e-3)

    run(main())


def test_only_like_requests_are_joined() -> None:
    async def main() -> None:
        house = House()
        await house.all(
            house.ask("a"),
            house.ask("b", user="me"),
            house.ask("c", user="you"),
            house.ask("d", encoding_format="base64"),
            house.ask("e", band=2),
            house.ask([1, 2]),
            house.ask([[3]]),
            house.ask([[4], [5, 6]]),
        )
        inputs = [body["input"] for body in house.upstream.bodies]
        assert sorted(map(str, inputs)) == sorted(
            map(str, ["a", ["b", "c"], "d", "e", [1, 2], [[3], [4], [5, 6]]])
        )
        assert not any("user" in body for body in house.upstream.bodies if body["input"] == ["b", "c"])

    run(main())


def test_a_full_batch_does_not_wait() -> None:
    async def main() -> None:
        house = House()
        await house.all(house.ask("a"), house.ask(["b"] * 100), house.ask(["c"] * 28), house.ask("d"))
        assert [len(body["input"]) for body in house.upstream.bodies] == [1, 128, 1]
        await house.ask(["x"] * 500)
        assert len(house.upstream.bodies[-1]["input"]) == 500

    run(main())


def test_one_bad_input_fails_nobody_else() -> None:
    async def main() -> None:
        house = House()
        answers = await house.all(house.ask("a"), house.ask("bb"), house.ask(""), house.ask(["ccc", "d"]))
        assert [lengths(answers[n]) for n in (0, 1, 3)] == [[1], [2], [3, 1]]
        assert (answers[2].status, answers[2].message) == (400, "an empty text")

    run(main())


def test_an_answer_without_a_row_for_each_input_is_not_shared_out() -> None:
    async def main() -> None:
        house = House()
        house.upstream.short = True
        answers = await house.all(house.ask("a"), house.ask("bb"), house.ask("ccc"))
        assert [lengths(answer) for answer in answers] == [[1], [2], [3]]

    run(main())


def test_a_failure_hits_everybody_with_an_error_of_his_own() -> None:
    async def main() -> None:
        house = House()
        house.upstream.broken = True
        errors = await house.all(*(house.ask(text) for text in "abc"))
        assert [error.status for error in errors] == [502, 502, 502]
        assert len({id(error) for error in errors}) == 3
        house.upstream.broken = False
        assert lengths(await house.ask("still well")) == [10]

    run(main())


def test_who_leaves_is_left_out_and_the_last_one_ends_the_call() -> None:
    async def main() -> None:
        house = House()
        tasks = [asyncio.create_task(house.ask(text)) for text in ("a", "bb", "ccc", "dddd")]
        await asyncio.sleep(0.001)
        tasks[1].cancel()
        await asyncio.sleep(0.1)
        assert house.upstream.bodies[-1]["input"] == ["ccc", "dddd"]
        tasks[2].cancel()
        await asyncio.sleep(0.1)
        assert house.upstream.aborted == 0
        tasks[3].cancel()
        await asyncio.sleep(0.1)
        assert house.upstream.aborted == 1
        await tasks[0]
        assert lengths(await house.ask("next")) == [4]
        assert not house.batching._flying
        assert not house.batching._gathering

    run(main())


def test_each_ones_own_deadline_holds() -> None:
    async def main() -> None:
        house = House()
        now_s = asyncio.get_running_loop().time()
        answers = await house.all(house.ask("a"), house.ask("b", now_s + 0.5), house.ask("c"))
        assert isinstance(answers[1], ApiError)
        assert answers[1].status == 504
        assert [lengths(answers[n]) for n in (0, 2)] == [[1], [1]]

    run(main())


@given(st.integers(0, 10**6), st.lists(st.integers(1, 10**5), min_size=1, max_size=50))
def test_shares_add_up_and_are_fair(total: int, sizes: Sequence[int]) -> None:
    parts = shares(total, sizes)
    assert sum(parts) == total
    for part, size in zip(parts, sizes, strict=True):
        assert abs(part - total * size / sum(sizes)) < 1
