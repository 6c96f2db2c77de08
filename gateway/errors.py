"""Every error that a client can see: one family, one translation table, one renderer.

    ApiError
    +-- InvalidRequest          400  invalid_request_error
    |   +-- ContextLengthExceeded    context_length_exceeded
    +-- InvalidApiKey           401  invalid_api_key
    +-- SignInFailed            401  sign_in_failed
    +-- ModelNotAllowed         403  model_not_allowed
    +-- NotPermitted            403  not_permitted
    +-- NotFound                404
    |   +-- ModelNotFound            model_not_found
    +-- MethodNotAllowed        405  method_not_allowed
    +-- QueueTimeout            408  queue_timeout
    +-- Conflict                409  conflict
    +-- IdempotencyConflict     409  idempotency_conflict
    +-- PreconditionFailed      412  precondition_failed
    +-- RequestTooLarge         413  request_too_large
    +-- PreconditionRequired    428  precondition_required
    +-- RateLimited             429  rate_limit_exceeded
    +-- InsufficientQuota       429  insufficient_quota
    +-- InternalError           500  internal_error
    +-- UpstreamFailed          502  upstream_error
    +-- Overloaded              503  overloaded
    +-- ModelLoading            503  model_loading
    +-- ShuttingDown            503  shutting_down
    +-- NotRecordable           503  not_recordable
    +-- ModelNotPriced          503  model_not_priced
    +-- DatabaseUnavailable     503  database_unavailable
    +-- UpstreamTimeout         504  upstream_timeout
    +-- UpstreamRefused         4xx  as the replica said, normalised

Parts of the house raise their own exceptions and know no HTTP; ``translate`` turns them into this family.
"""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

import msgspec

from backends.clients.base import ClientError, ReplyTimeout
from routing.scheduler import Overload, WaitExpired

type_of_status = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    403: "permission_error",
    404: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}

_code_of_status = {
    400: "invalid_value",
    404: "not_found",
    413: "request_too_large",
    422: "invalid_value",
    429: "rate_limit_exceeded",
}

# As vLLM, and those that copy it, say that prompt and wanted output, or the latter alone, are too long.
_OVER_CONTEXT = re.compile(
    r"maximum (context|model) length|^max(_completion)?_tokens=\d+ cannot be greater than max_model_len\b"
)

SHUT_DOWN = "shut down"  # what a task is told that is cancelled because the process ends
MAX_RETRY_AFTER_S = 120.0  # openai-python gives up instead of waiting longer


class ApiError(Exception):
    """An answer that is not the one asked for, in OpenAI's shape.

    ``retry_after_s`` is a true estimate; ``should_retry`` becomes ``x-should-retry`` where it is not None.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = "internal_error"
    should_retry: bool | None = None

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers: list[tuple[bytes, bytes]] = []


class InvalidRequest(ApiError):
    """The request itself is wrong; the same request will be wrong again."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and requested output are longer than the model's context."""

    code = "context_length_exceeded"


class InvalidApiKey(ApiError):
    """No key, an unknown key, an expired or a revoked one."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class SignInFailed(ApiError):
    """No such account, or another password: which of them is not said."""

    status = 401
    type = "invalid_request_error"
    code = "sign_in_failed"


class ModelNotAllowed(ApiError):
    """The key may not use this model."""

    status = 403
    type = "permission_error"
    code = "model_not_allowed"


class NotPermitted(ApiError):
    """The caller is known, but may not do this."""

    status = 403
    type = "permission_error"
    code = "not_permitted"


class NotFound(ApiError):
    """Nothing is served under this path or id."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """No model or route of this name."""

    code = "model_not_found"


class MethodNotAllowed(ApiError):
    """The path exists, the method does not."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class QueueTimeout(ApiError):
    """The request waited for a replica as long as it was allowed to."""

    status = 408
    type = "timeout_error"
    code = "queue_timeout"
    should_retry = True


class Conflict(ApiError):
    """What is there already forbids it."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"
    should_retry = False


class IdempotencyConflict(ApiError):
    """The idempotency key was used before, with another body."""

    status = 409
    type = "invalid_request_error"
    code = "idempotency_conflict"
    should_retry = False


class PreconditionFailed(ApiError):
    """It was changed since the caller read it."""

    status = 412
    type = "invalid_request_error"
    code = "precondition_failed"


class RequestTooLarge(ApiError):
    """The body is over the limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class PreconditionRequired(ApiError):
    """A change must say which version it is over."""

    status = 428
    type = "invalid_request_error"
    code = "precondition_required"


class RateLimited(ApiError):
    """Too many requests or tokens in this window, or too many at once."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class InsufficientQuota(ApiError):
    """No credit or budget is left: trying again does not help."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    should_retry = False


class InternalError(ApiError):
    """A bug of ours; the message is opaque, the log has the request id."""


class UpstreamFailed(ApiError):
    """No replica gave an answer, own retries included."""

    status = 502
    code = "upstream_error"
    should_retry = False


class Overloaded(ApiError):
    """The queue is full."""

    status = 503
    code = "overloaded"


class ModelLoading(ApiError):
    """The model has no ready replica yet."""

    status = 503
    code = "model_loading"


class ShuttingDown(ApiError):
    """This gateway process is draining."""

    status = 503
    code = "shutting_down"
    should_retry = True


class NotRecordable(ApiError):
    """The usage journal cannot be written: what could not be billed is not begun."""

    status = 503
    code = "not_recordable"


