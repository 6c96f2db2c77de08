"""Budget periods: UTC days, ISO weeks (from Monday), calendar months, and all time."""

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal

import msgspec

Period = Literal["day", "week", "month", "total"]
DAY_S = 86_400.0


class Span(msgspec.Struct, frozen=True):
    """One period: a label that no other has, its first second and the first one behind it."""

    label: str
    start_s: float
    end_s: float


def spans(now_s: float) -> Mapping[Period, Span]:
    """Give the periods that a moment (epoch seconds) lies in."""
    return _spans_of_day(int(now_s // DAY_S))


@lru_cache(maxsize=64)
def _spans_of_day(day: int) -> Mapping[Period, Span]:
    today = date(1970, 1, 1) + timedelta(days=day)
    monday = today - timedelta(days=today.weekday())
    first = today.replace(day=1)
    year, week, _ = today.isocalendar()
    return {
        "day": Span(today.isoformat(), _epoch_s(today), _epoch_s(today + timedelta(days=1))),
        "week": Span(f"{year}-W{week:02d}", _epoch_s(monday), _epoch_s(monday + timedelta(days=7))),
        "month": Span(
            first.isoformat()[:7],
            _epoch_s(first),
            _epoch_s((first + timedelta(days=31)).replace(day=1)),
        ),
        "total": Span("total", 0.0, math.inf),
    }


def _epoch_s(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
