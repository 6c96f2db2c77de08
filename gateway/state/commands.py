"""The commands that ``gateway.state.redis`` sends: calls of the scripts, with their keys and arguments.

Every key begins with ``PREFIX``, so that an ACL may keep a gateway to its own. An end user stands in a key
by the hash that is in the account's name.
"""

from hashlib import sha1
from typing import Any

from gateway.state import scripts
from gateway.state.limits import Ask

Command = list[Any]

PREFIX = "switchgear:limits:"
HOLDERS = PREFIX + "holders"
NUMBER_LIMIT = 2**53


def _sha1(script: str) -> str:
    return sha1(script.encode(), usedforsecurity=False).hexdigest()


SCRIPTS = (scripts.TAKE, scripts.SETTLE, scripts.RESTORE, scripts.BEAT)
TAKE, SETTLE, RESTORE, BEAT = (_sha1(script) for script in SCRIPTS)


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
        limits += map(_text, (one.rpm, one.tpm, one.rpd, one.tpd, one.concurrency))
    return _call(TAKE, _keys(ask), holder, repr(now_s), ask.tokens, "1" if force else "", *limits)


def settle(holder: str, ask: Ask, tokens: int, now_s: float) -> Command:
    """Give the slot back, put the tokens that were used in the place of the estimate."""
    limits: list[str | int] = []
    for one in ask.bounds:
        limits += (_text(one.tpm), _text(one.tpd))
    return _call(SETTLE, _keys(ask), holder, repr(now_s), ask.tokens, tokens, *limits)


def restore(holder: str, name: str, running: int) -> Command:
    """Say what a holder that has just joined runs already of an account."""
    return _call(RESTORE, [HOLDERS, PREFIX + "held:" + name], holder, running)


def _call(script: str, keys: list[str], *arguments: str | float) -> Command:
    return ["EVALSHA", script, len(keys), *keys, *arguments]


def _text(limit: int | None) -> str | int:
    return "" if limit is None else limit


def _keys(ask: Ask) -> list[str]:
    """Give the keys of an ask, as the scripts want them."""
    keys = [HOLDERS]
    for bound in ask.bounds:
        keys += (f"{PREFIX}rates:{bound.account}", f"{PREFIX}held:{bound.account}")
    return keys
