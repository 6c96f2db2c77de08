"""Nothing is computed twice at once: held against the request and token counters of the real vLLM."""

import http.client
import json
import re
import secrets
from collections import Counter
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.appliance import Appliance, Reply, fetch
from tests.contract.cases import CHAT
from tests.fakes.crowd import Got, content, crowd
from tests.fakes.processes import until

pytestmark = pytest.mark.soak

AT_ONCE = 40
ANSWER_TOKENS = 64


def ask(stream: bool, **fields: Any) -> dict[str, Any]:
    words = f"{secrets.token_hex(4)}: tell a story about a river."
    messages = [{"role": "user", "content": words}]
    told = {"max_tokens": ANSWER_TOKENS, "ignore_eos": True, "stream": stream}
    return {"model": "small", "messages": messages, **told, **fields}


def engine(appliance: Appliance) -> Counter[str]:
    """What the small model's engine has done: requests that ended, tokens read and written."""
    text = fetch(appliance.direct("small-0").removesuffix("/v1") + "/metrics", method="GET").body.decode()
    found: Counter[str] = Counter()
    for name in ("request_success", "prompt_tokens", "generation_tokens"):
        counts = re.findall(rf"^vllm:{name}_total\{{.*\}} (\S+)$", text, re.MULTILINE)
        assert counts
        found[name] = int(sum(map(float, counts)))
    return found


def grown(appliance: Appliance, before: Counter[str], requests: int) -> Counter[str]:
    """Wait until so many requests have ended in the engine; gives what was added."""
    until(lambda: engine(appliance)["request_success"] >= before["request_success"] + requests, 60.0)
    return engine(appliance) - before


def raw(appliance: Appliance, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    lines = [
        f"POST /v1{CHAT} HTTP/1.1", "host: x", f"authorization: Bearer {appliance.api_key}",
        "connection: close", f"content-length: {len(data)}", "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + data


def rows(appliance: Appliance, found: list[Got]) -> list[dict[str, Any]]:
    wanted, rows = {got.headers["x-request-id"] for got in found}, {}

    def there() -> bool:
        rows.update({name: row for name, row in appliance.ledger().items() if name in wanted})
        return len(rows) == len(wanted)

    until(there, 60.0)
    return list(rows.values())


def test_equal_requests_at_once_are_one_request_of_the_engine(appliance: Appliance) -> None:
    """Half of them streamed, and one that differs in a parameter."""
    port = urlsplit(appliance.base_url).port
    assert port is not None
    buffered, before = ask(False, temperature=0), engine(appliance)
    streamed = {**buffered, "stream": True}
    asked = [raw(appliance, body) for body in (streamed, buffered) * (AT_ONCE // 2)]
    found = crowd(port, [*asked, raw(appliance, {**buffered, "max_tokens": ANSWER_TOKENS // 2})])
    assert {got.status for got in found} == {200}
    added = grown(appliance, before, 2)
    equal, other = found[:-1], found[-1]
    assert (added["request_success"], added["generation_tokens"]) == (2, ANSWER_TOKENS * 3 // 2)
    assert len({got.body for got in equal[0::2]}) == len({got.body for got in equal[1::2]}) == 1
    (text,) = {content(got) for got in equal}
    assert text
    assert text.startswith(content(other).rstrip("\ufffd"))
    assert Counter(got.headers["x-switchgear-cache"] == "joined" for got in equal)[True] == AT_ONCE - 1
    told = rows(appliance, equal)
    (full,) = [row for row in told if row["source"] == "upstream"]
    joined = [row for row in told if row["source"] == "joined"]
    assert (len(joined), full["amount_nanousd"] > 0) == (AT_ONCE - 1, True)
    assert {row["completion_tokens"] for row in told} == {ANSWER_TOKENS}
    assert {row["amount_nanousd"] for row in joined} == {round(full["amount_nanousd"] / 10)}
    print(
        f"{len(found)} requests: {dict(added)}; paid {full['amount_nanousd']}, "
        f"joined {joined[0]['amount_nanousd']} nano-USD"
    )


@pytest.mark.parametrize("stream", [False, True])
def test_an_idempotency_key_is_one_request_of_the_engine(appliance: Appliance, stream: bool) -> None:
    before, key = engine(appliance), {"idempotency-key": secrets.token_hex(8)}
    body = ask(stream, temperature=1)
    first, again = (appliance.post(CHAT, body, key) for _ in range(2))
    assert (first.status, first.body) == (200, again.body)
    assert again.headers["x-switchgear-replayed"] == "true"
    assert appliance.post(CHAT, {**body, "max_tokens": 3}, key).json["error"]["code"] == (
        "idempotency_conflict"
    )
    assert grown(appliance, before, 1)["request_success"] == 1


def events(text: str) -> list[tuple[int, str]]:
    return [(int(number), data) for number, data in re.findall(r"id: (\d+)\ndata: (.*)\n\n", text)]


def begun(appliance: Appliance, body: dict[str, Any], size: int) -> tuple[str, list[tuple[int, str]]]:
    """Read so many events of a resumable stream, then drop the connection; gives the stream's id too."""
    parts = urlsplit(appliance.base_url)
    headers = {"authorization": f"Bearer {appliance.api_key}", "x-switchgear-resumable": "true"}
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)) as connection:
        connection.request("POST", parts.path + CHAT, json.dumps(body), headers)
        with connection.getresponse() as reply:
            text = ""
            while len(events(text)) < size:
                line = reply.readline()
                assert line, text
                text += line.decode()
            return str(reply.headers["x-switchgear-stream-id"]), events(text)


def resumed(appliance: Appliance, stream_id: str, last: int) -> Reply:
    headers = {"authorization": f"Bearer {appliance.api_key}", "last-event-id": str(last)}
    return fetch(f"{appliance.base_url}/streams/{stream_id}", headers=headers, method="GET")


def test_a_dropped_stream_goes_on_where_it_was(appliance: Appliance) -> None:
    before = engine(appliance)
    stream_id, had = begun(appliance, ask(True, temperature=1, stream_options={"include_usage": True}), 7)
    reply = resumed(appliance, stream_id, had[-1][0])
    assert reply.status == 200
    seen = had + events(reply.body.decode())
    assert [number for number, _ in seen] == list(range(seen[0][0], seen[0][0] + len(seen)))
    assert seen[-1][1] == "[DONE]"
    assert json.loads(seen[-2][1])["usage"]["completion_tokens"] == ANSWER_TOKENS
    assert events(resumed(appliance, stream_id, 0).body.decode()) == seen, "from the beginning, after the end"
    assert appliance.row(stream_id)["completion_tokens"] == ANSWER_TOKENS
    assert dict(grown(appliance, before, 1))["request_success"] == 1
