"""The end of a process: drained, hurried, or killed; and what the ledger says after."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.metadata import AWS, Metadata, served
from tests.fakes.processes import until
from tests.fakes.upstream import PROMPT_TOKENS, script
from tests.integration.admin import ADMIN, good
from tests.integration.gateway import (
    COMMAND,
    ROOT,
    Gateway,
    Upstreams,
    chat_request,
    config,
    model,
    read_all,
    read_until,
    unique,
)

PROGRESS_TOKENS = 32


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    made = Upstreams(3)
    yield made
    made.close()


def gateway_of(directory: Path, upstreams: Upstreams, drain_s: float) -> Gateway:
    settings = config(model("small", upstreams.ports[:1]), directory=directory, server=f"drain_s = {drain_s}")
    gateway = Gateway(directory, settings)
    until(gateway.ready)
    return gateway


def held_stream(tag: str, n: int = 5) -> bytes:
    return chat_request("small", script("ok", tag=tag, n=n, lockstep=True), stream=True)


def test_a_drain_lets_a_stream_finish(tmp_path: Path, upstreams: Upstreams) -> None:
    gateway, tag = gateway_of(tmp_path, upstreams, drain_s=60.0), unique()
    with gateway.connect() as connection, gateway.connect() as idle:
        connection.sendall(held_stream(tag))
        upstreams.control(release=tag, times=2)
        read_until(connection, b"w0")
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: gateway.call("GET", "/readyz")[0] == 503)
        assert json.loads(gateway.call("GET", "/readyz")[2])["parts"]["shutdown"] == "draining"
        status, headers, body = gateway.chat("small", script("ok"))
        assert (status, json.loads(body)["error"]["code"]) == (503, "shutting_down")
        assert (headers["retry-after"], headers["x-should-retry"]) == ("1", "true")
        assert gateway.call("GET", "/livez")[0] == 200
        upstreams.control(release=tag, times=20)
        rest = read_until(connection, b"0\r\n\r\n")
        assert b"w4" in rest
        assert b"data: [DONE]\n\n" in rest
        assert gateway.stop() == 0
        assert idle.recv(1) == b""
    assert [row["status"] for row in gateway.rows()] == ["ok"]
    assert not list((tmp_path / "state" / "journal").iterdir()), "everything was carried into the ledger"


def test_a_stream_that_outlasts_the_drain_is_told(tmp_path: Path, upstreams: Upstreams) -> None:
    gateway, tag, waiting = gateway_of(tmp_path, upstreams, drain_s=0.3), unique(), unique()
    with gateway.connect() as connection, gateway.connect() as buffered, gateway.connect(4096) as deaf:
        connection.sendall(held_stream(tag))
        upstreams.control(release=tag, times=2)
        begun = read_until(connection, b"w0")
        buffered.sendall(chat_request("small", script("hang", tag=waiting)))
        deaf.sendall(chat_request("small", script("ok", n=5000, size=10_000, tag=waiting), stream=True))
        until(lambda: upstreams.states(waiting) == ["running"] * 2)
        assert gateway.stop() == 0
        rest = begun + read_all(connection)
        assert b'"code":"shutting_down"' in rest
        assert b"[DONE]" not in rest
        answer = read_all(buffered)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"shutting_down"' in answer
    until(lambda: "running" not in upstreams.states(tag) + upstreams.states(waiting))
    assert {row["status"] for row in gateway.rows()} == {"error"}
    assert len(gateway.rows()) == 3
    assert "Traceback" not in gateway.logged(), gateway.logged()


def test_a_second_signal_does_not_wait(tmp_path: Path, upstreams: Upstreams) -> None:
    gateway, tag = gateway_of(tmp_path, upstreams, drain_s=3600.0), unique()
    with gateway.connect() as connection:
        connection.sendall(held_stream(tag))
        upstreams.control(release=tag, times=2)
        begun = read_until(connection, b"w0")
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: gateway.call("GET", "/readyz")[0] == 503)
        assert gateway.stop(signal.SIGINT) == 0
        assert b'"code":"shutting_down"' in begun + read_all(connection)
    assert [row["status"] for row in gateway.rows()] == ["error"]


def test_a_server_that_turns_everybody_away_is_taken_out_of_routing(
    tmp_path: Path, upstreams: Upstreams
) -> None:
    """Its health is good, as that of a vLLM which drains: no client sees it, and soon nobody asks it more."""
    first, second = upstreams.ports[1:]
    rows = {"500": 3, "429": 10}
    models = "".join(model(f"pair-{fault}", [first, second]) for fault in rows)
    gateway = Gateway(tmp_path, config(models, directory=tmp_path))
    until(gateway.ready)
    try:
        for fault, row in rows.items():
            upstreams.control(mood={"port": first, "fault": fault})
            tag, asked = unique(), 4 * row
            answers = [gateway.chat(f"pair-{fault}", script("ok", tag=tag))[0] for _ in range(asked)]
            assert answers == [200] * asked
            seen = [one["port"] for one in upstreams.seen(tag)["requests"]]
            assert seen.count(second) == asked
            assert row <= seen.count(first) < asked / 2, "so many in a row, then one now and then"
    finally:
        upstreams.control(mood={"port": first, "fault": ""})
        gateway.stop()


def test_a_drained_replica_ends_its_streams_and_one_that_is_cut_goes_on(
    tmp_path: Path, upstreams: Upstreams
) -> None:
    """Taken out of routing by an operator, it still speaks; when its server ends, another goes on."""
    ports = upstreams.ports[1:]
    settings = config(model("pair", ports), directory=tmp_path)
    gateway = Gateway(tmp_path, settings, SWITCHGEAR_ADMIN_KEY=ADMIN)
    until(gateway.ready)
    whole, cut = unique(), unique()
    try:
        with gateway.connect() as kept, gateway.connect() as broken:
            for connection, tag, fault in ((kept, whole, "ok"), (broken, cut, "fin:2")):
                prompt = script(fault, "ok", tag=tag, lockstep=True)
                connection.sendall(chat_request("pair", prompt, stream=True))
                upstreams.control(release=tag, times=2)
                read_until(connection, b"w0")
                if tag == whole:  # by turns: the one between goes to the other replica
                    assert gateway.chat("pair", script("ok"))[0] == 200
            (port,) = {one["port"] for tag in (whole, cut) for one in upstreams.seen(tag)["requests"]}
            drained, other = ("pair-0", "pair-1") if port == ports[0] else ("pair-1", "pair-0")
            good(gateway, "POST", f"replicas/{drained}/drain")
            assert gateway.chat("pair", script("ok"))[1]["x-switchgear-replica"] == other
            upstreams.control(release=whole, times=20)
            assert b"data: [DONE]" in read_until(kept, b"0\r\n\r\n")
            upstreams.control(release=cut, times=20)
            rest = read_until(broken, b"0\r\n\r\n")
            assert [rest.count(b'"w%d ' % k) for k in range(1, 5)] == [1] * 4
            assert b"data: [DONE]" in rest
    finally:
        gateway.stop()
    found = sorted((row["status"], row["attempts"]) for row in gateway.rows())
    assert found == [("ok", 1)] * 3 + [("ok", 2)]


def test_what_still_runs_when_its_machine_goes_goes_on_elsewhere(
    tmp_path: Path, upstreams: Upstreams
) -> None:
    """Its server goes on saying nothing wrong: the gateway itself takes the requests from it."""
    ports = upstreams.ports[1:]
    gateway = Gateway(tmp_path, config(model("pair", ports), directory=tmp_path), SWITCHGEAR_ADMIN_KEY=ADMIN)
    until(gateway.ready)
    tag, asked = unique(), unique()
    try:
        with gateway.connect() as stream, gateway.connect() as buffered:
            stream.sendall(chat_request("pair", script("ok", tag=tag, n=6, lockstep=True), stream=True))
            upstreams.control(release=tag, times=2)
            read_until(stream, b"w0")
            (port,) = {one["port"] for one in upstreams.seen(tag)["requests"]}
            reclaimed, other = ("pair-0", "pair-1") if port == ports[0] else ("pair-1", "pair-0")
            good(gateway, "POST", f"replicas/{other}/drain")
            buffered.sendall(chat_request("pair", script("hang", "ok", tag=asked)))
            until(lambda: upstreams.states(asked) == ["running"])
            good(gateway, "POST", f"replicas/{other}/resume")
            until(lambda: gateway.metric("switchgear_replicas", model="pair", phase="ready") == 2)
            assert watch(gateway, reclaimed).startswith(
                f"{reclaimed}: reclaimed, 0 s before its machine goes"
            )
            answer = read_until(buffered, b"}]")
            assert answer.startswith(b"HTTP/1.1 200")
            until(lambda: len(upstreams.seen(tag)["requests"]) == 2)
            upstreams.control(release=tag, times=40)
            rest = read_until(stream, b"0\r\n\r\n")
            assert [rest.count(b'"w%d ' % k) for k in range(1, 6)] == [1] * 5
            assert b"data: [DONE]" in rest
            until(lambda: upstreams.states(tag) == ["aborted", "done"])
    finally:
        gateway.stop()
    assert sorted((row["status"], row["attempts"]) for row in gateway.rows()) == [("ok", 2), ("ok", 2)]


def watch(gateway: Gateway, replica: str) -> str:
    """``switchgear fleet watch`` on a machine whose cloud takes it away now; gives what it says."""
    metadata, at = Metadata(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    metadata.answers[AWS] = (200, json.dumps({"action": "terminate", "time": at}).encode())
    with served(metadata):
        options = ["--cloud", "aws", "--metadata-url", metadata.url, "--base-url", gateway.base_url]
        done = subprocess.run(
            [COMMAND, "fleet", "watch", replica, *options],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "SWITCHGEAR_ADMIN_KEY": ADMIN},
        )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("sent", [1, 100])
def test_a_killed_process_leaves_a_true_bill(tmp_path: Path, upstreams: Upstreams, sent: int) -> None:
    """``kill -9`` in mid stream: after a restart one row, with at most one progress step missing."""
    gateway, tag = gateway_of(tmp_path, upstreams, drain_s=60.0), unique()
    with gateway.connect() as connection:
        connection.sendall(held_stream(tag, n=200))
        upstreams.control(release=tag, times=sent + 1)
        head = read_until(connection, b'"w%d ' % (sent - 1))
        gateway.stop(signal.SIGKILL)
    gateway.start()
    until(gateway.ready)
    assert gateway.chat("small", script("ok"))[0] == 200
    until(lambda: len(gateway.rows()) == 2)
    interrupted, ok = gateway.rows()
    assert (interrupted["status"], ok["status"]) == ("interrupted", "ok")
    assert interrupted["request_id"] in head.decode()
    tokens = interrupted["completion_tokens"]
    assert sent - PROGRESS_TOKENS < tokens <= sent
    prompt = interrupted["prompt_tokens"]
    assert prompt == (PROMPT_TOKENS if tokens else 0)
    assert interrupted["amount_nanousd"] == prompt * 1000 + tokens * 2000
    assert gateway.stop() == 0
    gateway.start()
    assert gateway.stop() == 0
    assert len(gateway.rows()) == 2, "recovered once"
