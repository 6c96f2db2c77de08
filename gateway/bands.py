"""Bands of priority: what a key allows, what a client may choose below it, what an engine is told."""

from collections.abc import Mapping

BANDS: Mapping[str, int] = {"interactive": 0, "standard": 1, "batch": 2}
TIERS: Mapping[str, int] = {"priority": 0, "fast": 0, "default": 1, "flex": 2}
"""OpenAI's ``service_tier``; others leave the key's band."""
PRIORITY_STEP = 100
"""Between two bands at an engine: a client's own ``priority`` orders its requests within one."""


def band_of(allowed: str, tier: str | None) -> int:
    """Give the band of a request: the one its ``service_tier`` asks for, never above the key's."""
    own = BANDS[allowed]
    return own if tier is None else max(own, TIERS.get(tier, own))


def engine_priority(band: int, wish: int | None) -> int:
    """Give the ``priority`` for an engine, smaller first: a client may step back, never push forward."""
    return band * PRIORITY_STEP + min(max(wish or 0, 0), PRIORITY_STEP - 1)
