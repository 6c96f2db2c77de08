"""Right or wrong: each kind of task has an exact rule.

Arithmetic: the last number of the answer. JSON: the first object in it has exactly the keys and values, words
in any case, numbers as numbers or as their digits. Code: the function passes every call. Facts: an accepted
answer stands in it as whole words.
"""

import json
import re
from typing import Any

from bench.pair.confined import passes
from bench.pair.tasks import Task

_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
_FENCE = re.compile(r"```[a-zA-Z]*\n(.*?)(?:```|\Z)", re.DOTALL)


def right(task: Task, answer: str) -> bool:
    """Tell whether an answer is right."""
    if task.kind == "arithmetic":
        return bool(_last_number(answer) == task.right)
    if task.kind == "json":
        return _record(answer) == _plain(task.right)
    if task.kind == "code":
        return passes(_code(answer), task.right["name"], task.right["calls"])
    return any(_said(one, answer) for one in task.right)


def _last_number(answer: str) -> float | None:
    found = _NUMBER.findall(answer)
    return float(found[-1].replace(",", "")) if found else None


def _record(answer: str) -> dict[str, str] | None:
    begin = answer.find("{")
    if begin < 0:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(answer[begin:])
    except ValueError:
        return None
    return _plain(found)


def _plain(record: dict[str, Any]) -> dict[str, str]:
    return {key: str(value).strip().casefold() for key, value in record.items()}


def _code(answer: str) -> str:
    found = _FENCE.search(answer)
    return found[1] if found else answer


def _said(accepted: str, answer: str) -> bool:
    """A symbol of one or two letters must be written as such: 'au' is not gold."""
    flags = re.IGNORECASE if len(accepted) > 2 else re.NOFLAG
    return re.search(rf"(?<!\w){re.escape(accepted)}(?!\w)", answer, flags) is not None
