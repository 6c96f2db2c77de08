"""What may be cached, and which answers are the same. Pure.

A key is a hash over the scope (tenant, model or route) and the canonical request: scope is a hard
partition, never a filter.
"""

import hashlib


def cacheable(temperature: float | None, max_temperature: float) -> bool:
    """Tell whether an answer sampled at this temperature may be kept (None: the model's default, 1)."""
    return (1.0 if temperature is None else temperature) <= max_temperature


def deterministic(temperature: float | None, seeded: bool) -> bool:
    """Tell whether asking twice gives the same: sampled at temperature 0, or with a seed."""
    return temperature == 0 or seeded


def reusable(finish_reasons: list[str]) -> bool:
    """Tell whether an answer that ended so may be served again: not one cut short or filtered."""
    return not any(reason in ("length", "content_filter", "abort", "error") for reason in finish_reasons)


def exact_key(tenant: str, model: str, canonical: bytes) -> bytes:
    """Give the key of a request: 32 bytes."""
    hasher = hashlib.sha256()
    for part in (tenant.encode(), model.encode(), canonical):
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.digest()
