"""Every fault of an upstream, streamed and buffered, alone and beside a healthy replica.

Each fault has models of its own (one replica, and two), so that one fault's ejections disturb no other. All
requests run at once, seen by openai-python with its own retries off; the tests then look at what came out.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.fakes import upstream as fake
from tests.fakes.processes import until
from tests.integration.gateway import (
    KEY,
    Gateway,
    Upstreams,
    chat_request,
    config,
    model,
    read_until,
    running,
    unique,
)

N = 5
WELL = "well"
"""The answer comes whole, from the first replica."""
REFUSED = "refused"
"""The client's own mistake: handed on, never tried again."""
CUT = "cut"
"""A byte was delivered: a second replica goes on; alone (``max_attempts = 1``) it ends in an error."""

# Otherwise: the status that a client sees of a lone replica; a second replica answers in its place.
STREAMED: dict[str, str | int] = {
    "ok": WELL,
    "hang": 504,
    "hang-head": 504,
    "400": REFUSED,
    "401": 502,
    "404": 502,
    "429": 429,
    "429-after": 429,
    "500": 502,
    "503": 503,
    "503-after": 503,
    "fin:0": 502,
    "fin:3": CUT,
    "rst:0": 502,
    "rst:3": CUT,
    "stall:0": 504,
    "stall:3": CUT,
    "early-end:0": 502,
    "early-end:3": CUT,
    "early-done:0": 502,
    "early-done:3": CUT,
    "malformed:0": 502,
    "malformed:3": CUT,
    "error:0": 502,
    "error:3": CUT,
    "no-usage": WELL,
    "usage-in-choices": WELL,
    "usage-null": WELL,
    "no-done": WELL,
    "done-fin": WELL,
    "done-hang": WELL,
    "byte-by-byte": WELL,
    "drip": WELL,
    "at-once": WELL,
    "huge": WELL,
    "garbage": 502,
    "continue": WELL,
    "early-hints": WELL,
    "close": WELL,
    "http10": WELL,
    "idle-close": WELL,
}
BUFFERED: dict[str, str | int] = {
    **{
        fault: STREAMED[fault]
        for fault in ("ok", "hang", "hang-head", "400", "401", "404", "429", "429-after")
    },
    **{
        fault: STREAMED[fault]
        for fault in ("500", "503", "503-after", "fin:0", "rst:0", "stall:0", "garbage")
    },
    **{
        fault: STREAMED[fault]
        for fault in ("no-usage", "byte-by-byte", "drip", "huge", "continue", "early-hints")
    },
    **{fault: STREAMED[fault] for fault in ("close", "http10", "idle-close", "error:0")},
    "malformed:0": 502,
    "short-body": 502,
    "long-body": 502,
}
CASES = [
    (fault, mode, crowd)
    for mode, table in (("streamed", STREAMED), ("buffered", BUFFERED))
    for fault in table
    for crowd in ("solo", "duo")
]
CLASSES: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    429: openai.RateLimitError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
    504: openai.InternalServerError,
}


class Outcome(msgspec.Struct, kw_only=True):
    """What a client saw of one request, and what else is known of it."""

    tag: str
    text: str = ""
    error: Exception | None = None
    headers: dict[str, str] = {}
    request_id: str = ""
    seen: list[dict[str, Any]] = []
    row: dict[str, Any] = {}


def named(crowd: str, fault: str, mode: str) -> str:
    """Name the model: two, where a server asks to be left alone after the first request."""
    apart = f"-{mode}" if fault.endswith("-after") else ""
    return f"{crowd}-{fault.replace(':', '-')}{apart}"


