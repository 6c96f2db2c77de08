"""A scripted inference server with every fault that the gateway must bear, as a real process.

``python -m tests.fakes.upstream --ports N`` listens on N ports, each one a replica, and on a control port; it
prints ``{"control": port, "ports": [...]}``. What a request gets is said inside its prompt, by ``script``:
attempt number k of one ``x-request-id`` gets fault number k of the plan, the last one again and again. A
request without a script gets the default one, or one drawn by weight and seed (``POST /control``).

A port may have a mood (``POST /control {"mood": {"port": N, "fault": F}}``): a fault that counts before any
plan, until it is an empty one.

Faults (``:k`` counts events, from the start of the stream): ok, hang, hang-head, 400, 401, 404, 429,
429-after, 500, 503-after, fin:k, rst:k, stall:k, early-end:k (of a well-formed body), early-done:k, comments,
malformed:k, error:k, no-usage, usage-in-choices, usage-null, usage-odd, no-done, done-fin, done-hang,
byte-by-byte, drip, late, at-once, huge, short-body, long-body, garbage, continue, early-hints, close, http10,
idle-close, mute-close.

Token k of every answer is word k, and its id is 100 + k: so a completion whose prompt holds such ids, or a
chat whose last message is the beginning of an answer, goes on where that ends. ``/tokenize`` and
``/detokenize`` answer like vLLM's, unless ``{"ids": false}`` was posted to ``/control``. ``GET /seen?tag=T``
tells what came with tag T, until ``{"forget": true}``.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

PROMPT_TOKENS = 7
CACHED_TOKENS = 3
HUGE_BYTES = 1_500_000
DRIP_S = 0.3
LATE_S = 0.5
_MARK = re.compile(r"@@(\{.*?\})@@")
RESET = struct.pack("ii", 1, 0)


def script(*plan: str, **options: Any) -> str:
    """Give a prompt with a script; options: tag, n (tokens), gap_s, size (bytes a token), lockstep.

    ``says`` and ``logprobs`` are the text, and the mean log-probability, of answer number k; ``about`` gives
    the text of an answer by a part of the request; ``refusal`` is said instead of one; ``width`` is an
    embedding's.
    """
    return "say @@" + json.dumps({"plan": plan or ("ok",), **options}) + "@@"


def text(n: int, size: int = 0) -> str:
    """Give the text that a whole answer of n tokens has."""
    return "".join(_word(k, size) for k in range(n))


def _word(k: int, size: int) -> str:
    return f"w{k} ".ljust(size, "x")


class Reader(asyncio.StreamReader):
    """A reader that tells when its client has left, without reading."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.gone.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.gone.set()


class Seen:
    """One request as it came, and what became of it."""

    def __init__(self, port: int, path: str, headers: dict[str, str], body: Any) -> None:
        self.port, self.path, self.headers, self.body = port, path, headers, body
        self.script = _script_of(body)
        self.sent_bytes = 0
        self.state = "running"

    def shown(self) -> dict[str, Any]:
        names = ("port", "path", "headers", "body", "sent_bytes", "state")
        shown = {name: getattr(self, name) for name in names}
        return shown | {"fault": self.script.get("fault"), "tag": self.script.get("tag")}


def _script_of(body: Any) -> dict[str, Any]:
    found = _MARK.search(json.dumps(body).replace('\\"', '"'))
    read: dict[str, Any] = json.loads(found.group(1)) if found else {}
    return read


