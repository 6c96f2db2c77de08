"""The HTTP edge: what is not a proper request gets a proper answer, in OpenAI's shape, with a request id."""

import json
import signal
from collections.abc import Iterator

import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import script, text
from tests.integration.gateway import (
    KEY,
    LIMITED,
    Gateway,
    Upstreams,
    chat_body,
    chat_request,
    config,
    model,
    read_all,
    read_until,
    running,
    unique,
)

BODY_LIMIT = 200_000
KEYS = """
[[keys]]
name = "limited"
key_env = "TEST_LIMITED_KEY"
models = ["other"]
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Upstreams]]:
    directory = tmp_path_factory.mktemp("edges")
    upstreams = Upstreams(2)
    models = model("small", upstreams.ports[:1]) + model("other", upstreams.ports[:1])
    models += model("embed", upstreams.ports[1:], kind="embedding")
    server = f'max_body_bytes = {BODY_LIMIT}\nmetrics_token_env = "TEST_METRICS"'
    settings = config(models, directory=directory, server=server, more=KEYS)
    with running(Gateway(directory, settings, TEST_METRICS=KEY), upstreams) as house:
        until(house[0].ready)
        yield house


@pytest.fixture(scope="module")
def gateway(house: tuple[Gateway, Upstreams]) -> Gateway:
    return house[0]


def error_of(status: int, headers: dict[str, str], body: bytes) -> tuple[int, str, str | None, str | None]:
    """Check the shape of an error; gives status, type, code, param."""
    assert headers["x-request-id"].startswith("req_")
    assert headers["content-type"].startswith("application/json")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return status, error["type"], error["code"], error["param"]


def bare(gateway: Gateway, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send raw bytes and read one answer up to the close of the connection."""
    with gateway.connect() as connection:
        connection.sendall(sent)
        return split(read_all(connection))


def split(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return int(status.split()[1]), {name.lower(): value for name, _, value in pairs}, body


WRONG = "invalid_request_error"
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "promised"),
    [
        ("GET", CHAT, b"", {}, (405, WRONG, "method_not_allowed", None)),
        ("DELETE", "/v1/models", b"", {}, (405, WRONG, "method_not_allowed", None)),
        ("GET", "/v1/nothing", b"", {}, (404, WRONG, "not_found", None)),
        ("POST", f"{CHAT}/more", b"{}", {}, (404, WRONG, "not_found", None)),
        ("GET", "/", b"", {}, (404, WRONG, "not_found", None)),
        ("GET", "/v1/models/absent", b"", {}, (404, WRONG, "model_not_found", "model")),
        ("GET", "/v1/models", b"", {"authorization": ""}, (401, WRONG, "invalid_api_key", None)),
        ("POST", CHAT, b"{}", {"authorization": ""}, (401, WRONG, "invalid_api_key", None)),
        ("POST", CHAT, b"{}", {"authorization": "Bearer"}, (401, WRONG, "invalid_api_key", None)),
        ("POST", CHAT, b"{}", {"authorization": "Bearer wrong"}, (401, WRONG, "invalid_api_key", None)),
        ("POST", CHAT, b"{}", {"authorization": f"Basic {KEY}"}, (401, WRONG, "invalid_api_key", None)),
        ("POST", CHAT, b"{}", {"authorization": KEY}, (401, WRONG, "invalid_api_key", None)),
        ("POST", CHAT, b"{}", {"authorization": "Bearer \xff\xfe"}, (401, WRONG, "invalid_api_key", None)),
        ("POST", CHAT, b"", {}, (400, WRONG, "invalid_value", None)),
        ("POST", CHAT, b"{nope", {}, (400, WRONG, "invalid_value", None)),
        ("POST", CHAT, b"[" * 100_000, {}, (400, WRONG, "invalid_value", None)),
        ("POST", CHAT, b'{"model": "\xff"}', {}, (400, WRONG, "invalid_value", None)),
        ("POST", CHAT, b'{"model": "small"}', {}, (400, WRONG, "invalid_value", "messages")),
        ("POST", CHAT, chat_body("absent", "x"), {}, (404, WRONG, "model_not_found", "model")),
        ("POST", CHAT, chat_body("embed", "x"), {}, (400, WRONG, "invalid_value", "model")),
        (
            "POST",
            CHAT,
            chat_body("small", "x"),
            {"authorization": f"Bearer {LIMITED}"},
            (403, "permission_error", "model_not_allowed", "model"),
        ),
        ("POST", CHAT, b"x" * (BODY_LIMIT + 1), {}, (413, WRONG, "request_too_large", None)),
        *(
            (
                "POST",
                CHAT,
                chat_body("small", "x"),
                {"x-switchgear-timeout-ms": wish},
                (400, WRONG, "invalid_value", "x-switchgear-timeout-ms"),
            )
            for wish in ("0", "-5", "soon", "1.5", "9" * 4000)
        ),
    ],
    ids=lambda one: str(one)[:40],
)
def test_a_wrong_request_gets_the_right_error(
    gateway: Gateway,
    method: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
    promised: tuple[int, str, str, str],
) -> None:
    assert error_of(*gateway.call(method, path, body, headers)) == promised


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n{}",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /livez HTTP/1.1\r\nbad header: x\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused_in_the_same_shape(gateway: Gateway, sent: bytes) -> None:
    assert error_of(*bare(gateway, sent)) == (400, WRONG, "invalid_value", None)


