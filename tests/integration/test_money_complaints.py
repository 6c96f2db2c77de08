"""What users of the field complain of about usage, spend and quota, each as a test through the door."""

import asyncio
import hashlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa

from gateway import database, tables
from gateway.tenancy.changes import changing
from tests.fakes.processes import until
from tests.fakes.upstream import CACHED_TOKENS, PROMPT_TOKENS, script
from tests.integration.gateway import COMMAND, KEY, Gateway, Upstreams, config, model, running, unique

INPUT, CACHED, OUTPUT = 1000, 500, 2000  # nano-dollars a token; see gateway.model
PROMPT = (PROMPT_TOKENS - CACHED_TOKENS) * INPUT + CACHED_TOKENS * CACHED
FRESH = PROMPT_TOKENS * INPUT


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Upstreams]]:
    directory = tmp_path_factory.mktemp("complaints")
    upstreams = Upstreams(3)
    models = model("small", upstreams.ports[:1]) + model("pair", upstreams.ports[1:])
    models += model("plain", upstreams.ports[1:2], context_tokens=2048, engine="openai")
    models = models.replace("price = {", "price = { batch = 0.5,")
    models += model("free", upstreams.ports[1:2], engine="openai").replace("price =", "# price =")
    custom = model("custom", upstreams.ports[:1])
    models += custom.replace("input = 1.0, cached_input = 0.5, output = 2.0", "input = 6.0, output = 6.0")
    with running(Gateway(directory, config(models, directory=directory)), upstreams) as house:
        until(house[0].ready)
        yield house


def events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {")]


def made_key(gateway: Gateway, **terms: Any) -> dict[str, str]:
    """Make a key by the command; gives its header, once the running gateway knows it."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in terms.items()]
    command = [COMMAND, "keys", "create", "--config", str(gateway.config), "--name", unique(), "--json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=True)
    made = json.loads(done.stdout)
    header = {"authorization": f"Bearer {made['key']}"}
    until(lambda: gateway.call("GET", "/v1/models", headers=header)[0] == 200)
    return header


def spent(gateway: Gateway, header: dict[str, str], ids: list[str]) -> int:
    """Wait for the rows of requests; gives what they cost together."""
    return sum(gateway.row(one)["amount_nanousd"] for one in ids)


@pytest.mark.parametrize("fault", ["ok", "usage-in-choices", "at-once", "byte-by-byte"])
def test_7_8_cached_tokens_at_their_rate_and_a_stream_costs_what_a_buffered_answer_does(
    house: tuple[Gateway, Upstreams], fault: str
) -> None:
    """litellm#36168, #37923, #40100: usage in a last chunk with choices; streamed and buffered differ."""
    gateway, _ = house
    ids = []
    for stream in (False, True):
        status, headers, _ = gateway.chat("small", script(fault, n=6, tag=unique()), stream=stream)
        assert status == 200
        ids.append(headers["x-request-id"])
    amounts = [gateway.row(one)["amount_nanousd"] for one in ids]
    assert amounts == [PROMPT + 6 * OUTPUT] * 2


def test_8_a_stream_costs_the_same_where_the_server_tells_no_usage(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    rows = []
    for stream in (False, True):
        prompt = script("no-usage", n=9)
        rows.append(gateway.row(gateway.chat("plain", prompt, stream=stream)[1]["x-request-id"]))
    buffered, streamed = rows
    assert buffered["estimated"]
    assert buffered["completion_tokens"] > 0
    assert streamed["amount_nanousd"] == buffered["amount_nanousd"]


def test_9_every_answer_has_exactly_one_row(house: tuple[Gateway, Upstreams]) -> None:
    """litellm#36426"""
    gateway, _ = house
    ids = [
        gateway.chat("small", script("ok", tag=unique()), stream=bool(number % 2))[1]["x-request-id"]
        for number in range(20)
    ]
    for one in ids:
        gateway.row(one)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["no-usage", "usage-odd"])
@pytest.mark.parametrize("name", ["plain", "free"])
def test_9_where_its_cost_cannot_be_told_a_degraded_row_is_still_written(
    house: tuple[Gateway, Upstreams], name: str, fault: str, stream: bool
) -> None:
    """litellm#36426: no usage or nonsense, nobody to count tokens, no price: the row says so."""
    gateway, upstreams = house
    upstreams.control(ids=False)
    try:
        status, headers, body = gateway.chat(name, script(fault, n=9, tag=unique()), stream=stream)
    finally:
        upstreams.control(ids=True)
    assert status == 200
    assert b"w8" in body
    assert b"error" not in body
    row = gateway.row(headers["x-request-id"])
    assert (row["status"], row["estimated"]) == ("ok", True)
    assert row["completion_tokens"] > 0
    assert (row["amount_nanousd"] > 0, row["price_version"] == "unpriced") == (
        name == "plain",
        name == "free",
    )


def test_10_a_price_of_a_custom_model_is_not_lost(house: tuple[Gateway, Upstreams]) -> None:
    """litellm#10598: 0.000006 USD a token is 6 USD a million; what has no price is flagged, or refused."""
    gateway, _ = house
    headers = gateway.chat("custom", script("ok", n=4, tag=unique()))[1]
    row = gateway.row(headers["x-request-id"])
    assert row["amount_nanousd"] == (PROMPT_TOKENS + 4) * 6000
    assert float(headers["x-switchgear-cost-usd"]) == pytest.approx((PROMPT_TOKENS + 4) * 0.000006)
    text = gateway.config.read_text()
    try:
        gateway.write(f'{text}\n[billing]\nunpriced = "refuse"\n')
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: gateway.chat("free", script("ok"))[0] != 200)
        status, _, body = gateway.chat("free", script("ok"))
        assert (status, json.loads(body)["error"]["code"]) == (503, "model_not_priced")
        assert gateway.chat("custom", script("ok", tag=unique()))[0] == 200
    finally:
        gateway.write(text)
        gateway.process.send_signal(signal.SIGHUP)
    until(lambda: gateway.chat("free", script("ok"))[0] == 200)


