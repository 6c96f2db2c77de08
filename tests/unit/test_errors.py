"""Every error a client can see: its status, headers, body, in-band event, and its place in the documents."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from backends.clients.base import ClientError, ConnectFailed, ConnectionBroken, ReplyTimeout, ReplyTooLarge
from gateway import errors
from gateway.errors import ApiError, UpstreamRefused, error_body, error_event, error_headers, translate
from routing.scheduler import QueueFull, WaitExpired
from tests.fakes.golden import GOLDEN, check_golden

ROOT = Path(__file__).parents[2]


def subclasses(of: type[ApiError]) -> Iterator[type[ApiError]]:
    for one in of.__subclasses__():
        yield one
        yield from subclasses(one)


CLASSES = sorted(subclasses(ApiError), key=lambda one: one.__name__)
NAMES = [one.__name__ for one in CLASSES]


def example(kind: type[ApiError]) -> ApiError:
    if kind is UpstreamRefused:
        return UpstreamRefused(
            400, b'{"error": {"message": "No.", "type": "BadRequestError", "code": 400}}', {}
        )
    return kind("What is wrong, and what to do.", param="model", retry_after_s=2.5)


def rendered(error: ApiError) -> str:
    facts = {
        "status": error.status,
        "headers": {name.decode(): value.decode() for name, value in error_headers(error)},
        "body": error_body(error).decode(),
        "event": error_event(error).decode(),
    }
    return json.dumps(facts, indent=2) + "\n"


@pytest.mark.parametrize("kind", CLASSES, ids=NAMES)
def test_an_error_is_rendered_as_its_golden_file_says(kind: type[ApiError]) -> None:
    check_golden(f"errors/{kind.__name__}.json", rendered(example(kind)))


def test_no_golden_file_is_left_of_a_class_that_is_gone() -> None:
    assert sorted(path.stem for path in (GOLDEN / "errors").glob("*.json")) == NAMES


def test_the_tree_in_the_docstring_names_every_class_with_its_status_and_code() -> None:
    rows = {}
    for line in (errors.__doc__ or "").splitlines():
        branch, mark, row = line.partition("+-- ")
        if mark:
            rows[row.split()[0]] = (len(branch), row)
    assert sorted(rows) == NAMES
    for kind in CLASSES:
        depth, row = rows[kind.__name__]
        assert depth == (4 if kind.__base__ is ApiError else 8)
        if kind is UpstreamRefused:
            continue
        if kind.__base__ is ApiError:
            assert str(kind.status) in row
        assert kind.code is not None
        assert kind.code in row or kind.code in ("invalid_value", "not_found"), row


# Field by field what the OpenAI clients turn into exception classes: status, type, code, x-should-retry.
TABLE = {
    "InvalidRequest": (400, "invalid_request_error", "invalid_value", None),
    "ContextLengthExceeded": (400, "invalid_request_error", "context_length_exceeded", None),
    "InvalidApiKey": (401, "invalid_request_error", "invalid_api_key", None),
    "SignInFailed": (401, "invalid_request_error", "sign_in_failed", None),
    "ModelNotAllowed": (403, "permission_error", "model_not_allowed", None),
    "NotPermitted": (403, "permission_error", "not_permitted", None),
    "NotFound": (404, "invalid_request_error", "not_found", None),
    "ModelNotFound": (404, "invalid_request_error", "model_not_found", None),
    "MethodNotAllowed": (405, "invalid_request_error", "method_not_allowed", None),
    "QueueTimeout": (408, "timeout_error", "queue_timeout", True),
    "Conflict": (409, "invalid_request_error", "conflict", False),
    "IdempotencyConflict": (409, "invalid_request_error", "idempotency_conflict", False),
    "PreconditionFailed": (412, "invalid_request_error", "precondition_failed", None),
    "PreconditionRequired": (428, "invalid_request_error", "precondition_required", None),
    "DatabaseUnavailable": (503, "server_error", "database_unavailable", None),
    "RequestTooLarge": (413, "invalid_request_error", "request_too_large", None),
    "RateLimited": (429, "rate_limit_error", "rate_limit_exceeded", None),
    "InsufficientQuota": (429, "insufficient_quota", "insufficient_quota", False),
    "InternalError": (500, "server_error", "internal_error", None),
    "UpstreamFailed": (502, "server_error", "upstream_error", False),
    "Overloaded": (503, "server_error", "overloaded", None),
    "ModelLoading": (503, "server_error", "model_loading", None),
    "ShuttingDown": (503, "server_error", "shutting_down", True),
    "UpstreamTimeout": (504, "server_error", "upstream_timeout", False),
}


@pytest.mark.parametrize("name", TABLE)
def test_an_error_has_the_status_type_and_code_that_clients_are_promised(name: str) -> None:
    kind: type[ApiError] = getattr(errors, name)
    assert (kind.status, kind.type, kind.code, kind.should_retry) == TABLE[name]


def test_the_documents_list_every_error() -> None:
    rows = [
        [cell.strip().strip("`") for cell in line.strip("| \n").split("|")]
        for line in (ROOT / "docs" / "errors.md").read_text().splitlines()
        if line.startswith("| ")
    ][1:]
    listed = {(row[0], row[1], row[2]) for row in rows}
    wanted = {(str(kind.status), kind.type, kind.code) for kind in CLASSES if kind is not UpstreamRefused}
    assert wanted <= listed
    for row in rows:
        assert len(row) == 6
        assert all(row), row


VLLM = "This model's maximum context length is 2048 tokens. However, you requested 3000."


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b'{"error":{"message":"Bad.","type":"BadRequestError","param":"top_p","code":400}}',
         ("Bad.", "invalid_request_error", "top_p", "invalid_value")),
        (404, b'{"error":{"message":"None.","type":"NotFoundError","param":null,"code":404}}',
         ("None.", "invalid_request_error", None, "not_found")),
        (500, b'{"error":{"message":"Oh.","type":"InternalServerError","code":500}}',
         ("Oh.", "server_error", None, None)),
        (501, b'{"error":{"message":"Not.","type":"NotImplementedError","code":501}}',
         ("Not.", "server_error", None, None)),
        (413, b'{"error":{"message":"Big.","code":413}}',
         ("Big.", "invalid_request_error", None, "request_too_large")),
        (429, b'{"error":{"message":"Slow.","code":429}}',
         ("Slow.", "rate_limit_error", None, "rate_limit_exceeded")),
        (400, json.dumps({"error": {"message": VLLM, "type": "BadRequestError", "code": 400}}).encode(),
         (VLLM, "invalid_request_error", None, "context_length_exceeded")),
        (400, b'{"error":{"message":"longer than the maximum model length of 512.","code":400}}',
         ("longer than the maximum model length of 512.", "invalid_request_error", None,
          "context_length_exceeded")),
        (400, b'{"error":{"message":"max_tokens=5000 cannot be greater than max_model_len=2048. Please '
              b'request fewer output tokens.","type":"BadRequestError","param":"max_tokens","code":400}}',
         ("max_tokens=5000 cannot be greater than max_model_len=2048. Please request fewer output tokens.",
          "invalid_request_error", "max_tokens", "context_length_exceeded")),
        (400, b'{"error":{"message":"max_completion_tokens=5000 cannot be greater than max_model_len=2048."'
              b',"param":"max_completion_tokens","code":400}}',
         ("max_completion_tokens=5000 cannot be greater than max_model_len=2048.",
          "invalid_request_error", "max_completion_tokens", "context_length_exceeded")),
        (400, b'{"error":{"message":"truncate_prompt_tokens=5000 cannot be greater than max_model_len = '
              b'2048.","param":"truncate_prompt_tokens","code":400}}',
         ("truncate_prompt_tokens=5000 cannot be greater than max_model_len = 2048.",
          "invalid_request_error", "truncate_prompt_tokens", "invalid_value")),
        (400, b'{"error":{"error":{"message":"Twice.","type":"BadRequestError","code":400}}}',
         ("Twice.", "invalid_request_error", None, "invalid_value")),
        (400, b'{"error":"Plain."}', ("Plain.", "invalid_request_error", None, "invalid_value")),
        (400, b'{"object":"error","message":"Old.","type":"BadRequestError","param":null,"code":400}',
         ("Old.", "invalid_request_error", None, "invalid_value")),
        (400, b'{"detail":"There was an error parsing the body"}',
         ("There was an error parsing the body", "invalid_request_error", None, "invalid_value")),
        (409, b'{"error":{"message":"Own code.","code":"conflict_here","param":7}}',
         ("Own code.", "invalid_request_error", None, "conflict_here")),
    ],
)  # fmt: skip
def test_a_replicas_error_is_brought_into_openais_shape(
    status: int, body: bytes, said: tuple[str, str, str | None, str | None]
) -> None:
    error = UpstreamRefused(status, body, {})
    assert error.status == status
    assert (error.message, error.type, error.param, error.code) == said


@pytest.mark.parametrize(
    "body",
    [b"", b"<html><body>502 Bad Gateway</body></html>", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000,
     b"null", b"[1]", b'{"error":null}', b'{"error":{}}', b'{"error":{"message":""}}', b'{"error":[1]}',
     b'{"error":{"message":{"a":1}}}', b'{"detail":[{"loc":["body"]}]}', b"1e999"],
    ids=lambda body: repr(body[:24]),
)  # fmt: skip
def test_garbage_for_an_error_becomes_a_sentence(body: bytes) -> None:
    error = UpstreamRefused(400, body, {})
    assert error.message == "The model's server refused the request with status 400."
    assert set(msgspec.json.decode(error_body(error))["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("wait_s", "header", "header_ms"),
    [(0.0, b"1", b"0"), (0.0001, b"1", b"1"), (1.0, b"1", b"1000"), (1.2, b"2", b"1200"),
     (119.5, b"120", b"119500"), (500.0, b"120", b"120000"), (-3.0, b"1", b"0"),
     (float("inf"), b"120", b"120000")],
)  # fmt: skip
def test_retry_after_is_whole_seconds_and_never_longer_than_clients_wait(
    wait_s: float, header: bytes, header_ms: bytes
) -> None:
    found = dict(error_headers(errors.Overloaded("Full.", retry_after_s=wait_s)))
    assert found == {b"retry-after": header, b"retry-after-ms": header_ms}


@pytest.mark.parametrize(
    ("sent", "header"),
    [("7", b"7"), ("0.5", b"1"), ("900", b"120"), ("nan", None), ("inf", None), ("soon", None), (None, None)],
)
def test_a_replicas_retry_after_is_handed_on_where_it_is_a_number(
    sent: str | None, header: bytes | None
) -> None:
    error = UpstreamRefused(429, b"{}", {} if sent is None else {"retry-after": sent})
    assert dict(error_headers(error)).get(b"retry-after") == header


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (QueueFull("m", 4, 2.0), errors.Overloaded),
        (WaitExpired("m", 3.0, 2.0), errors.QueueTimeout),
        (ReplyTimeout("silent"), errors.UpstreamTimeout),
        (ConnectFailed("refused"), errors.UpstreamFailed),
        (ConnectionBroken("reset"), errors.UpstreamFailed),
        (ReplyTooLarge("big"), errors.UpstreamFailed),
        (ClientError("other"), errors.UpstreamFailed),
        (ZeroDivisionError("secret"), errors.InternalError),
        (errors.ModelNotFound("gone"), errors.ModelNotFound),
    ],
)
def test_exceptions_of_the_parts_are_translated(raised: Exception, kind: type[ApiError]) -> None:
    assert type(translate(raised)) is kind


def test_an_unknown_exception_stays_opaque_and_a_full_queue_says_when_to_come_again() -> None:
    assert b"secret" not in error_body(translate(ZeroDivisionError("secret")))
    assert translate(QueueFull("m", 4, 2.0)).retry_after_s == 2.0


def test_every_exception_of_the_clients_is_known() -> None:
    for kind in ClientError.__subclasses__():
        assert translate(kind("x")).status in (502, 504)


def test_a_retry_after_that_is_a_date_is_held_against_the_servers_own_clock() -> None:
    said = {"date": "Mon, 23 Nov 2026 10:00:00 GMT", "retry-after": "Mon, 23 Nov 2026 10:00:09 GMT"}
    assert UpstreamRefused(429, b"{}", said).retry_after_s == 9.0
    assert UpstreamRefused(429, b"{}", {**said, "retry-after": said["date"]}).retry_after_s == 0.0
    assert UpstreamRefused(429, b"{}", {**said, "retry-after-ms": "1500"}).retry_after_s == 1.5