def test_a_head_without_end_is_cut_off(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        try:
            for number in range(1000):
                connection.sendall(b"x-%d: " % number + b"y" * 4000 + b"\r\n")
        except OSError:
            return  # refused while we were still sending
        assert error_of(*split(read_all(connection))) == (413, WRONG, "request_too_large", None)


def test_many_and_strange_headers_do_no_harm(gateway: Gateway) -> None:
    strange = {f"x-header-{number}": "\xe9" * 50 for number in range(200)}
    assert gateway.chat("small", script("ok"), headers=strange)[0] == 200


def test_a_chunked_body_is_counted(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        lines = [
            f"POST {CHAT} HTTP/1.1",
            "host: x",
            "transfer-encoding: chunked",
            "connection: close",
            "",
            "",
        ]
        connection.sendall("\r\n".join(lines).encode())
        piece = b"%x\r\n%s\r\n" % (50_000, b"x" * 50_000)
        for _ in range(5):
            connection.sendall(piece)
        answer = read_until(connection, b"request_too_large")
    assert error_of(*split(answer)) == (413, WRONG, "request_too_large", None)


def test_a_chunked_body_is_taken(gateway: Gateway) -> None:
    body = chat_body("small", script("ok"))
    lines = [f"POST {CHAT} HTTP/1.1", "host: x", f"authorization: Bearer {KEY}", "connection: close"]
    head = "\r\n".join([*lines, "transfer-encoding: chunked", "", ""]).encode()
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    status, _, answer = bare(gateway, head + pieces + b"0\r\n\r\n")
    assert (status, json.loads(answer)["choices"][0]["message"]["content"]) == (200, text(5))


def test_expect_100_continue(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        head, _, body = chat_request("small", script("ok"), "expect: 100-continue").partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\n\r\n")
        assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_until(connection, b"}]").startswith(b"HTTP/1.1 200 OK\r\n")
    with gateway.connect() as connection:
        lines = [
            f"POST {CHAT} HTTP/1.1",
            "host: x",
            "expect: 100-continue",
            f"content-length: {BODY_LIMIT * 2}",
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        assert read_until(connection, b"request_too_large").startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("stream", [False, True])
def test_http_1_0(gateway: Gateway, stream: bool) -> None:
    request = chat_request("small", script("ok"), stream=stream).replace(b" HTTP/1.1", b" HTTP/1.0", 1)
    status, headers, body = bare(gateway, request)
    assert (status, headers["connection"]) == (200, "close")
    assert (b"w4" in body, b"[DONE]" in body) == (True, stream)


def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        sizes = (1, 3, 2)
        connection.sendall(b"".join(chat_request("small", script("ok", n=n)) for n in sizes))
        answer = read_until(connection, b"w2", *(text(n).encode() + b'"' for n in sizes))
    places = [answer.index(b'"' + text(n).encode() + b'"') for n in sizes]
    assert places == sorted(places)
    assert answer.count(b"HTTP/1.1 200 OK") == len(sizes)


def test_one_connection_serves_many_requests_after_errors(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        for name, status in (("absent", b"404"), ("small", b"200"), ("absent", b"404"), ("small", b"200")):
            connection.sendall(chat_request(name, script("ok")))
            answer = read_until(connection, b'"code":' if status == b"404" else b'"total_tokens"')
            assert answer.startswith(b"HTTP/1.1 " + status)


def test_a_client_that_leaves_within_its_own_body_leaves_nothing_behind(
    house: tuple[Gateway, Upstreams],
) -> None:
    gateway, upstreams = house
    before = len(upstreams.seen()["requests"])
    for cut in (10, 150, -1):
        with gateway.connect() as connection:
            connection.sendall(chat_request("small", script("ok"))[:cut])
    assert gateway.chat("small", script("ok"))[0] == 200
    until(gateway.idle)
    assert len(upstreams.seen()["requests"]) == before + 1


def test_every_answer_has_its_own_request_id(gateway: Gateway) -> None:
    sent = {"x-request-id": "mine"}
    ids = [gateway.chat("small", script("ok"), headers=sent)[1]["x-request-id"] for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(one.startswith("req_") for one in ids)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/small", "/livez", "/readyz", "/console"])
def test_ordinary_answers_have_a_request_id_too(gateway: Gateway, path: str) -> None:
    ids = [gateway.call("GET", path, b"")[1]["x-request-id"] for _ in range(3)]
    assert len(set(ids)) == 3


def test_probes(gateway: Gateway) -> None:
    assert gateway.call("GET", "/livez")[0] == 200
    status, _, body = gateway.call("GET", "/readyz")
    assert (status, json.loads(body)["status"]) == (200, "ready")
    assert gateway.call("GET", "/metrics")[0] == 200
    wrong = gateway.call("GET", "/metrics", headers={"authorization": "Bearer wrong"})
    assert error_of(*wrong) == (401, WRONG, "invalid_api_key", None)
    assert gateway.call("GET", "/metrics", headers={"authorization": "B\xe9arer x"})[0] == 401


def test_junk_model_names_add_no_series(gateway: Gateway) -> None:
    gateway.chat("junk-0", "x")
    before = len(gateway.call("GET", "/metrics")[2].splitlines())
    for number in range(20):
        assert gateway.chat(f"junk-{number}", "x")[0] == 404
    assert len(gateway.call("GET", "/metrics")[2].splitlines()) == before


def test_a_deadline_of_the_client_holds(house: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = house
    tag = unique()
    wish = {"x-switchgear-timeout-ms": "300"}
    status, headers, body = gateway.chat("small", script("hang", tag=tag), headers=wish)
    assert error_of(status, headers, body)[::2] == (504, "upstream_timeout")
    assert headers["x-should-retry"] == "false"
    until(lambda: upstreams.states(tag) == ["aborted"])
    with gateway.connect() as connection:
        header = "x-switchgear-timeout-ms: 600"
        connection.sendall(chat_request("small", script("stall:3", tag=tag), header, stream=True))
        answer = read_until(connection, b"0\r\n\r\n")
    assert b"w1" in answer
    assert b'"code":"upstream_timeout"' in answer
    assert b"[DONE]" not in answer
    assert gateway.chat("small", script("ok"), headers={"x-switchgear-timeout-ms": "20000"})[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "hint"),
    [
        ("POST", "/chat/completions", "The API is below /v1: add it to the client's base URL."),
        ("GET", "/models", "The API is below /v1: add it to the client's base URL."),
        ("GET", "/", "The API is below /v1, the console at /console."),
        ("GET", "/v1/nothing", ""),
    ],
)
def test_an_address_beside_the_api_says_where_it_is(
    gateway: Gateway, method: str, path: str, hint: str
) -> None:
    status, _, body = gateway.call(method, path, chat_body("small", "x") if method == "POST" else b"")
    assert status == 404
    assert json.loads(body)["error"]["message"] == f"Unknown request URL: {method} {path}. {hint}".rstrip()


def test_a_name_that_is_not_served_says_where_those_are_that_are(gateway: Gateway) -> None:
    for method, path, body in (("POST", CHAT, chat_body("absent", "x")), ("GET", "/v1/models/absent", b"")):
        message = json.loads(gateway.call(method, path, body)[2])["error"]["message"]
        assert message == "The model 'absent' does not exist; GET /v1/models lists those that do."


def test_reload(house: tuple[Gateway, Upstreams]) -> None:
    """A good file is put in force, a bad one is not; a stream under way finishes on what it began with."""
    gateway, upstreams = house
    good = gateway.config.read_text()
    tag = unique()
    with gateway.connect() as connection:
        connection.sendall(chat_request("small", script("ok", tag=tag, lockstep=True), stream=True))
        upstreams.control(release=tag, times=2)
        read_until(connection, b"w0")
        gateway.write(good.replace('name = "small"', 'name = "renamed"'))
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: gateway.chat("renamed", script("ok"))[0] == 200)
        assert gateway.chat("small", script("ok"))[0] == 404
        upstreams.control(release=tag, times=20)
        rest = read_until(connection, b"[DONE]")
    assert b"w4" in rest
    assert b'"model":"small"' in rest
    gateway.write(good + "\n[servers]\n")
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: "unknown key 'servers'" in gateway.logged())
    assert gateway.chat("renamed", script("ok"))[0] == 200
    gateway.write(good)
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: gateway.chat("small", script("ok"))[0] == 200)


def test_a_reload_says_which_changed_keys_wait_for_a_restart(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    good, read = gateway.config.read_text(), "configuration read again"
    waits = "; only a restart puts these in force: streams.total_bytes, coalescing.lease_s"

    def last() -> str:
        return gateway.logged().rpartition(read)[2]

    gateway.write(good + "\n[streams]\ntotal_bytes = 1000000\n[coalescing]\nlease_s = 2\n")
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: last().startswith(waits))
    gateway.write(good)
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: not last().startswith(waits))


def test_a_reload_may_add_the_first_route(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    good = gateway.config.read_text()
    gateway.write(good + '\n[[routes]]\nname = "auto"\ntiers = ["small", "other"]\n')
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: gateway.chat("auto", script("ok"))[0] == 200)
    headers = gateway.chat("auto", script("ok"))[1]
    assert 0 <= float(headers["x-switchgear-score"]) <= 1
    assert headers["x-switchgear-reason"] == "score"
    gateway.write(good)
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: gateway.chat("auto", script("ok"))[0] == 404)
