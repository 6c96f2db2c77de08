"""Streams of real vLLM, cut at every place: two replicas of the small model, behind lines that break."""

import asyncio
import http.client
import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.appliance import Appliance, fetch
from tests.fakes.processes import until
from tests.integration.gateway import Gateway, config, model

pytestmark = pytest.mark.soak

CUTS = 36
CONFIG = """
[server]
port = 0
state_dir = "{home}/state"
[database]
url = "sqlite:///{home}/switchgear.db"
[[models]]
name = "small"
context_tokens = 2048
[models.launch]
weights = "{weights}"
min_replicas = 2
kv_cache_bytes = 1073741824
drain_timeout_s = 1
shutdown_timeout_s = 1
[cache]
exact_ttl_s = 0
"""
PROMPTS = (
    "Tell me a story about a river.",
    "Write ten emojis of animals, then ten of food, nothing else.",
    "把这句话翻译成中文并解释: The weather is nice today.",
    "日本語で自己紹介をしてください。",
    "Count from one to thirty in words.",
    "Écris une recette de crêpes, avec des accents.",
)
RIVER = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "story": {"type": "string"}},
    "required": ["name", "story"],
}


class Line:
    """A TCP line to a replica; of the lines together one breaks, once, after so many events of a stream."""

    def __init__(self, port: int) -> None:
        self.target, self.cut_after, self.cuts, self.events = port, 0, 0, 0
        self.all: list[Line] = [self]
        self.loop = asyncio.new_event_loop()
        self.open: set[asyncio.StreamWriter] = set()
        self.server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self.server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def arm(self, cut_after: int) -> None:
        """Count the events of the next stream from nothing, and break after so many; 0: do not."""
        self.cut_after, self.cuts, self.events = cut_after, 0, 0

    def close(self) -> None:
        async def end() -> None:
            self.server.close()
            for writer in self.open:
                writer.transport.abort()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far, out = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self.open |= {writer, out}
        there = asyncio.create_task(self._copy(reader, out, watched=False))
        try:
            await self._copy(far, writer, watched=True)
        finally:
            out.transport.abort()
            writer.close()  # what was written before the break arrives
            there.cancel()
            self.open -= {writer, out}

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, watched: bool
    ) -> None:
        try:
            while data := await reader.read(65536):
                if watched:
                    self.events += data.count(b"data: ")
                writer.write(data)
                await writer.drain()
                if watched and self.cut_after and self.events >= self.cut_after:
                    self.cuts += 1
                    for one in self.all:
                        one.cut_after = 0
                    return
        except OSError:
            pass


class Pair:
    """Two replicas, a line to each, a gateway behind both lines."""

    def __init__(self, home: Path, directory: Path, weights: Path) -> None:
        own = home / "switchgear.toml"
        own.write_text(CONFIG.format(home=home, weights=weights))
        self.appliance = Appliance(home, directory, "--config", str(own))

    def start(self, directory: Path) -> None:
        self.appliance.started()
        self.lines = [Line(port) for port in self.ports()]
        for line in self.lines:
            line.all = self.lines
        directory.mkdir()
        models = model("small", [one.port for one in self.lines], upstream_model="small", stall_timeout_s=5.0)
        self.gateway = Gateway(directory, config(models, directory=directory))
        until(self.gateway.ready)

    def ports(self) -> list[int]:
        return [urlsplit(self.appliance.direct(f"small-{n}")).port or 0 for n in range(2)]

    def mended(self) -> bool:
        """Tell whether both replicas serve, after whatever has befallen them."""
        for line, port in zip(self.lines, self.ports(), strict=True):
            line.target = port
        return self.gateway.metric("switchgear_replicas", phase="ready") == 2

    def stream(self, prompt: str, cut_after: int = 0, *, text: bool = False, **fields: Any) -> "Told":
        """Ask for a stream that breaks once; 0: that does not break. ``text``: a text completion."""
        for line in self.lines:
            line.arm(cut_after)
        asked = {"prompt": prompt} if text else {"messages": [{"role": "user", "content": prompt}]}
        asked |= {"model": "small", "stream": True, "stream_options": {"include_usage": True}, **fields}
        path = "/v1/completions" if text else "/v1/chat/completions"
        status, headers, body = self.gateway.call("POST", path, json.dumps(asked).encode())
        assert status == 200, body
        return Told(body, headers["x-request-id"], sum(line.cuts for line in self.lines))

    def decode(self, ids: list[int]) -> str:
        """Read tokens, on a replica that lives."""
        for port in self.ports():
            with suppress(OSError):
                found = fetch(f"http://127.0.0.1:{port}/detokenize", {"model": "small", "tokens": ids})
                return str(found.json["prompt"])
        raise AssertionError("no replica lives")


def _said(choice: dict[str, Any]) -> str:
    return str(choice.get("delta", choice).get("content") or choice.get("text") or "")


