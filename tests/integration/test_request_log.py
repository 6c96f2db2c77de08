"""The log: JSON lines, one for each request with what was decided; no prompt, no answer, no secret in any."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import script, text
from tests.integration.collector import collecting
from tests.integration.gateway import KEY, Gateway, Upstreams, config, model, running, unique

House = tuple[Gateway, Upstreams]
ADMIN = "admin-" + "a" * 40
ROUTE = '[[routes]]\nname = "auto"\ntiers = ["small", "large"]\n'


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory, upstreams = tmp_path_factory.mktemp("log"), Upstreams(2)
    models = model("small", upstreams.ports[:1]) + model("large", upstreams.ports[1:]) + ROUTE
    settings = config(models, directory=directory, cache="exact_ttl_s = 3600")
    with collecting() as collector:
        gateway = Gateway(
            directory, settings, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, SWITCHGEAR_ADMIN_KEY=ADMIN
        )
        with running(gateway, upstreams):
            until(gateway.ready)
            yield gateway, upstreams


def lines(gateway: Gateway, **fields: Any) -> list[dict[str, Any]]:
    """Give the lines that have these fields; every whole line of the log must be JSON."""
    whole = gateway.logged().rpartition("\n")[0].splitlines()
    read = [json.loads(one) for one in whole]
    return [one for one in read if all(one.get(name) == value for name, value in fields.items())]


def of(gateway: Gateway, request_id: str) -> dict[str, Any]:
    """Wait for the line of a request; there is only one."""
    until(lambda: lines(gateway, request_id=request_id) != [])
    (found,) = lines(gateway, request_id=request_id)
    return found


def test_a_line_says_what_was_decided_and_what_it_cost(house: House) -> None:
    gateway, _ = house
    trace = "0af7651916cd43dd8448eb211c80319c"
    prompt = script("ok", tag=unique(), n=3)
    sent = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    _, headers, _ = gateway.chat("auto", prompt, headers=sent)
    line = of(gateway, headers["x-request-id"])
    assert (line["trace_id"], line["event"]) == (trace, "request")
    assert (line["asked"], line["model"]) == ("auto", headers["x-switchgear-model"])
    assert line["reason"] == headers["x-switchgear-reason"]
    assert line["score"] == pytest.approx(float(headers["x-switchgear-score"]), abs=1e-4)
    assert (line["status"], line["cache"], line["outcomes"]) == (200, "miss", ["ok"])
    assert line["completion_tokens"] == 3
    assert line["amount_nanousd"] == gateway.row(headers["x-request-id"])["amount_nanousd"]
    _, again, _ = gateway.chat("auto", prompt)
    assert of(gateway, again["x-request-id"])["cache"] == "hit-exact"


def test_a_line_names_who_was_refused(house: House) -> None:
    gateway, _ = house
    for status, name, headers in (
        (404, "absent", {}),
        (400, "small", {"x-switchgear-cache": "no-stroe"}),
    ):
        refused, got, body = gateway.chat(name, "hi", headers=headers)
        line = of(gateway, got["x-request-id"])
        assert (refused, line["status"], line["key_id"] != "", line["org"]) == (
            status,
            status,
            True,
            "default",
        )
    assert json.loads(body)["error"]["param"] == "x-switchgear-cache"


def test_neither_prompts_nor_answers_nor_secrets_are_in_the_log(house: House) -> None:
    gateway, _ = house
    planted = f"planted-{unique()}"
    answers = [
        gateway.chat("small", planted + script(fault, tag=unique(), n=4), user=planted)
        for fault in ("ok", "400", "500", "malformed:1", "error:1")
    ]
    wrong = gateway.chat("small", planted, headers={"authorization": f"Bearer sk-{planted}"})
    junk = gateway.chat(planted, "hi")
    for _, headers, _ in (*answers, wrong, junk):
        of(gateway, headers["x-request-id"])
    log = gateway.logged()
    for secret in (planted, KEY, ADMIN, text(4)):
        assert secret not in log
    assert of(gateway, junk[1]["x-request-id"])["asked"] == "unknown"


def test_an_operator_sees_how_a_request_was_decided(house: House) -> None:
    gateway, _ = house
    as_admin = {"authorization": f"Bearer {ADMIN}"}
    _, headers, _ = gateway.chat("auto", script("ok", tag=unique(), n=3))
    request_id = headers["x-request-id"]
    gateway.row(request_id)
    status, _, body = gateway.call("GET", f"/admin/v1/requests/{request_id}", headers=as_admin)
    shown = json.loads(body)
    assert status == 200
    assert shown["booked"]["request_id"] == shown["decision"]["request_id"] == request_id
    assert shown["decision"]["candidates"] == ["small", "large"]
    refused = gateway.chat("nobody", "hi")[1]["x-request-id"]
    shown = json.loads(gateway.call("GET", f"/admin/v1/requests/{refused}", headers=as_admin)[2])
    assert (shown["booked"], shown["decision"]["status"]) == (None, 404)
    assert gateway.call("GET", "/admin/v1/requests/none", headers=as_admin)[0] == 404
    assert gateway.call("GET", f"/admin/v1/requests/{request_id}")[0] in (401, 403)


def test_what_is_logged_changes_while_it_runs(house: House) -> None:
    gateway, _ = house
    before = gateway.config.read_text()
    gateway.write(before + '[logging]\nrequests = "failed"\nlevel = "error"\n')
    gateway.process.send_signal(signal.SIGHUP)

    def quiet() -> bool:
        good = gateway.chat("large", script("ok", tag=unique()))[1]["x-request-id"]
        of(gateway, gateway.chat("nobody", "hi")[1]["x-request-id"])
        return not lines(gateway, request_id=good)

    until(quiet)
    gateway.write(before)
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: not quiet())
