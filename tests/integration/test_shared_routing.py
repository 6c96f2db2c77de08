"""Gateways that share a Redis route as one: a share held together, conversations known to all."""

import asyncio
import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import pytest
from redis.exceptions import RedisError

from gateway.state.meeting import LATELY_S, MOST_HEARD
from gateway.state.redis_meeting import POTS, STREAM, RedisMeeting
from routing.objectives import POT, settle
from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.gateway import KEY, Gateway, Upstreams, chat_body, config, model, running, unique
from tests.integration.redis_server import RedisServer

SHARE = 0.3
ROUTE = f'[[routes]]\nname = "auto"\ntiers = ["small", "large"]\nobjective = {{ large_share = {SHARE} }}\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path_factory.mktemp("redis"))
    yield made
    made.close()


def test_a_pot_in_redis_is_shared_out_as_the_pure_function_says(server: RedisServer) -> None:
    async def play() -> None:
        server.client.flushall()
        draw, meeting = np.random.default_rng(1), RedisMeeting(server.url, None, 1.0)
        pot = 0.0
        for number in range(300):
            processes = int(draw.integers(1, 6))
            owed = float(draw.normal(0, 12))
            pot, wanted = settle(pot, owed, processes)
            for _ in range(2):  # the second time as where the answer was lost
                kept = await meeting.share_out(number, {"a": owed}, processes)
                assert kept["a"] == pytest.approx(wanted, abs=1e-6)
            assert float(server.client.get(POTS + "a")) == pytest.approx(pot, abs=1e-6)
            assert abs(pot) <= POT
        for key in server.client.keys("switchgear:routing:*"):
            assert 0 < server.client.ttl(key) <= 3600
        other = RedisMeeting(server.url, None, 1.0)
        assert (await other.share_out(1, {"a": 0.0}, 1))["a"] == pytest.approx(pot, abs=1e-6)
        await other.close()
        assert await meeting.share_out(300, {}, 2) == {}
        await meeting.close()

    asyncio.run(play())


def test_news_are_heard_once_by_everybody_else_and_by_who_comes_soon_after(server: RedisServer) -> None:
    async def play() -> None:
        server.client.flushall()
        a, b = (RedisMeeting(server.url, None, 1.0) for _ in range(2))
        assert await a.exchange(b"one") == []
        assert await b.exchange(b"two") == [b"one"]
        assert await a.exchange(b"") == [b"two"]
        assert await b.exchange(b"") == []
        late = RedisMeeting(server.url, None, 1.0)
        assert await late.exchange(b"") == [b"one", b"two"]
        server.client.delete(STREAM)
        await b.exchange(b"")
        await a.exchange(b"again")
        assert await b.exchange(b"") == [b"again"]
        for one in (a, b, late):
            await one.close()

    asyncio.run(play())


def test_who_comes_anew_hears_what_was_told_lately_and_so_much_at_once(server: RedisServer) -> None:
    async def play() -> None:
        server.client.flushall()
        s, _ = server.client.time()
        with server.client.pipeline(transaction=False) as pipeline:
            pipeline.xadd(STREAM, {b"o": b"other", b"n": b"old"}, id=f"{int((s - LATELY_S - 1) * 1000)}-0")
            for number in range(MOST_HEARD + 2):
                pipeline.xadd(STREAM, {b"o": b"other", b"n": b"%d" % number}, id=f"{s * 1000 + number}-0")
            pipeline.execute()
        anew = RedisMeeting(server.url, None, 1.0)
        first = await anew.exchange(b"")
        assert (len(first), first[0]) == (MOST_HEARD, b"0")
        assert await anew.exchange(b"") == [b"%d" % MOST_HEARD, b"%d" % (MOST_HEARD + 1)]
        assert await anew.exchange(b"") == []
        await anew.close()

    asyncio.run(play())


def test_news_that_came_before_an_error_are_heard_after_it(server: RedisServer) -> None:
    """Redis answers the reading, and refuses what is asked after it."""

    async def play() -> None:
        server.client.flushall()
        meeting, other = (RedisMeeting(server.url, None, 1.0) for _ in range(2))
        for one in (meeting, other):
            assert await one.exchange(b"") == []
        await other.exchange(b"news")
        server.client.acl_setuser("default", enabled=True, commands=["-exists"])
        with pytest.raises(RedisError):
            await meeting.exchange(b"")
        server.client.acl_setuser("default", enabled=True, commands=["+exists"])
        assert await meeting.exchange(b"") == [b"news"]
        for one in (meeting, other):
            await one.close()

    asyncio.run(play())