class Told:
    """What a client got of a stream."""

    def __init__(self, body: bytes, request_id: str, cuts: int) -> None:
        self.request_id, self.cuts = request_id, cuts
        events = [one[6:] for one in body.decode().split("\n\n") if one.startswith("data: ")]
        self.done = events[-1] == "[DONE]"
        chunks = [json.loads(one) for one in events if one != "[DONE]"]
        self.error = next((one["error"] for one in chunks if one.get("error")), None)
        choices = [choice for one in chunks for choice in one.get("choices") or []]
        self.choices = choices
        self.text = "".join(_said(one) for one in choices)
        self.ids = [id_ for one in choices for id_ in one.get("token_ids") or []]
        self.reasons = [one["finish_reason"] for one in choices if one["finish_reason"]]
        self.usage = next((one["usage"] for one in chunks if one.get("usage")), None)
        self.names = {one["id"] for one in chunks if "id" in one}


@pytest.fixture(scope="module")
def pair(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    home, directory = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("pair")
    made = Pair(home, directory, demo_home / "models" / "small")
    try:
        made.start(tmp_path_factory.mktemp("front") / "gateway")
        yield made
        made.gateway.stop()
        for line in made.lines:
            line.close()
    finally:
        made.appliance.destroy()


def check_whole(pair: Pair, told: Told, most_tokens: int) -> None:
    """One stream, one end, one bill of as many tokens as were told."""
    assert told.error is None
    assert told.done
    assert len(told.names) == 1
    assert len(told.reasons) == 1
    assert told.usage is not None
    tokens = told.usage["completion_tokens"]
    assert tokens <= most_tokens
    assert (told.reasons == ["length"]) == (tokens == most_tokens) or told.reasons == ["stop"]
    row = pair.gateway.row(told.request_id)
    assert (row["status"], row["completion_tokens"]) == ("ok", tokens)
    assert row["prompt_tokens"] == told.usage["prompt_tokens"]
    assert not row["estimated"]


def check_words(pair: Pair, told: Told) -> None:
    """Every token once: what came reads as all its ids do, whole characters only."""
    assert told.usage is not None
    assert len(told.ids) == told.usage["completion_tokens"]
    assert pair.decode(told.ids).removesuffix("<|im_end|>").rstrip("\ufffd") == told.text.rstrip("\ufffd")


def test_a_cut_stream_goes_on_from_the_tokens_that_were_delivered(pair: Pair) -> None:
    draw, same, cuts = random.Random(1), 0, 0
    for number in range(CUTS):
        prompt = PROMPTS[number % len(PROMPTS)]
        fields: dict[str, Any] = {"max_tokens": 40, "temperature": 0}
        if number % 3 != 0:
            fields["return_token_ids"] = True
        if number % 4 == 3:
            fields["stop"] = ["\n\n", "ten", "的"]
        whole = pair.stream(prompt, **fields)
        told = pair.stream(prompt, cut_after=draw.randrange(2, 36), **fields)
        check_whole(pair, told, 40)
        assert told.usage is not None
        assert whole.usage is not None
        assert told.usage["prompt_tokens"] == whole.usage["prompt_tokens"]
        if told.ids and "stop" not in fields:
            check_words(pair, told)
        assert not any(word in told.text for word in fields.get("stop", ()))
        assert "<|im_start|>" not in told.text
        cuts += told.cuts
        same += told.cuts > 0 and told.text == whole.text
    print(f"{cuts} streams were cut; {same} of them gave the text of the uninterrupted run")
    assert cuts > CUTS / 2


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("logprobs", {"temperature": 0, "logprobs": True, "top_logprobs": 2}),
    ("text", {"text": True, "temperature": 0, "logprobs": 1, "min_tokens": 30}),
    ("choices", {"n": 2, "seed": 5, "temperature": 0.8}),
    ("seeded", {"seed": 7, "temperature": 1.0, "logprobs": True}),
    ("hot", {"temperature": 1.0, "min_tokens": 30}),
]


