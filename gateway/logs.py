"""How the log looks, and its last errors, kept for whoever comes when something is wrong."""

import logging
from collections import deque
from datetime import UTC, datetime
from typing import Any

import msgspec

KEPT_ERRORS = 100

_encode = msgspec.json.Encoder().encode


class LastErrors(logging.Handler):
    """Keeps the last warnings and errors of the log, for ``switchgear doctor``."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.kept: deque[dict[str, Any]] = deque(maxlen=KEPT_ERRORS)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's text, without its traceback."""
        self.kept.append(
            {
                "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": record.getMessage(),
            }
        )


class JsonFormatter(logging.Formatter):
    """Writes everything else in the log as JSON too, a line each, with the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        said = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": "log",
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return _encode(said).decode()