def test_11_a_stream_tells_its_cost(house: tuple[Gateway, Upstreams]) -> None:
    """litellm#13264"""
    gateway, _ = house
    options = {"stream": True, "stream_options": {"include_usage": True}}
    _, headers, body = gateway.chat("small", script("ok", n=4), **options)
    (usage,) = [event["usage"] for event in events(body) if event.get("usage")]
    assert usage["cost"] == (PROMPT + 4 * OUTPUT) / 1e9
    assert gateway.row(headers["x-request-id"])["amount_nanousd"] == PROMPT + 4 * OUTPUT


def test_12_a_client_that_leaves_pays_what_it_got(house: tuple[Gateway, Upstreams]) -> None:
    """new-api#5235, #7062: neither nothing nor the whole reservation."""
    gateway, upstreams = house
    tag = unique()

    async def leave() -> str:
        async with httpx.AsyncClient(base_url=gateway.base_url, timeout=30) as client:
            body = {
                "model": "small", "stream": True, "max_tokens": 1000,
                "messages": [{"role": "user", "content": script("ok", n=500, gap_s=0.02, tag=tag)}],
            }  # fmt: skip
            headers = {"authorization": f"Bearer {KEY}"}
            async with client.stream("POST", "/chat/completions", json=body, headers=headers) as reply:
                seen = 0
                async for line in reply.aiter_lines():
                    seen += '"content":' in line
                    if seen > 5:
                        return reply.headers["x-request-id"]
        raise AssertionError("the stream ended by itself")

    row = gateway.row(asyncio.run(leave()))
    until(lambda: upstreams.states(tag) != ["running"])
    assert row["status"] == "cancelled"
    assert 5 <= row["completion_tokens"] < 400
    assert row["amount_nanousd"] == FRESH + row["completion_tokens"] * OUTPUT


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["400", "500", "error:0", "429"])
def test_13_an_upstreams_error_text_is_never_billed(
    house: tuple[Gateway, Upstreams], fault: str, stream: bool
) -> None:
    """new-api#5288, #5289"""
    gateway, _ = house
    until(gateway.ready)
    status, headers, _ = gateway.chat("plain", script(fault, tag=unique()), stream=stream)
    assert status != 200
    row = gateway.row(headers["x-request-id"])
    ended = "refused" if fault.startswith("4") else "error"
    assert (row["status"], row["amount_nanousd"], row["completion_tokens"]) == (ended, 0, 0)