@pytest.mark.parametrize("fields", [one for _, one in KINDS], ids=[name for name, _ in KINDS])
@pytest.mark.parametrize("cut_after", [4, 21])
def test_each_kind_of_text_goes_on_whole(pair: Pair, fields: dict[str, Any], cut_after: int) -> None:
    """By choice: every token once, as many log-probabilities as tokens, one end, one usage of all."""
    prompt = "Once upon a time, by a river," if "text" in fields else PROMPTS[0]
    told = pair.stream(prompt, cut_after, max_tokens=30, return_token_ids=True, **fields)
    assert (told.error, told.done, told.cuts, len(told.names)) == (None, True, 1, 1)
    ids: list[int] = []
    for index in range(fields.get("n", 1)):
        own = [one for one in told.choices if one["index"] == index]
        mine = [id_ for one in own for id_ in one.get("token_ids") or []]
        said = "".join(_said(one) for one in own)
        assert pair.decode(mine).removesuffix("<|im_end|>").rstrip("\ufffd") == said.rstrip("\ufffd")
        assert [one["finish_reason"] for one in own if one["finish_reason"]] in (["length"], ["stop"])
        if "logprobs" in fields:
            marks = [one["logprobs"] for one in own if one.get("logprobs")]
            scores = sum(len(one.get("content") or one.get("tokens")) for one in marks)
            assert scores == len(mine)
        ids += mine
    assert told.usage is not None
    assert told.usage["completion_tokens"] == len(ids)
    row = pair.gateway.row(told.request_id)
    assert (row["status"], row["completion_tokens"], row["attempts"] >= 2) == ("ok", len(ids), True)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": RIVER}}},
        {"frequency_penalty": 0.5},
    ],
    ids=("schema", "penalty"),
)
def test_what_is_run_again_is_the_same_or_ends_with_one_error(pair: Pair, fields: dict[str, Any]) -> None:
    told = pair.stream(PROMPTS[0], 14, max_tokens=40, temperature=0, **fields)
    assert (told.cuts, len(told.names)) == (1, 1)
    row = pair.gateway.row(told.request_id)
    if told.error is None:
        assert (told.done, len(told.reasons), row["status"]) == (True, 1, "ok")
        assert told.usage is not None
        assert row["completion_tokens"] == told.usage["completion_tokens"]
    else:
        assert (told.done, row["status"]) == (False, "error")
        assert "another one" in told.error["message"]
    hot = pair.stream(PROMPTS[0], 14, max_tokens=40, temperature=1, **fields)
    assert (hot.done, hot.cuts) == (False, 1)
    assert hot.error is not None
    assert "cannot be carried on" in hot.error["message"]


def processes_of(port: int) -> dict[str, list[int]]:
    """Give a server's processes: the one that has its API, those of its engine, all of them."""
    command, parent = {}, {}
    for one in Path("/proc").glob("[0-9]*"):
        try:
            command[int(one.name)] = (one / "cmdline").read_bytes()
            parent[int(one.name)] = int((one / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
    named = [pid for pid, words in command.items() if f"--port\0{port}\0".encode() in words]
    (api,) = [pid for pid in named if parent[pid] in named]  # the other one is its warden
    engine = [pid for pid in parent if parent[pid] == api and b"resource_tracker" not in command[pid]]
    assert engine
    return {"api": [api], "engine": engine, "group": [api, *engine]}


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("engine", signal.SIGSTOP),
        ("group", signal.SIGSTOP),
        ("api", signal.SIGKILL),
        ("engine", signal.SIGKILL),
        ("group", signal.SIGKILL),
    ],
)
def test_a_server_that_stops_or_dies_in_mid_stream_loses_no_word(
    pair: Pair, what: str, how: signal.Signals
) -> None:
    """The server of whichever replica answers; it is the appliance's to start again."""
    until(pair.mended, 300.0)
    fields: dict[str, Any] = {
        "max_tokens": 120,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    for line in pair.lines:
        line.arm(0)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(pair.stream, PROMPTS[0], **fields)
        until(lambda: max(line.events for line in pair.lines) > 8, 60.0)
        serving = max(pair.lines, key=lambda line: line.events)
        pids = processes_of(serving.target)[what]
        for pid in pids:
            os.kill(pid, how)
        try:
            told = running.result(120)
        finally:
            for pid in pids if how is signal.SIGSTOP else ():
                os.kill(pid, signal.SIGCONT)
    check_whole(pair, told, 120)
    check_words(pair, told)
    assert len(told.ids) == 120
    assert pair.gateway.row(told.request_id)["attempts"] >= 2


def test_a_replica_that_is_taken_away_hands_its_stream_on(pair: Pair) -> None:
    """The last one here: its substitute has another name."""
    until(pair.mended, 300.0)
    asked = {"model": "small", "messages": [{"role": "user", "content": PROMPTS[0]}], "max_tokens": 300}
    asked |= {"ignore_eos": True, "temperature": 0, "return_token_ids": True, "stream": True}
    asked |= {"stream_options": {"include_usage": True}}
    where = urlsplit(pair.appliance.base_url)
    with closing(http.client.HTTPConnection(where.hostname or "", where.port, timeout=120)) as connection:
        headers = {"authorization": f"Bearer {pair.appliance.api_key}"}
        connection.request("POST", f"{where.path}/chat/completions", json.dumps(asked), headers)
        reply = connection.getresponse()
        url = f"{pair.appliance.root}/admin/v1/replicas/{reply.getheader('x-switchgear-replica')}/reclaim"
        admin = {"authorization": f"Bearer {pair.appliance.admin_key}"}
        assert fetch(url, {"notice_s": 1}, admin).status == 200
        told = Told(reply.read(), reply.getheader("x-request-id") or "", 1)
    assert (told.error, told.done, told.reasons, len(told.names)) == (None, True, ["length"], 1)
    assert len(told.ids) == 300
    check_words(pair, told)
    row = pair.appliance.row(told.request_id)
    assert (row["status"], row["attempts"], row["completion_tokens"]) == ("ok", 2, 300)
