"""The embedding child as a real process over a real (tiny, random) sentence-transformers model."""

import base64
import json
import os
import signal
import socket
import struct
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from backends.engines import local
from tests.engine_env import engine_python
from tests.fakes.processes import until

MAKE = """
import sys
from pathlib import Path
from transformers import BertConfig, BertModel, BertTokenizerFast
from sentence_transformers import SentenceTransformer, models
out = Path(sys.argv[1]); raw = out / "raw"; raw.mkdir(parents=True)
letters = "abcdefghijklmnopqrstuvwxyz"
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters)]
(raw / "vocab.txt").write_text("\\n".join(words))
BertTokenizerFast(vocab_file=str(raw / "vocab.txt"), vocab=str(raw / "vocab.txt")).save_pretrained(raw)
sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(raw)
word = models.Transformer(str(raw), max_seq_length=16)
SentenceTransformer(modules=[word, models.Pooling(32)], device="cpu").save(str(out / "model"))
"""


def environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1", "TOKENIZERS_PARALLELISM": "false"}


class Server:
    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process, self.root = process, f"http://127.0.0.1:{port}"

    def get(self, path: str) -> tuple[int, Any]:
        return self._send(urllib.request.Request(self.root + path))

    def embed(self, **body: Any) -> tuple[int, Any]:
        return self.post(json.dumps({"model": "embed", **body}).encode())

    def post(self, body: bytes) -> tuple[int, Any]:
        return self._send(urllib.request.Request(self.root + "/v1/embeddings", data=body))

    def healthy(self) -> bool:
        assert self.process.poll() is None, "the server ended"
        try:
            return self.get("/health")[0] == 200
        except OSError:
            return False

    def _send(self, request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    python, directory = engine_python(), tmp_path_factory.mktemp("embed")
    made = subprocess.run(
        [python, "-P", "-c", MAKE, str(directory)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert made.returncode == 0, made.stderr[-3000:]
    port = free_port()
    argv = [python, "-P", str(local.SERVER), "--model", str(directory / "model"), "--port", str(port)]
    process = subprocess.Popen([*argv, "--served-name", "embed"], env=environment(), cwd=directory)
    running = Server(process, port)
    try:
        until(running.healthy, deadline_s=180.0)
        yield running
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_one_text_and_several(server: Server) -> None:
    status, one = server.embed(input="abc")
    assert (status, one["object"], one["model"]) == (200, "list", "embed")
    assert one["usage"] == {"prompt_tokens": 5, "total_tokens": 5}  # [CLS] a ##b ##c [SEP]
    status, several = server.embed(input=["xyz", "abc"])
    assert [row["index"] for row in several["data"]] == [0, 1]
    assert several["usage"]["prompt_tokens"] == 10
    assert several["data"][1]["embedding"] == pytest.approx(one["data"][0]["embedding"], abs=1e-5)


def test_base64_holds_the_same_numbers(server: Server) -> None:
    numbers = server.embed(input="abc", encoding_format="float")[1]["data"][0]["embedding"]
    text = server.embed(input="abc", encoding_format="base64")[1]["data"][0]["embedding"]
    assert list(struct.unpack("<32f", base64.b64decode(text))) == pytest.approx(numbers, abs=1e-6)


def test_dimensions_are_honoured_only_where_the_model_has_them(server: Server) -> None:
    assert server.embed(input="abc", dimensions=32)[0] == 200
    status, refused = server.embed(input="abc", dimensions=16)
    assert (status, refused["error"]["param"], refused["error"]["type"]) == (
        400,
        "dimensions",
        "invalid_request_error",
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": 5}, "input"),
        ({}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
    ids=str,
)
def test_what_it_cannot_embed_is_refused_with_its_name(
    server: Server, body: dict[str, Any], param: str
) -> None:
    status, refused = server.embed(**body)
    assert (status, refused["error"]["param"]) == (400, param)


def test_a_text_that_is_too_long_is_refused_not_cut(server: Server) -> None:
    assert server.embed(input="a" * 14)[0] == 200
    status, refused = server.embed(input=["ok", "a" * 15])
    assert (status, refused["error"]["code"]) == (400, "context_length_exceeded")
    assert "maximum context length is 16 tokens" in refused["error"]["message"]
    assert "17 tokens in input 1" in refused["error"]["message"]


def test_broken_json_an_unknown_model_and_unknown_addresses(server: Server) -> None:
    assert server.post(b"{")[0] == 400
    assert server.post(b"[]")[0] == 400
    assert server.post(b"[" * 100_000)[0] == 400
    assert server.embed(input="a", model="other")[1]["error"]["code"] == "model_not_found"
    assert server.get("/v1/none")[0] == 404
    assert server.get("/v1/models")[1]["data"][0]["id"] == "embed"