class Upstream:
    """The state behind all ports."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.attempts: dict[str, int] = {}
        self.scripts: dict[str, dict[str, Any]] = {}  # by request id, for attempts whose prompt is token ids
        self.ids = True
        self.gates: dict[str, asyncio.Semaphore] = {}
        self.servers: dict[int, asyncio.Server] = {}
        self.open: dict[int, set[asyncio.StreamWriter]] = {}
        self.default: dict[str, Any] = {}
        self.metrics = ""
        self.mix: list[tuple[str, float]] = []
        self.draw = random.Random(0)
        self.moods: dict[int, str] = {}

    async def listen(self, port: int = 0) -> int:
        """Open a port; gives its number."""
        loop = asyncio.get_running_loop()
        made = await loop.create_server(self._protocol, "127.0.0.1", port, reuse_address=True)
        number: int = made.sockets[0].getsockname()[1]
        self.servers[number] = made
        self.open.setdefault(number, set())
        return number

    def refuse(self, port: int) -> None:
        """Close a port and all its connections."""
        self.servers.pop(port).close()
        for writer in list(self.open[port]):
            writer.transport.abort()

    async def control(self, wish: dict[str, Any]) -> None:
        """Obey a ``POST /control``."""
        if "release" in wish:
            for _ in range(wish.get("times", 1)):
                self.gate(wish["release"]).release()
        if "refuse" in wish:
            self.refuse(wish["refuse"])
        if "listen" in wish:
            await self.listen(wish["listen"])
        if "close_idle" in wish:
            for writer in list(self.open[wish["close_idle"]]):
                writer.close()
        if "forget" in wish:
            self.seen = [one for one in self.seen if one.state == "running"]
            self.attempts.clear()
            self.scripts.clear()
        if "mood" in wish:
            self.moods[wish["mood"]["port"]] = wish["mood"]["fault"]
        self.default = wish.get("default", self.default)
        self.ids = wish.get("ids", self.ids)
        self.metrics = wish.get("metrics", self.metrics)
        if "mix" in wish:
            self.mix = [(fault, weight) for fault, weight in wish["mix"]]
            self.draw = random.Random(wish.get("seed", 0))

    def gate(self, tag: str) -> asyncio.Semaphore:
        return self.gates.setdefault(tag, asyncio.Semaphore(0))

    def report(self, tag: str | None) -> dict[str, Any]:
        """Give the answer to ``GET /seen``."""
        found = [one for one in self.seen if tag is None or one.script.get("tag") == tag]
        states = [one.state for one in self.seen]
        return {
            "requests": [one.shown() for one in found],
            "running": states.count("running"),
            "aborted": states.count("aborted"),
            "total": len(self.seen),
            "connections": {port: len(writers) for port, writers in self.open.items()},
        }

    def choose(self, seen: Seen) -> str:
        """Give the fault of this attempt and note it in the request's script."""
        key = seen.headers.get("x-request-id", str(len(self.seen)))
        seen.script = self.scripts.setdefault(key, seen.script)
        number = self.attempts.get(key, 0)
        self.attempts[key] = number + 1
        options = {**self.default, **seen.script}
        plan = options.get("plan") or ["ok"]
        if self.mix and not seen.script:
            faults, weights = zip(*self.mix, strict=True)
            plan = self.draw.choices(faults, weights)
        fault = self.moods.get(seen.port) or str(plan[min(number, len(plan) - 1)])
        said, told = options.get("says"), options.get("logprobs")
        asked = json.dumps(seen.body)
        said = said or [answer for part, answer in options.get("about", {}).items() if part in asked][:1]
        seen.script = {
            **options,
            "fault": fault,
            "said": said[min(number, len(said) - 1)] if said else None,
            "logprob": told[min(number, len(told) - 1)] if told and seen.body.get("logprobs") else None,
        }
        return fault

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = Reader()
        return asyncio.StreamReaderProtocol(reader, lambda _, writer: self._connection(reader, writer))

    async def _connection(self, reader: Reader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        self.open.setdefault(port, set()).add(writer)
        try:
            while await self._request(port, reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open[port].discard(writer)
            writer.close()

    async def _request(self, port: int, reader: Reader, writer: asyncio.StreamWriter) -> bool:
        """Take one request and answer it; tells whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.rstrip("\r\n").split("\r\n")
        method, target, _ = line.split(" ", 2)
        headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in rest)}
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        path = urlsplit(target).path
        if method == "GET" or path == "/control":
            await self._plain(path, target, raw, writer)
            return True
        if path in ("/tokenize", "/detokenize"):
            script = self.scripts.get(headers.get("x-request-id", ""), {})
            status, told = self.spelt(path, json.loads(raw), script)
            writer.write(_whole(status, json.dumps(told).encode()))
            await writer.drain()
            return True
        seen = Seen(port, path, headers, json.loads(raw))
        fault = self.choose(seen)
        self.seen.append(seen)
        answer = asyncio.create_task(Answer(self, seen, fault).run(writer))
        gone = asyncio.create_task(reader.gone.wait())
        await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
        left = not answer.done()
        for task in (answer, gone):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await task
        broken = left or answer.exception() is not None
        seen.state = "aborted" if broken else "done"
        return not broken and answer.result()

    def spelt(self, path: str, body: dict[str, Any], script: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Give what ``/tokenize`` and ``/detokenize`` say."""
        if not self.ids:
            return 404, {}
        if path == "/tokenize":
            return 200, {"tokens": [], "max_model_len": 2048}
        size = int(script.get("size", 0))
        words = [_word(id_ - 100, size) if id_ >= 100 else f"p{id_} " for id_ in body["tokens"]]
        return 200, {"prompt": "".join(words)}

    async def _plain(self, path: str, target: str, raw: bytes, writer: asyncio.StreamWriter) -> None:
        body: dict[str, Any] = {}
        if path == "/metrics" and self.metrics:
            writer.write(_whole(200, self.metrics.encode()))
            await writer.drain()
            return
        if path == "/control":
            await self.control(json.loads(raw))
        elif path == "/seen":
            tags = parse_qs(urlsplit(target).query).get("tag")
            body = self.report(tags[0] if tags else None)
        writer.write(
            _whole(200 if path in ("/control", "/seen", "/health") else 404, json.dumps(body).encode())
        )
        await writer.drain()


class Answer:
    """The answer to one request."""

    writer: asyncio.StreamWriter

    def __init__(self, upstream: Upstream, seen: Seen, fault: str) -> None:
        self.upstream, self.seen = upstream, seen
        self.fault, _, count = fault.partition(":")
        self.count = int(count or 0)
        body, options = seen.body, seen.script
        self.n, self.size = int(options.get("n", 5)), int(options.get("size", 0))
        self.said, self.logprob = options.get("said"), options.get("logprob")
        self.tag = str(options.get("tag", ""))
        self.chat = seen.path.endswith("/chat/completions")
        self.streamed = bool(body.get("stream"))
        self.ids = bool(body.get("return_token_ids"))
        self.usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self.base = {"id": "chatcmpl-1", "created": 1, "model": body["model"]}
        self.start, self.prompt_tokens = _begun(body)
        self.end, self.reason = self.n, "stop"
        most = body.get("max_tokens")
        if most is not None and self.start + most < self.n:
            self.end, self.reason = self.start + most, "length"

    async def run(self, writer: asyncio.StreamWriter) -> bool:
        """Answer; tells whether the connection can go on."""
        self.writer = writer
        if self.fault == "late":
            await asyncio.sleep(LATE_S)
        if self.fault in ("hang", "mute-close"):
            if self.fault == "hang":
                await asyncio.Event().wait()
            return False
        if self.fault[:3].isdigit():
            await self._write(self._refusal(int(self.fault[:3])))
            return True
        if self.fault == "continue":
            await self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.fault == "early-hints":
            await self._write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
        return await (self._stream() if self.streamed else self._buffered())

    # Streamed
    async def _stream(self) -> bool:
        length_unknown = self.fault in ("close", "http10")
        chunked = not length_unknown
        version = "1.0" if self.fault == "http10" else "1.1"
        framing = "transfer-encoding: chunked" if chunked else "connection: close"
        head = f"HTTP/{version} 200 OK\r\ncontent-type: text/event-stream\r\n{framing}\r\n\r\n".encode()
        await self._write(head)
        if self.fault == "hang-head":
            await asyncio.Event().wait()
        sent = 0
        async for event in self._paced():
            if self.fault in ("fin", "rst", "stall") and sent == self.count:
                return await self._break()
            await self._send_event(event, chunked)
            sent += 1
        if self.fault == "done-hang":
            await asyncio.Event().wait()
        if chunked and self.fault != "done-fin":
            await self._write(b"0\r\n\r\n")
        return self.fault not in ("close", "http10", "idle-close", "done-fin")

    async def _paced(self) -> AsyncIterator[bytes]:
        while self.fault == "comments":
            yield b": ping\n\n"
            await asyncio.sleep(0.05)
        if self.fault == "garbage":
            await self._write(b"zz\r\nnot a chunk\r\n")
        events = list(self.events())
        for event in [b"".join(events)] if self.fault == "at-once" else events:
            if self.seen.script.get("lockstep"):
                await self.upstream.gate(self.tag).acquire()
            yield event
            await asyncio.sleep(DRIP_S if self.fault == "drip" else self.seen.script.get("gap_s", 0.0))

    async def _send_event(self, event: bytes, chunked: bool) -> None:
        data = b"%x\r\n%s\r\n" % (len(event), event) if chunked else event
        if self.fault != "byte-by-byte":
            await self._write(data)
            return
        for one in event:
            await self._write(b"1\r\n%c\r\n" % one)
            await asyncio.sleep(0)

    async def _break(self) -> bool:
        if self.fault == "stall":
            await asyncio.Event().wait()
        if self.fault == "rst":
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.writer.transport.abort()
        return False

    def events(self) -> Iterator[bytes]:
        """Give the events of the stream, faults of content included."""
        for number, event in enumerate(self._good_events()):
            if self.fault == "malformed" and number == self.count:
                yield b'data: {"id": nope\n\n'
            if self.fault == "error" and number == self.count:
                error = {"message": "engine died", "type": "InternalServerError", "code": 500}
                yield _event({"error": error})
            if self.fault in ("error", "early-done") and number == self.count:
                yield b"data: [DONE]\n\n"
                return
            if self.fault == "early-end" and number == self.count:
                return
            yield event

    def _good_events(self) -> Iterator[bytes]:
        null = {"usage": None} if self.fault == "usage-null" else {}
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        base = {**self.base, "object": kind, **null}
        first = {"prompt_token_ids": list(range(self.prompt_tokens))} if self.ids else {}
        if self.chat:
            yield _event(
                {**base, "choices": [self._choice({"role": "assistant", "content": ""}, None)], **first}
            )
        for k in range(self.start, self.end):
            size = HUGE_BYTES if self.fault == "huge" and k == 1 else self.size
            ids = {"token_ids": [100 + k]} if self.ids else {}
            word = _word(k, size) if self.said is None else self.said if k == 0 else " "
            begun = first if k == self.start and not self.chat else {}
            piece = self._choice({"content": word}, None) | ids | begun | self._surety()
            yield _event({**base, "choices": [piece]})
        usage: dict[str, Any] = {"usage": self._usage()}
        together = self.fault == "usage-in-choices"
        end = {**base, "choices": [self._choice({}, self.reason)], **(usage if together else {})}
        yield _event(end)
        if self.usage and self.fault not in ("no-usage", "usage-in-choices"):
            yield _event({**base, "choices": [], **usage})
        if self.fault != "no-done":
            yield b"data: [DONE]\n\n"

    def _choice(self, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
        if not self.chat:
            return {"index": 0, "text": delta.get("content", ""), "logprobs": None, "finish_reason": finish}
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}

    def _surety(self) -> dict[str, Any]:
        if self.logprob is None:
            return {}
        return {"logprobs": {"content": [{"token": "w", "logprob": self.logprob, "top_logprobs": []}]}}

    def _usage(self) -> dict[str, Any]:
        if self.fault == "usage-odd":
            return {"prompt_tokens": "many", "completion_tokens": -3.5, "prompt_tokens_details": [7]}
        details = {"prompt_tokens_details": {"cached_tokens": CACHED_TOKENS}}
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.end - self.start,
            "total_tokens": self.prompt_tokens + self.end - self.start,
            **details,
        }

    # Buffered
    async def _buffered(self) -> bool:
        if self.seen.script.get("lockstep"):
            await self.upstream.gate(self.tag).acquire()
        await asyncio.sleep(DRIP_S if self.fault == "drip" else self.seen.script.get("gap_s", 0.0))
        body = json.dumps(self.answer()).encode()
        if self.fault == "malformed":
            body = body[:-10]
        length = len(body) + {"short-body": 10, "long-body": -10}.get(self.fault, 0)
        head = (
            f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n".encode()
        )
        if self.fault == "close":
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
        if self.fault == "http10":
            head = b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n"
        if self.fault == "garbage":
            head, body = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"zz\r\nnot a chunk\r\n"
        await self._write(head)
        if self.fault in ("hang-head", "comments"):
            await asyncio.Event().wait()
        if self.fault in ("fin", "rst", "stall"):
            await self._write(body[: len(body) // 2])
            return await self._break()
        for start in range(0, len(body), 1 if self.fault == "byte-by-byte" else len(body)):
            await self._write(body[start:][: 1 if self.fault == "byte-by-byte" else None])
        return self.fault not in ("close", "http10", "idle-close", "short-body")

    def answer(self) -> dict[str, Any]:
        if self.fault == "error":
            return {"error": {"message": "engine died", "type": "InternalServerError", "code": 500}}
        usage = {} if self.fault == "no-usage" else {"usage": self._usage()}
        if self.seen.path.endswith("/embeddings"):
            given = self.seen.body["input"]
            texts = given if isinstance(given, list) else [given]
            more = int(self.seen.script.get("width", 2)) - 2
            data = [
                {"object": "embedding", "index": index, "embedding": [float(len(one)), -1.0, *[0.0] * more]}
                for index, one in enumerate(texts)
            ]
            return {"object": "list", "data": data, "model": self.base["model"], **usage}
        content = text(self.n, HUGE_BYTES // self.n if self.fault == "huge" else self.size)
        content = content if self.said is None else self.said
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "stop", **self._surety()}
        if not self.chat:
            return {
                **self.base,
                "object": "text_completion",
                "choices": [choice | {"text": content}],
                **usage,
            }
        choice["message"] = {"role": "assistant", "content": content}
        if "refusal" in self.seen.script:
            choice["message"] |= {"content": None, "refusal": self.seen.script["refusal"]}
        return {**self.base, "object": "chat.completion", "choices": [choice], **usage}

    def _refusal(self, status: int) -> bytes:
        kinds = {400: "BadRequestError", 404: "NotFoundError"}
        error = {"type": kinds.get(status, "InternalServerError"), "param": None, "code": status}
        after = {"429-after": "retry-after: 7\r\n", "503-after": "retry-after: 9\r\n"}.get(self.fault, "")
        body = json.dumps({"error": {"message": f"upstream says {status}", **error}}).encode()
        return _whole(status, body, after)

    async def _write(self, data: bytes) -> None:
        self.writer.write(data)
        self.seen.sent_bytes += len(data)
        await self.writer.drain()


def _begun(body: dict[str, Any]) -> tuple[int, int]:
    """Give how many tokens of the answer the prompt holds already, and how long it is."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        return sum(id_ >= 100 for id_ in prompt), len(prompt)
    if body.get("continue_final_message"):
        words = len(body["messages"][-1]["content"].split())
        return words, PROMPT_TOKENS + words
    if isinstance(prompt, str) and "@@" in prompt:
        words = len(prompt.rpartition("@@")[2].split())
        return words, PROMPT_TOKENS + words
    return 0, PROMPT_TOKENS


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _whole(status: int, body: bytes, more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{more}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ports", type=int, required=True)
    options = parser.parse_args()
    upstream = Upstream()
    ports = [await upstream.listen() for _ in range(options.ports + 1)]
    print(json.dumps({"control": ports[0], "ports": ports[1:]}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
