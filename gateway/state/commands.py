"""The commands that ``gateway.state.redis`` sends: calls of the scripts, with their keys and arguments.

Every key begins with ``PREFIX``, so that an ACL may keep a gateway to its own. An end user stands in a key
by the hash that is in the account's name.
"""

import math
from hashlib import sha1
from typing import Any

from gateway.state import scripts
from gateway.state.limits import Ask, Standing
from gateway.state.periods import DAY_S, Span, spans

Command = list[Any]

PREFIX = "switchgear:limits:"
HOLDERS = PREFIX + "holders"
NUMBER_LIMIT = 2**53


def _sha1(script: str) -> str:
    return sha1(script.encode(), usedforsecurity=False).hexdigest()


SCRIPTS = (scripts.TAKE, scripts.EXTEND, scripts.SETTLE, scripts.BOOK, scripts.RESTORE, scripts.BEAT)
TAKE, EXTEND, SETTLE, BOOK, RESTORE, BEAT = (_sha1(script) for script in SCRIPTS)


def load() -> list[Command]:
    """Give the commands that make the scripts known."""
    return [["SCRIPT", "LOAD", script] for script in SCRIPTS]


def beat(holder: str, mark: str, lease_s: float) -> Command:
    """Show that a holder lives; ``mark`` is the answer to its last beat, empty for its first."""
    return _call(BEAT, [HOLDERS], holder, mark, lease_s)


def part(holder: str) -> list[Command]:
    """Give up the place of a holder, if there is one."""
    return [["ZREM", HOLDERS, holder]] if holder else []


def take(holder: str, ask: Ask, now_s: float, *, force: bool) -> Command:
    """Take everything or nothing; ``force`` counts what was admitted elsewhere."""
    limits: list[str | int] = []
    for one in ask.bounds:
        limits += map(_text, (one.rpm, one.tpm, one.rpd, one.tpd, one.concurrency, one.budget_nanousd))
        limits.append(one.floor_nanousd if one.credit else "")
    forced = "1" if force else ""
    return _call(TAKE, _keys(ask, now_s), holder, repr(now_s), ask.tokens, ask.cost_nanousd, forced, *limits)


def extend(holder: str, ask: Ask, cost_nanousd: int, now_s: float, *, force: bool) -> Command:
    """Reserve more, or less; ``force`` asks nothing."""
    limits: list[str | int] = []
    for one in ask.bounds:
        limits += (_text(one.budget_nanousd), one.floor_nanousd if one.credit else "")
    return _call(EXTEND, _keys(ask, now_s), holder, cost_nanousd, "1" if force else "", *limits)


def settle(
    holder: str, ask: Ask, reserved_nanousd: int, tokens: int, cost_nanousd: int, now_s: float
) -> Command:
    """Give back what was reserved, book what was used."""
    limits: list[str | int] = []
    for one in ask.bounds:
        counted = one.budget_nanousd is not None and not (one.credit and one.budget_period == "total")
        kept = kept_ms(spans(now_s)[one.budget_period], now_s) if counted else ""
        limits += (_text(one.tpm), _text(one.tpd), "1" if one.credit else "", kept)
    amounts = (ask.tokens, tokens, -reserved_nanousd, cost_nanousd)
    return _call(SETTLE, _keys(ask, now_s), holder, repr(now_s), *amounts, *limits)


def book(holder: str, name: str, standing: Standing, now_s: float) -> Command:
    """Say what SQL knows of an account."""
    keys, arguments = [HOLDERS, PREFIX + "granted:" + name], [standing.granted_nanousd]
    for period, amount in standing.spent.items():
        span = spans(now_s)[period]
        keys.append(f"{PREFIX}spent:{name}:{span.label}")
        arguments += [amount, kept_ms(span, now_s)]
    return _call(BOOK, keys, holder, *arguments)


def restore(holder: str, name: str, running: int, reserved_nanousd: int) -> Command:
    """Say what a holder that has just joined holds already of an account."""
    return _call(RESTORE, [HOLDERS, PREFIX + "held:" + name], holder, running, reserved_nanousd)


def kept_ms(span: Span, now_s: float) -> int:
    """Give for how long the spending of a period is kept: a day beyond its end; 0 is for ever."""
    return 0 if math.isinf(span.end_s) else int((span.end_s + DAY_S - now_s) * 1000)


def _call(script: str, keys: list[str], *arguments: str | float) -> Command:
    return ["EVALSHA", script, len(keys), *keys, *arguments]


def _text(limit: int | None) -> str | int:
    return "" if limit is None else limit


def _keys(ask: Ask, now_s: float) -> list[str]:
    """Give the keys of an ask, as the scripts want them."""
    keys, now = [HOLDERS], spans(now_s)
    for bound in ask.bounds:
        name = bound.account
        keys += (
            f"{PREFIX}rates:{name}",
            f"{PREFIX}held:{name}",
            f"{PREFIX}granted:{name}",
            f"{PREFIX}spent:{name}:total",
            f"{PREFIX}spent:{name}:{now[bound.budget_period].label}",
        )
    return keys