@pytest.fixture(scope="module")
def gateways(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    server.client.flushall()
    upstreams = Upstreams(2)
    models = model("small", upstreams.ports[:1]) + model("large", upstreams.ports[1:])
    with ExitStack() as stack:
        found = []
        for number in range(3):
            directory = tmp_path_factory.mktemp(f"gateway{number}")
            text = config(
                models + ROUTE, directory=directory, more=f'[redis]\nurl = "{server.url}"\n',
                server='[logging]\nrequests = "none"',
            )  # fmt: skip
            found.append(Gateway(directory, text))
        stack.enter_context(running(found[0], upstreams))
        for one in found[1:]:
            stack.callback(one.stop)
        for one in found:
            until(one.ready)
        yield found


class Line:
    """One connection that stays."""

    def __init__(self, gateway: Gateway) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)

    def ask(self, body: bytes, **headers: str) -> dict[str, str]:
        sent = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **headers}
        self.connection.request("POST", "/v1/chat/completions", body, sent)
        reply = self.connection.getresponse()
        reply.read()
        assert reply.status == 200
        return {name.lower(): value for name, value in reply.getheaders()}


QUESTIONS = (
    ("Thanks, that is all, number {}!", "Good morning, this is greeting {}.", "What is {} plus 1?"),
    ("Prove that there are infinitely many primes that are {} modulo 7 and derive a bound for the smallest.",
     "Write a Python program that parses {} nested expressions and proves its own termination step by step."),
)  # fmt: skip


def test_three_gateways_of_unequal_traffic_hold_the_share_in_a_sorted_stream(
    gateways: list[Gateway],
) -> None:
    """Sorted by kind, nine of ten to one gateway: over any 2,000 queries in a row within 3 points."""
    draw, large = np.random.default_rng(2), []
    with ExitStack() as stack:
        lines = [Line(one) for one in gateways]
        for one in lines:
            stack.enter_context(closing(one.connection))
        for kind in (0, 1, 0):
            for number in range(900):
                texts = QUESTIONS[kind]
                prompt = texts[number % len(texts)].format(number)
                place = int(draw.choice(3, p=[0.9, 0.05, 0.05]))
                headers = lines[place].ask(chat_body("auto", prompt, max_tokens=1))
                large.append(headers["x-switchgear-model"] == "large")
    windows = np.convolve(large, np.ones(2000), "valid") / 2000
    assert np.abs(windows - SHARE).max() <= 0.03


def test_a_conversation_that_another_gateway_raised_does_not_fall(gateways: list[Gateway]) -> None:
    first = {"role": "user", "content": script(tag=unique())}

    def ask(gateway: Gateway, *messages: dict[str, str], objective: str) -> dict[str, str]:
        body = json.dumps({"model": "auto", "messages": messages}).encode()
        return gateway.call("POST", "/v1/chat/completions", body, {"x-switchgear-objective": objective})[1]

    assert ask(gateways[0], first, objective="threshold=0")["x-switchgear-model"] == "large"
    later = (first, {"role": "assistant", "content": "w0"}, {"role": "user", "content": "and then?"})

    def known() -> bool:
        headers = ask(gateways[1], *later, objective="threshold=1")
        return headers["x-switchgear-reason"] == "conversation" and headers["x-switchgear-model"] == "large"

    until(known)


def test_a_word_on_an_answer_teaches_whichever_gateway_hears_it(gateways: list[Gateway]) -> None:
    def labels() -> float:
        return gateways[0].metric("switchgear_routing_labels_total", route="auto", source="feedback")

    before = labels()
    _, headers, _ = gateways[0].chat("auto", script(tag=unique()))
    body = json.dumps({"request_id": headers["x-request-id"], "score": 0.9}).encode()
    status, _, told = gateways[1].call("POST", "/v1/feedback", body)
    assert status == 200
    assert (json.loads(told)["learnt"], json.loads(told)["passed_on"]) == (False, True)
    until(lambda: labels() == before + 1)


def test_with_redis_away_routing_goes_on_and_meets_again(
    gateways: list[Gateway], server: RedisServer
) -> None:
    """The last test: the server is another one afterwards."""
    server.stop()
    _, headers, _ = gateways[0].chat("auto", script(tag=unique()))
    assert headers["x-switchgear-reason"] == "score"

    def loops() -> Any:
        return json.loads(gateways[0].call("GET", "/readyz")[2])["parts"]["loops"]

    until(lambda: "routing" in loops())
    server.start()
    until(lambda: "routing" not in loops())
