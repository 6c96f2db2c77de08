"""The secret that the names of kept answers are hashed with: who sees a name cannot tell what was asked.

Gateways that share what they keep need the same one: theirs is what Redis was told first (``SharedLog``).
"""

import contextlib
import os
import secrets
from pathlib import Path

SALT_BYTES = 32


def own_salt(path: Path) -> bytes:
    """Give the salt of a file; makes it where there is none. Without a place for it, one for this start."""
    fresh = secrets.token_bytes(SALT_BYTES)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(fresh)
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)  # the first of several processes wins, and its file is whole
        beside.unlink()
        kept = path.read_bytes()
        if len(kept) == SALT_BYTES:
            return kept
    return fresh