class ModelNotPriced(ApiError):
    """The model has no price, and the operator wants such requests to be refused."""

    status = 503
    code = "model_not_priced"
    should_retry = False


class DatabaseUnavailable(ApiError):
    """The database is away; inference goes on without it."""

    status = 503
    code = "database_unavailable"


class UpstreamTimeout(ApiError):
    """The replica was silent for too long."""

    status = 504
    code = "upstream_timeout"
    should_retry = False


class UpstreamRefused(ApiError):
    """A replica's own 4xx, in OpenAI's shape: vLLM's type names and integer codes are normalised."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        message, param, code = _upstream_detail(body, status)
        super().__init__(message, param=param, retry_after_s=retry_after_s(headers))
        self.status = status  # type: ignore[misc]  # this one class carries what the replica said
        self.type = type_of_status.get(status, "server_error")  # type: ignore[misc]  # likewise
        self.code = code


def _codes(family: type[ApiError]) -> Iterator[str]:
    """Give the codes of a class and all below it."""
    yield from filter(None, (family.__dict__.get("code"), family.type))
    for below in family.__subclasses__():
        yield from _codes(below)


CODES = frozenset({*_codes(ApiError), "client_left"})
"""Every code of our own: a replica's may be any text, and has no place among a metric's labels."""


def translate(error: BaseException) -> ApiError:
    """Give the client's view of any exception; an unknown one stays opaque."""
    match error:
        case ApiError():
            return error
        case Overload():
            return Overloaded(str(error), retry_after_s=error.retry_after_s)
        case WaitExpired():
            return QueueTimeout(str(error), retry_after_s=error.retry_after_s)
        case ReplyTimeout():
            return UpstreamTimeout(f"The model's server was silent for too long: {error}.")
        case ClientError():
            return UpstreamFailed(f"The model's server failed: {error}.")
        case _:
            return InternalError("The server had an error while processing your request.")


def ours(status: int) -> bool:
    """Whether a status tells of a failure of ours: 408 is a queue in which no replica became free in time."""
    return status >= 500 or status == QueueTimeout.status


def error_body(error: ApiError) -> bytes:
    """Render the JSON body, ``{"error": {"message", "type", "param", "code"}}``."""
    return msgspec.json.encode({"error": _fields(error)})


class _Described(msgspec.Struct, frozen=True):
    status: int
    type: str
    code: str | None
    message: str
    param: str | None
    retry_after_s: float | None
    should_retry: bool | None


def described(error: ApiError) -> bytes:
    """Write an error down for whoever shares the answer, in this process or another."""
    return msgspec.json.encode(
        _Described(
            error.status,
            error.type,
            error.code,
            error.message,
            error.param,
            error.retry_after_s,
            error.should_retry,
        )
    )


def from_description(text: bytes) -> ApiError:
    """Give an error that was written down."""
    said = msgspec.json.decode(text, type=_Described)
    error = ApiError(said.message, param=said.param, retry_after_s=said.retry_after_s)
    error.status = said.status  # type: ignore[misc]  # this one object carries what another one said
    error.type = said.type  # type: ignore[misc]  # likewise
    error.code, error.should_retry = said.code, said.should_retry
    return error


def error_event(error: ApiError) -> bytes:
    """Render the in-band server-sent event that ends a stream which can no longer end well."""
    return b"data: " + error_body(error) + b"\n\n"


def error_headers(error: ApiError) -> list[tuple[bytes, bytes]]:
    """Give ``retry-after``, ``retry-after-ms``, ``x-should-retry`` where known, and its own headers."""
    headers = list(error.headers)
    if error.retry_after_s is not None:
        wait_s = min(max(error.retry_after_s, 0.0), MAX_RETRY_AFTER_S)
        headers.append((b"retry-after", str(max(1, math.ceil(wait_s))).encode()))
        headers.append((b"retry-after-ms", str(math.ceil(wait_s * 1000)).encode()))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    return headers


def _fields(error: ApiError) -> dict[str, str | None]:
    return {"message": error.message, "type": error.type, "param": error.param, "code": error.code}


def _upstream_detail(body: bytes, status: int) -> tuple[str, str | None, str | None]:
    """Read message, param and a textual code out of whatever error body a server sent."""
    detail = _error_object(body)
    message = detail.get("message")
    if not isinstance(message, str) or not message:
        message = f"The model's server refused the request with status {status}."
    param, code = detail.get("param"), detail.get("code")
    if status == 400 and _OVER_CONTEXT.search(message):
        code = ContextLengthExceeded.code
    elif not isinstance(code, str):
        code = _code_of_status.get(status)
    return message, param.removeprefix("body.") if isinstance(param, str) else None, code


def _error_object(body: bytes) -> dict[str, Any]:
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    while isinstance(parsed, dict) and parsed.get("error"):
        parsed = parsed["error"]  # some wrap an error twice
    if isinstance(parsed, str):
        return {"message": parsed}
    if isinstance(parsed, dict):
        return parsed if "message" in parsed else {"message": parsed.get("detail")}
    return {}


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read how long a server wants to be left alone: ``retry-after-ms``, or ``retry-after``, also as a date.

    A date is held against the server's own ``date``, so that its clock need not be ours.
    """
    exact_ms, text = _number(headers.get("retry-after-ms")), headers.get("retry-after")
    if exact_ms is not None:
        return exact_ms / 1000
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    until, said = _date(text), _date(headers.get("date", ""))
    if until is None:
        return None
    return max(0.0, (until - (said or datetime.now(UTC))).total_seconds())


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return max(0.0, number) if math.isfinite(number) else None


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
