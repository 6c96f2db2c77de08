"""A fixed OpenAI-shaped upstream: ``python -m bench.upstream PORT``.

A buffered request gets a 600-byte answer; a streamed one gets 64 chunks, one every 20 ms, then finish, usage
and ``[DONE]``. The streams step together, as the sequences of an engine's batch do: where each keeps its own
time, one run wakes a gateway once for eight chunks, the next one eight times, and that is all it measures.
"""

import asyncio
import json
import sys
from typing import Any

import uvloop

CHUNKS = 64
PACE_S = 0.02

_usage = {"prompt_tokens": 25, "completion_tokens": 64, "total_tokens": 89}
_common = {"id": "chatcmpl-bench", "created": 1760000000, "model": "upstream"}
_message = {"role": "assistant", "content": "Pack my box with five dozen liquor jugs. " * 8}
_choice = {"index": 0, "message": _message, "logprobs": None, "finish_reason": "stop"}
_body = json.dumps({**_common, "object": "chat.completion", "choices": [_choice], "usage": _usage}).encode()
WHOLE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_body)
) + _body
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _event(choices: list[dict[str, object]], **more: object) -> bytes:
    chunk = {**_common, "object": "chat.completion.chunk", "choices": choices, **more}
    return _framed(b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n")


def _delta(delta: dict[str, str], finish: str | None) -> dict[str, object]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


CHUNK = _event([_delta({"content": " word"}, None)])
END = b"".join(
    [_event([_delta({}, "stop")]), _event([], usage=_usage), _framed(b"data: [DONE]\n\n"), b"0\r\n\r\n"]
)


class Upstream(asyncio.Protocol):
    """One connection; requests are small and come whole."""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        """Answer a request."""
        if data.startswith(b"GET"):
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        elif b'"stream":true' in data:
            self._transport.write(STREAM_HEAD)
            self._tick(CHUNKS)
        else:
            self._transport.write(WHOLE)

    def _tick(self, left: int) -> None:
        if self._transport.is_closing():
            return
        if left:
            self._transport.write(CHUNK)
            wait_s = PACE_S - self._loop.time() % PACE_S
            if wait_s < PACE_S / 4:  # timers fire a little early: this step is that one
                wait_s += PACE_S
            self._loop.call_later(wait_s, self._tick, left - 1)
        else:
            self._transport.write(END)


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
