"""What a client hears of its limits: the headers of a rate, and the error for what was short."""

from gateway.errors import InsufficientQuota, InternalError, RateLimited
from gateway.state.limits import Verdict

_OF_REQUESTS, _OF_TOKENS = (
    b"x-ratelimit-limit-%b: %%d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %%b\r\n"
    % (name, name, name)
    for name in (b"requests", b"tokens")
)
LEVELS = {"org": "organisation", "project": "project", "key": "key", "user": "end user"}


def rate_lines(verdict: Verdict) -> bytes:
    """Give OpenAI's rate-limit headers for the rates that are configured, as lines of a head."""
    requests, tokens, lines = verdict.requests, verdict.tokens, b""
    if requests is not None:
        lines = _OF_REQUESTS % (requests.limit, requests.remaining, _duration(requests.reset_s))
    if tokens is not None:
        lines += _OF_TOKENS % (tokens.limit, tokens.remaining, _duration(tokens.reset_s))
    return lines


def _pairs(lines: bytes) -> list[tuple[bytes, bytes]]:
    named = [line.partition(b": ") for line in lines.splitlines()]
    return [(name, value) for name, _, value in named]


def _duration(seconds: float) -> bytes:
    """Write a duration as OpenAI does: ``12ms``, ``6.5s``, ``1m30s``."""
    if seconds < 1:
        return b"%.0fms" % (seconds * 1000)
    minutes, rest = divmod(round(seconds), 60)
    return (f"{minutes}m{rest}s" if minutes else f"{round(seconds, 3):g}s").encode()


def refused(verdict: Verdict) -> RateLimited | InsufficientQuota | InternalError:
    """Give the error for a verdict that admits nothing."""
    level = LEVELS.get(verdict.account.partition(":")[0], "account")
    match verdict.short:
        case "requests" | "tokens" as what:
            error = RateLimited(
                f"Rate limit of this {level} reached: {verdict.limit} {what} per {verdict.period}. "
                f"Try again in {verdict.retry_after_s:.1f} s.",
                retry_after_s=verdict.retry_after_s,
            )
            error.headers = _pairs(rate_lines(verdict))
            error.type = what  # type: ignore[misc]  # OpenAI names the exhausted rate as the type
            return error
        case "concurrency":
            return RateLimited(
                f"Too many requests of this {level} at once.", retry_after_s=verdict.retry_after_s
            )
        case "credit":
            return InsufficientQuota(f"This {level} has no credit left for this request; top up to go on.")
        case "budget":
            span = "" if verdict.period == "total" else f" for this {verdict.period}"
            return InsufficientQuota(f"The budget of this {level}{span} does not cover this request.")
        case _:
            return InternalError("The request was refused.")