async def ask(client: openai.AsyncOpenAI, upstreams: Upstreams, fault: str, mode: str, crowd: str) -> Outcome:
    """Ask once; where the stream is to be cut, the rest waits until the client has seen a token."""
    outcome = Outcome(tag=unique())
    plan = (fault,) if crowd == "solo" else (fault, "ok")
    cut = mode == "streamed" and STREAMED[fault] == CUT
    prompt = fake.script(*plan, tag=outcome.tag, n=N, lockstep=cut)
    if cut:
        await asyncio.to_thread(upstreams.control, release=outcome.tag, times=2)
    messages: Any = [{"role": "user", "content": prompt}]
    create = client.chat.completions.with_raw_response.create
    try:
        raw: Any = await create(model=named(crowd, fault, mode), messages=messages, stream=mode == "streamed")
        outcome.headers = dict(raw.headers)
        outcome.request_id = raw.headers["x-request-id"]
        answer = raw.parse()
        if isinstance(answer, ChatCompletion):
            outcome.text = answer.choices[0].message.content or ""
        else:
            async for chunk in answer:
                outcome.text += chunk.choices[0].delta.content or ""
                if cut and outcome.text:
                    cut = False
                    await asyncio.to_thread(upstreams.control, release=outcome.tag, times=20)
    except openai.APIError as error:
        outcome.error = error
        if isinstance(error, openai.APIStatusError):
            outcome.headers = dict(error.response.headers)
            outcome.request_id = error.request_id or ""
    return outcome


async def ask_all(gateway: Gateway, upstreams: Upstreams) -> dict[tuple[str, str, str], Outcome]:
    async with openai.AsyncOpenAI(
        base_url=gateway.base_url, api_key=KEY, max_retries=0, timeout=60.0
    ) as client:
        found = await asyncio.gather(*(ask(client, upstreams, *case) for case in CASES))
    return dict(zip(CASES, found, strict=True))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Upstreams]]:
    directory = tmp_path_factory.mktemp("faults")
    names = sorted({(named("solo", fault, mode), named("duo", fault, mode)) for fault, mode, _ in CASES})
    upstreams = Upstreams(3 * len(names) + 9)
    times = {"first_byte_timeout_s": 3.0, "stall_timeout_s": 3.0}
    ports = iter(upstreams.ports)
    models = ""
    for solo, duo in names:
        models += model(solo, [next(ports)], max_attempts=1, **times)
        models += model(duo, [next(ports), next(ports)], **times)
    models += model("weak", [next(ports)], max_attempts=1, **times) + model("spare", [next(ports)], **times)
    models += model("strong", [next(ports)], max_attempts=1, **times)
    models += model("alone", [next(ports)], **times) + model("pair", [next(ports), next(ports)], **times)
    models += model("bare", [next(ports), next(ports)], engine="openai", **times)
    models += model("lone", [next(ports)], **times)
    routes = '[[routes]]\nname = "auto"\ntiers = ["weak", "strong"]\nfallback = ["spare"]\n'
    gateway = Gateway(directory, config(models + routes, directory=directory))
    with running(gateway, upstreams):
        until(gateway.ready)
        yield gateway, upstreams


@pytest.fixture(scope="module")
def outcomes(house: tuple[Gateway, Upstreams]) -> dict[tuple[str, str, str], Outcome]:
    gateway, upstreams = house
    found = asyncio.run(ask_all(gateway, upstreams))
    until(lambda: len(gateway.rows()) >= len(CASES))
    rows = gateway.rows()
    assert len(rows) == len(CASES), "more than one row for a request"
    by_id = {row["request_id"]: row for row in rows}
    by_model = {(row["model"], row["request_id"]): row for row in rows}
    assert len(by_model) == len(CASES)
    seen = upstreams.seen()["requests"]
    for outcome in found.values():
        outcome.seen = [one for one in seen if one["tag"] == outcome.tag]
        outcome.row = by_id.get(outcome.request_id, {})
    return found


