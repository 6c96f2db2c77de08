"""What may be cached, and which answers are the same. Pure.

A key is a hash over the scope (tenant, model or route) and the canonical request: scope is a hard
partition, never a filter.
"""

import hashlib
import re
from functools import lru_cache

from semantic_cache.reading import listed


def cacheable(temperature: float | None, max_temperature: float) -> bool:
    """Tell whether an answer sampled at this temperature may be kept (None: the model's default, 1)."""
    return (1.0 if temperature is None else temperature) <= max_temperature


def deterministic(temperature: float | None, seeded: bool) -> bool:
    """Tell whether asking twice gives the same: sampled at temperature 0, or with a seed."""
    return temperature == 0 or seeded


def reusable(finish_reasons: list[str]) -> bool:
    """Tell whether an answer that ended so may be served again: not one cut short or filtered."""
    return not any(reason in ("length", "content_filter", "abort", "error") for reason in finish_reasons)


def exact_key(tenant: str, model: str, canonical: bytes, salt: bytes = b"") -> bytes:
    """Give the key of a request: 32 bytes. With a secret salt, nobody can tell from it what was asked."""
    hasher = hashlib.sha256()
    for part in (salt, tenant.encode(), model.encode(), canonical):
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.digest()


def scope_key(tenant: str, model: str, surroundings: bytes, salt: bytes = b"") -> bytes:
    """Give the partition of a question: all that surrounds its text; 32 bytes."""
    return exact_key(tenant, model, b"scope" + surroundings, salt)


_SITUATIONAL = listed("now today tonight tomorrow yesterday currently current latest recent recently")
_OF_MINE = listed(
    "account order balance address name birthday appointment invoice subscription salary diagnosis"
    " ticket parcel delivery reservation booking"
)
_VOLATILE = listed(
    "price prices cost costs weather forecast score scores news version release releases stock stocks rate"
    " rates open opening available status schedule traffic exchange"
)
_WHOSE = frozenset(("my", "our"))
_MOST_DIGITS = 6


_WORD = re.compile(r"[\w@-]+")  # letters and digits, and what holds them together
_DIGIT = re.compile(r"\d")


@lru_cache(64)  # a text is asked about several things in a row
def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.lower()))


def situational(text: str) -> bool:
    """Tell whether the answer hangs on the moment or on the person.

    Time words, addresses, long numbers; what is "my order"; but how to do something with it is everybody's.
    """
    words = _words(text)
    if "@" in text or not _SITUATIONAL.isdisjoint(words):
        return True
    if _DIGIT.search(text) is not None and any(
        len(word) >= _MOST_DIGITS and sum(map(str.isdigit, word)) >= _MOST_DIGITS for word in words
    ):
        return True
    if _WHOSE.isdisjoint(words) or "how" in words[:2]:
        return False
    return any(
        word in _WHOSE and not _OF_MINE.isdisjoint(words[at + 1 : at + 3]) for at, word in enumerate(words)
    )


def volatile(text: str) -> bool:
    """Tell whether the answer is of a kind that changes within days: prices, versions, weather, schedules."""
    return not _VOLATILE.isdisjoint(_words(text))


def tags(header: bytes) -> tuple[str, ...]:
    """Give the tags of an ``x-switchgear-cache-tag`` header: 8 names of 64 letters at most, by commas."""
    names = (name.strip()[:64] for name in header.decode("utf-8", "replace").split(","))
    return tuple(name for name in names if name)[:8]