def test_14_fifty_at_once_on_a_balance_for_ten(house: tuple[Gateway, Upstreams]) -> None:
    """litellm#34732, new-api#6609"""
    gateway, _ = house
    until(gateway.ready)
    prompt = script("ok", n=5, gap_s=0.05)
    body = {"model": "small", "messages": [{"role": "user", "content": prompt}], "max_tokens": 5}
    size = len(json.dumps(body, separators=(",", ":")))
    each = size * INPUT + 5 * OUTPUT
    header = made_key(gateway, prepaid_usd=f"{10 * each / 1e9:.9f}")

    async def fifty() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(base_url=gateway.base_url, timeout=30, limits=limits) as client:
            asked = (client.post("/chat/completions", json=body, headers=header) for _ in range(50))
            return await asyncio.gather(*asked)

    replies = asyncio.run(fifty())
    good = [reply for reply in replies if reply.status_code == 200]
    assert 1 <= len(good) <= 10
    for reply in replies:
        if reply.status_code != 200:
            assert (reply.status_code, reply.json()["error"]["code"]) == (429, "insufficient_quota")
            assert reply.headers["x-should-retry"] == "false"
    assert spent(gateway, header, [reply.headers["x-request-id"] for reply in good]) <= 10 * each


def test_15_an_unknown_end_user_is_bound_by_the_default_budget(house: tuple[Gateway, Upstreams]) -> None:
    """litellm#40095, seen through the unit test of billing; here only that the row knows the end user."""
    gateway, _ = house
    row = gateway.row(gateway.chat("small", script("ok"), safety_identifier=unique())[1]["x-request-id"])
    assert len(row["end_user"]) == 32


def test_17_no_budget_is_no_limit(house: tuple[Gateway, Upstreams]) -> None:
    """litellm#22726, #20615"""
    gateway, _ = house
    header = made_key(gateway, rpm=1000)
    for _ in range(5):
        assert gateway.chat("small", script("ok", tag=unique()), headers=header, max_tokens=10**6)[0] == 200


@pytest.mark.soak
def test_20_a_window_passes_under_constant_traffic(house: tuple[Gateway, Upstreams]) -> None:
    """litellm#14204: a rate regains what it lost although refused requests keep coming, and no more."""
    gateway, _ = house
    until(gateway.ready)
    header, began_s, statuses = made_key(gateway, rpm=30), time.monotonic(), list[int]()

    def asked() -> bool:
        status, headers, _ = gateway.chat("small", script("ok"), headers=header)
        assert headers["x-ratelimit-limit-requests"] == "30"
        statuses.append(status)
        return statuses.count(200) == 50

    until(asked, 180.0)
    assert set(statuses) == {200, 429}
    assert statuses.count(429) > 100
    assert 30 + 1 + (time.monotonic() - began_s) * 30 / 60 >= 50