@pytest.mark.parametrize(("fault", "mode", "crowd"), CASES, ids=lambda one: str(one))
def test_a_fault_has_the_promised_outcome(
    outcomes: dict[tuple[str, str, str], Outcome], fault: str, mode: str, crowd: str
) -> None:
    outcome = outcomes[fault, mode, crowd]
    promised = (STREAMED if mode == "streamed" else BUFFERED)[fault]
    row, asked = outcome.row, len(outcome.seen)
    assert outcome.request_id.startswith("req_")
    assert asked == row["attempts"]
    if promised == CUT and crowd == "solo":
        check_cut(outcome, fault)
    elif promised == CUT:
        check_carried_on(outcome)
    elif promised == REFUSED:
        assert isinstance(outcome.error, openai.BadRequestError)
        assert (outcome.error.type, outcome.error.code) == ("invalid_request_error", "invalid_value")
        assert "upstream says 400" in str(outcome.error)
        assert (asked, row["status"], row["amount_nanousd"]) == (1, "refused", 0)
    elif promised == WELL or crowd == "duo":
        check_well(outcome, fault, mode, attempts=1 if promised == WELL else 2)
    else:
        assert isinstance(promised, int)
        check_failed(outcome, promised)


def check_well(outcome: Outcome, fault: str, mode: str, attempts: int) -> None:
    assert outcome.error is None
    if fault != "huge":
        assert outcome.text == fake.text(N)
    assert len(outcome.text) >= fake.HUGE_BYTES or fault != "huge"
    assert outcome.headers["x-switchgear-attempts"] == str(attempts)
    ports = [one["port"] for one in outcome.seen]
    assert len(set(ports)) == attempts == len(ports), "a retry goes to another replica"
    row = outcome.row
    assert (row["status"], row["source"]) == ("ok", "upstream")
    assert row["replicas"][-1] == outcome.headers["x-switchgear-replica"][-1]
    if fault == "no-usage":
        assert row["estimated"] == (mode == "buffered"), "token ids are as good as usage"
        assert row["completion_tokens"] == (N if mode == "streamed" else 1 + len(outcome.text) // 4)
        return
    usage = (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"])
    assert usage == (fake.PROMPT_TOKENS, fake.CACHED_TOKENS, N)
    assert row["amount_nanousd"] == 4 * 1000 + 3 * 500 + N * 2000
    assert not row["estimated"]


def check_carried_on(outcome: Outcome) -> None:
    """No word lost or doubled, one bill as of one run; the second replica got the tokens that were there."""
    assert outcome.error is None
    assert outcome.text == fake.text(N)
    first, second = outcome.seen
    assert first["port"] != second["port"]
    so_far = [id_ for id_ in second["body"]["prompt"] if id_ >= 100]
    assert so_far in ([100], [100, 101])
    assert second["body"]["max_tokens"] == 2048 - fake.PROMPT_TOKENS - len(so_far)
    row = outcome.row
    assert (row["status"], row["source"], row["estimated"]) == ("ok", "upstream", False)
    usage = (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"])
    assert usage == (fake.PROMPT_TOKENS, fake.CACHED_TOKENS, N)
    assert row["amount_nanousd"] == 4 * 1000 + 3 * 500 + N * 2000


def check_failed(outcome: Outcome, status: int) -> None:
    assert isinstance(outcome.error, CLASSES[status])
    assert isinstance(outcome.error, openai.APIStatusError)
    assert outcome.error.status_code == status
    assert outcome.text == ""
    codes = {429: "rate_limit_exceeded", 502: "upstream_error", 503: "overloaded", 504: "upstream_timeout"}
    assert outcome.error.code == codes[status]
    if status in (502, 504):
        assert outcome.headers["x-should-retry"] == "false"
    fault = outcome.seen[0]["fault"]
    assert outcome.headers.get("retry-after") == {"429-after": "7", "503-after": "9"}.get(fault)
    row = outcome.row
    assert (len(outcome.seen), row["status"], row["completion_tokens"], row["amount_nanousd"]) == (
        1,
        "error" if status >= 500 else "refused",
        0,
        0,
    )


def check_cut(outcome: Outcome, fault: str) -> None:
    """Events 0 (the role), 1 and 2 were sent: the client has one token or two, and pays for what it has."""
    assert isinstance(outcome.error, openai.APIError)
    assert not isinstance(outcome.error, openai.APIStatusError)
    code = "upstream_timeout" if fault.startswith("stall") else "upstream_error"
    body: Any = outcome.error.body
    assert body["code"] == code
    assert len(outcome.seen) == 1
    assert outcome.text in (fake.text(1), fake.text(2))
    row = outcome.row
    tokens = len(outcome.text.split())
    assert (row["status"], row["prompt_tokens"], row["completion_tokens"]) == (
        "error",
        fake.PROMPT_TOKENS,
        tokens,
    )
    assert row["amount_nanousd"] == fake.PROMPT_TOKENS * 1000 + tokens * 2000


def test_a_refused_connection_goes_to_another_replica_and_ejects(house: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = house
    first = upstreams.ports[-5]
    upstreams.control(refuse=first)
    for _ in range(2):  # by turns: one of the two meets the closed port
        status, headers, _ = gateway.chat("pair", fake.script("ok"))
        assert (status, headers["x-switchgear-replica"]) == (200, "pair-1")
    until(lambda: gateway.metric("switchgear_replicas", model="pair", phase="ejected") == 1)
    assert gateway.chat("pair", fake.script("ok"))[1]["x-switchgear-attempts"] == "1"
    upstreams.control(listen=first)
    until(lambda: gateway.metric("switchgear_replicas", model="pair", phase="ready") == 2)


def test_a_lone_replica_that_refuses_is_reported_as_such(house: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = house
    port = upstreams.ports[-6]
    upstreams.control(refuse=port)
    status, headers, body = gateway.chat("alone", fake.script("ok"))
    assert status in (502, 503)
    until(lambda: gateway.metric("switchgear_replicas", model="alone", phase="ejected") == 1)
    status, headers, body = gateway.chat("alone", fake.script("ok"))
    assert (status, json.loads(body)["error"]["code"]) == (503, "model_loading")
    assert 1 <= int(headers["retry-after"]) <= 120
    upstreams.control(listen=port)
    until(lambda: gateway.metric("switchgear_replicas", model="alone", phase="ready") == 1)
    assert gateway.chat("alone", fake.script("ok"))[0] == 200


def test_one_hung_replica_blocks_no_other(house: tuple[Gateway, Upstreams]) -> None:
    """Everything else in the table was answered while several replicas hung; here within one model."""
    gateway, upstreams = house
    until(lambda: gateway.metric("switchgear_replicas", model="pair", phase="ready") == 2)
    tag = unique()
    with gateway.connect() as held:
        held.sendall(chat_request("pair", fake.script("hang", tag=tag)))
        until(lambda: upstreams.states(tag) == ["running"])
        assert [gateway.chat("pair", fake.script("ok"))[0] for _ in range(4)] == [200] * 4
        assert upstreams.states(tag)[0] == "running"
    until(lambda: "running" not in upstreams.states(tag))


def test_a_lone_replica_is_tried_again(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    until(lambda: gateway.metric("switchgear_replicas", model="alone", phase="ready") == 1)
    status, headers, _ = gateway.chat("alone", fake.script("500", "ok"))
    assert (status, headers["x-switchgear-attempts"], headers["x-switchgear-replica"]) == (
        200,
        "2",
        "alone-0",
    )


SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


@pytest.mark.parametrize("fault", ["fin:3", "error:3"])
@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": SCHEMA},
        {"tools": TOOLS},
        {"frequency_penalty": 0.5},
        {"structured_outputs": {"regex": "a"}},
    ],
    ids=lambda one: next(iter(one)),
)
def test_what_cannot_be_taken_up_in_the_middle(
    house: tuple[Gateway, Upstreams], fields: dict[str, Any], fault: str
) -> None:
    """Drawn at random it ends with one error event; deterministic, it is run again and compared."""
    gateway, upstreams = house
    until(lambda: gateway.metric("switchgear_replicas", model="pair", phase="ready") == 2)
    status, headers, body = gateway.chat("pair", fake.script(fault, "ok", n=N), stream=True, **fields)
    events = body.split(b"\n\n")
    assert (status, body.count(b'"error"'), b"[DONE]" in body) == (200, 1, False)
    told = json.loads(events[-2].removeprefix(b"data: "))["error"]
    assert (told["code"], "cannot be carried on" in told["message"]) == ("upstream_error", True)
    row = gateway.row(headers["x-request-id"])
    assert (row["status"], row["completion_tokens"], row["attempts"]) == ("error", 2, 1)
    tag = unique()
    prompt = fake.script(fault, "ok", n=N, tag=tag)
    status, headers, body = gateway.chat("pair", prompt, stream=True, temperature=0, **fields)
    chunks = [json.loads(one[6:]) for one in body.split(b"\n\n") if one.startswith(b"data: {")]
    text = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks if one["choices"])
    assert (text, body.endswith(b"data: [DONE]\n\n")) == (fake.text(N), True)
    assert [one["path"] for one in upstreams.seen(tag)["requests"]] == ["/v1/chat/completions"] * 2
    assert gateway.row(headers["x-request-id"])["completion_tokens"] == N


def told_last(body: bytes) -> dict[str, Any]:
    """Give the one error event that a stream ends with."""
    assert (body.count(b'data: {"error"'), b"[DONE]" in body) == (1, False)
    found: dict[str, Any] = json.loads(body.split(b"\n\n")[-2].removeprefix(b"data: "))["error"]
    return found


def test_a_second_run_that_says_something_else_is_no_way_to_go_on(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    until(lambda: gateway.metric("switchgear_replicas", model="pair", phase="ready") == 2)
    tag = unique()
    prompt = fake.script("fin:2", "ok", n=N, tag=tag, says=["alpha", "beta"])
    status, headers, body = gateway.chat("pair", prompt, stream=True, temperature=0, response_format=SCHEMA)
    assert (status, b"alpha" in body, b"beta" in body) == (200, True, False)
    assert "another one" in told_last(body)["message"]
    row = gateway.row(headers["x-request-id"])
    assert (row["status"], row["completion_tokens"]) == ("error", 1)


def test_text_without_token_ids_goes_on_only_if_it_is_deterministic(
    house: tuple[Gateway, Upstreams],
) -> None:
    """From an engine that cannot go on with a message either."""
    gateway, _ = house
    status, headers, body = gateway.chat("bare", fake.script("fin:3", "ok", n=N), stream=True)
    assert (status, "tells no token ids" in told_last(body)["message"]) == (200, True)
    assert gateway.row(headers["x-request-id"])["completion_tokens"] == 2
    status, _, body = gateway.chat("bare", fake.script("fin:3", "ok", n=N), stream=True, seed=7)
    assert [body.count(b'"w%d ' % k) for k in range(N)] == [1] * N
    assert body.endswith(b"data: [DONE]\n\n")


def test_a_stream_that_breaks_again_and_again_ends(house: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = house
    tag = unique()
    status, headers, body = gateway.chat("bare", fake.script("fin:3", tag=tag), stream=True, seed=7)
    assert (status, told_last(body)["code"]) == (200, "upstream_error")
    assert len(upstreams.states(tag)) == 4, "once, and max_attempts times again"
    assert gateway.row(headers["x-request-id"])["completion_tokens"] == 2


def test_a_stream_waits_a_little_for_a_replica_that_is_away(house: tuple[Gateway, Upstreams]) -> None:
    """Its only one refuses: where it does not return in time, the stream ends with an error."""
    gateway, upstreams = house
    port = upstreams.ports[-1]
    for returns in (True, False):
        until(lambda: gateway.metric("switchgear_replicas", model="lone", phase="ready") == 1)
        tag = unique()
        prompt = fake.script("ok", n=N, tag=tag, lockstep=True)
        with gateway.connect() as connection:
            limit = "x-switchgear-timeout-ms: " + ("60000" if returns else "2000")
            connection.sendall(chat_request("lone", prompt, limit, stream=True))
            upstreams.control(release=tag, times=2)
            said = read_until(connection, b'"w0 ')
            upstreams.control(refuse=port)
            until(lambda: gateway.metric("switchgear_replicas", model="lone", phase="ejected") == 1)
            if returns:
                upstreams.control(listen=port)
                upstreams.control(release=tag, times=20)
            said += read_until(connection, b"0\r\n\r\n")
            assert (b"data: [DONE]" in said, b'data: {"error"' in said) == (returns, not returns)
            assert [said.count(b'"w%d ' % k) for k in range(N)] == [1] * (N if returns else 1) + [0] * (
                0 if returns else N - 1
            )
    upstreams.control(listen=port)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("temperature", [0, 1])
def test_a_route_falls_back_when_its_tier_fails(
    house: tuple[Gateway, Upstreams], streamed: bool, temperature: int
) -> None:
    """Shared (temperature 0) or alone; a tier that the client chose itself is not replaced."""
    gateway, _ = house
    fields: dict[str, Any] = {"stream": streamed, "temperature": temperature}
    status, headers, body = gateway.chat("auto", fake.script("500", "ok", n=N, tag=unique()), **fields)
    assert (status, headers["x-switchgear-model"], headers["x-switchgear-reason"]) == (
        200,
        "spare",
        "fallback",
    )
    assert headers["x-switchgear-attempts"] == "2"
    assert b'"model":"spare"' in body.replace(b'": "', b'":"')
    row = gateway.row(headers["x-request-id"])
    assert (row["model"], row["status"], row["completion_tokens"]) == ("spare", "ok", N)
    chosen = {"x-switchgear-tier": "weak"}
    refused = gateway.chat("auto", fake.script("500", "ok", tag=unique()), headers=chosen, **fields)
    assert refused[0] in (502, 503), "failed, or out of routing by now"
    mistaken = gateway.chat("auto", fake.script("400", "ok", tag=unique()), **fields)
    assert mistaken[0] == 400


def test_no_route_falls_back_once_something_was_delivered(house: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = house
    for tier in ("weak", "strong"):
        until(lambda tier=tier: gateway.metric("switchgear_replicas", model=tier, phase="ready") == 1)  # type: ignore[misc]  # a default
    tag = unique()
    with gateway.connect() as connection:
        prompt = fake.script("fin:2", "ok", tag=tag, n=N, lockstep=True)
        connection.sendall(chat_request("auto", prompt, stream=True))
        upstreams.control(release=tag, times=2)
        said = read_until(connection, b'"w0 ')
        upstreams.control(release=tag, times=40)
        said += read_until(connection, b"0\r\n\r\n")
    assert (said.count(b'data: {"error"'), b"[DONE]" in said) == (1, False)
    assert [said.count(b'"w%d ' % k) for k in range(N)] == [1, *[0] * (N - 1)]
    assert len(upstreams.seen(tag)["requests"]) == 1


def test_a_clients_own_deadline_blames_no_replica(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    until(lambda: gateway.metric("switchgear_replicas", model="alone", phase="ready") == 1)
    headers = {"x-switchgear-timeout-ms": "50"}
    for _ in range(4):
        status, _, body = gateway.chat("alone", fake.script("hang"), headers=headers)
        assert (status, json.loads(body)["error"]["code"]) == (504, "upstream_timeout")
    assert gateway.metric("switchgear_replicas", model="alone", phase="ready") == 1
    assert gateway.chat("alone", fake.script("ok"))[0] == 200
