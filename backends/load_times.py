"""How long each model took to become ready the last time, kept over restarts for a truthful Retry-After."""

import contextlib
import os
from pathlib import Path

import msgspec

UNKNOWN_S = 60.0
"""For a model that was never loaded here."""


class LoadTimes:
    """A small JSON file, model -> seconds; an unreadable one counts as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds: dict[str, float] = {}
        with contextlib.suppress(OSError, msgspec.DecodeError):
            self._seconds = msgspec.json.decode(path.read_bytes(), type=dict[str, float])

    def expected_s(self, model: str) -> float:
        return self._seconds.get(model, UNKNOWN_S)

    def remember(self, model: str, seconds: float) -> None:
        """A full disk loses the estimate, nothing else."""
        self._seconds[model] = round(seconds, 1)
        draft = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(msgspec.json.encode(self._seconds))
            os.replace(draft, self._path)