def test_21_a_live_stream_stops_before_the_floor_and_says_so(house: tuple[Gateway, Upstreams]) -> None:
    """sub2api#7002"""
    gateway, upstreams = house
    until(gateway.ready)
    prepaid = 1_000_000 + 200_000  # room for some 300 tokens more than the first step
    header = made_key(gateway, prepaid_usd=f"{prepaid / 1e9:.9f}", floor_usd="0.0001")
    tag = unique()
    status, headers, body = gateway.chat(
        "small", script("ok", n=3000, gap_s=0.001, tag=tag), headers=header, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    assert status == 200
    assert body.endswith(b"data: [DONE]\n\n")
    *_, end, last = events(body)
    assert end["switchgear"] == {"stop_reason": "insufficient_quota"}
    assert [choice["finish_reason"] for choice in end["choices"]] == ["length"]
    assert (end["object"], end["model"]) == ("chat.completion.chunk", "small")
    row = gateway.row(headers["x-request-id"])
    assert row["status"] == "stopped"
    assert last["usage"]["completion_tokens"] == row["completion_tokens"]
    assert last["usage"]["cost"] == row["amount_nanousd"] / 1e9
    assert row["amount_nanousd"] == FRESH + row["completion_tokens"] * OUTPUT
    left = prepaid - row["amount_nanousd"]
    assert 100_000 <= left < prepaid - 256 * OUTPUT  # what comes in one read is delivered whole or not
    delivered = sum(bool(e["choices"] and e["choices"][0]["delta"].get("content")) for e in events(body)[:-2])
    assert delivered == row["completion_tokens"]
    until(lambda: upstreams.states(tag) != ["running"])
    status, _, again = gateway.chat("small", script("ok"), headers=header)
    assert (status, json.loads(again)["error"]["code"]) == (429, "insufficient_quota")


def test_21_the_openai_client_reads_the_declared_end(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    until(gateway.ready)
    key = made_key(gateway, prepaid_usd="0.0012", floor_usd="0.0001")["authorization"].removeprefix("Bearer ")
    with gateway.client().with_options(api_key=key) as client:
        stream = client.chat.completions.create(
            model="small", stream=True, stream_options={"include_usage": True},
            messages=[{"role": "user", "content": script("ok", n=3000, gap_s=0.001, tag=unique())}],
        )  # fmt: skip
        *_, end, last = list(stream)  # no exception, and it ends by [DONE]
        assert end.choices[0].finish_reason == "length"
        assert end.model_extra is not None
        assert end.model_extra["switchgear"] == {"stop_reason": "insufficient_quota"}
        assert last.usage is not None
        assert last.choices == []
        assert 256 < last.usage.completion_tokens < 600
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="small", messages=[{"role": "user", "content": "x"}])
        assert refused.value.code == "insufficient_quota"


def test_21_a_buffered_answer_without_max_tokens_cannot_pass_the_floor(
    house: tuple[Gateway, Upstreams],
) -> None:
    """sub2api#7002: what is longer than the reservation, and not covered, is neither delivered nor billed."""
    gateway, _ = house
    until(gateway.ready)
    header = made_key(gateway, prepaid_usd="0.009")  # 4096 tokens, the prompt, and some 300 tokens more
    status, headers, body = gateway.chat("small", script("ok", n=5000, size=1), headers=header)
    assert (status, json.loads(body)["error"]["code"]) == (429, "insufficient_quota")
    assert headers["x-should-retry"] == "false"
    row = gateway.row(headers["x-request-id"])
    assert (row["status"], row["amount_nanousd"]) == ("refused", 0)
    status, headers, _ = gateway.chat("small", script("ok", n=4200, size=1), headers=header)
    assert status == 200
    assert 0 < gateway.row(headers["x-request-id"])["amount_nanousd"] <= 9_000_000


def test_22_an_exhausted_backend_fails_over_and_then_it_is_a_429(house: tuple[Gateway, Upstreams]) -> None:
    """envoy ai-gateway#1571"""
    gateway, upstreams = house
    until(gateway.ready)
    tag = unique()
    status, headers, _ = gateway.chat("pair", script("429", "ok", tag=tag))
    assert (status, headers["x-switchgear-attempts"]) == (200, "2")
    assert len({one["port"] for one in upstreams.seen(tag)["requests"]}) == 2
    until(gateway.ready)
    status, headers, body = gateway.chat("pair", script("429"))
    assert (status, json.loads(body)["error"]["code"]) == (429, "rate_limit_exceeded")
    assert gateway.row(headers["x-request-id"])["amount_nanousd"] == 0


def test_15_what_an_end_user_has_spent_outlives_a_restart(house: tuple[Gateway, Upstreams]) -> None:
    """Its budget is read back from the ledger, also where the counts live in memory."""
    gateway, _ = house
    text = gateway.config.read_text()
    key = unique() * 4
    digest = hashlib.sha256(key.encode()).hexdigest()
    gateway.write(f'{text}\n[[keys]]\nname = "users"\nsha256 = "{digest}"\n')
    gateway.process.send_signal(signal.SIGHUP)
    header = {"authorization": f"Bearer {key}"}
    until(lambda: gateway.call("GET", "/v1/models", headers=header)[0] == 200)
    engine = database.connect(f"sqlite:///{gateway.directory / 'gateway.db'}")
    with changing(engine, "test", 0.0) as change:
        terms = {"end_user": {"budget_nanousd": 350_000}}
        done = change.connection.execute(sa.update(tables.organisations).values(terms=terms))
        assert done.rowcount == 1
    engine.dispose()

    def asked(user: str) -> int:
        reply = gateway.chat(
            "small", script("ok", n=60), headers=header, safety_identifier=user, max_tokens=60
        )
        return reply[0]

    until(lambda: gateway.chat("small", "x", headers=header, safety_identifier="p", max_tokens=900)[0] == 429)
    assert asked("ann") == 200
    assert asked("ann") == 429
    assert gateway.stop() == 0
    gateway.start()
    until(gateway.ready)
    assert asked("ann") == 429
    assert asked("bob") == 200


def test_a_request_of_the_batch_band_has_its_factor(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    until(gateway.ready)
    header = made_key(gateway, band="batch")
    headers = gateway.chat("plain", script("ok", n=4, tag=unique()), headers=header)[1]
    row = gateway.row(headers["x-request-id"])
    assert (row["service"], row["amount_nanousd"]) == ("batch", (PROMPT + 4 * OUTPUT) // 2)
