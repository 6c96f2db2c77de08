"""What a panel is: a title, what it tells, its unit, and its queries (PromQL, or SQL on the ledger)."""

from typing import Literal

import msgspec

RATE = "$__rate_interval"
EMPTY = "nothing yet"


class Panel(msgspec.Struct, frozen=True):
    """``queries`` are pairs of a legend and an expression."""

    title: str
    text: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: Literal["timeseries", "stat", "table"] = "timeseries"
    sql: bool = False
    empty: str = EMPTY


class Board(msgspec.Struct, frozen=True):
    """One dashboard; ``uid`` is its address and the name of its file."""

    uid: str
    title: str
    text: str
    panels: tuple[Panel, ...]


def graph(title: str, text: str, unit: str, *queries: tuple[str, str], empty: str = EMPTY) -> Panel:
    """Give a panel over time."""
    return Panel(title, text, unit, queries, empty=empty)


def figure(title: str, text: str, unit: str, query: str, empty: str = EMPTY) -> Panel:
    """Give a panel with one number."""
    return Panel(title, text, unit, (("", query),), "stat", empty=empty)


def table(title: str, text: str, unit: str, query: str, empty: str = EMPTY) -> Panel:
    """Give a table read from the database."""
    return Panel(title, text, unit, (("", query),), "table", sql=True, empty=empty)


def rate(metric: str, by: str, where: str = "") -> str:
    """Give a counter's rate per second."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[{RATE}]))"


def alike(metric: str, by: str, where: str = "") -> str:
    """Give what every gateway tells alike, of an engine or of all replicas: not added up."""
    return f"max by ({by}) ({metric}{{{where}}})"


def alike_rate(metric: str, by: str, where: str = "") -> str:
    """Give the rate per second of an engine's counter, which every gateway tells alike."""
    return f"max by ({by}) (rate({metric}{{{where}}}[{RATE}]))"


def share(part: str, whole: str, by: str) -> str:
    """Give the quotient of two counters' rates; each is a metric with its labels in braces."""
    return f"sum by ({by}) (rate({part}[{RATE}])) / sum by ({by}) (rate({whole}[{RATE}]))"


def quantile(q: float, metric: str, by: str, where: str = "") -> str:
    """Give a quantile of a histogram."""
    inner = f"sum by (le, {by}) (rate({metric}_bucket{{{where}}}[{RATE}]))"
    return f"histogram_quantile({q}, {inner})"


def mean(metric: str, by: str, where: str = "") -> str:
    """Give the mean of a histogram."""
    return share(f"{metric}_sum{{{where}}}", f"{metric}_count{{{where}}}", by)
