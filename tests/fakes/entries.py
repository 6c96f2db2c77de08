"""Journal lines and ledger rows with everything filled in."""

from typing import Any

import msgspec

from gateway.tenancy.journal import Accepted, Entry, Progress


def accepted(request_id: str, **changed: Any) -> Accepted:
    return msgspec.structs.replace(
        Accepted(request_id, 100.5, "org", "project", "key_1", "large", "auto"), **changed
    )


def progress(request_id: str, tokens: int, **changed: Any) -> Progress:
    return msgspec.structs.replace(
        Progress(request_id, "small", "p-1", 10, tokens, tokens * 200, "small-0"), **changed
    )


def entry(request_id: str, **changed: Any) -> Entry:
    return msgspec.structs.replace(
        Entry(
            request_id, 100.5, "org", "project", "key_1", "small", "auto", "ok", 10, 4, 7, 1234, "p-1",
            "upstream", 2, "small-0,small-1", False,
        ),
        **changed,
    )  # fmt: skip
