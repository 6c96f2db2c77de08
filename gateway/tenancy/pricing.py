"""What an answer costs. Pure integer arithmetic in nano-dollars.

One price is per token, so that 0.05 USD per million tokens is 50 nano-dollars a token; a finer price is
refused. Factors are parts per million. The amount is rounded once, at the end, half up.
"""

import hashlib
from decimal import Decimal
from typing import Literal

import msgspec

from gateway.openai.usage import Usage
from gateway.settings import ModelSettings

NANO = 1_000_000_000
PPM = 1_000_000

Source = Literal["upstream", "hit-exact", "hit-semantic", "joined"]


class PriceError(ValueError):
    """A price that cannot be kept exactly."""


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one model's price, in nano-dollars per token."""

    model: str
    version: str
    input_nanousd: int
    cached_input_nanousd: int
    output_nanousd: int
    cache_hit_ppm: int = PPM
    joined_ppm: int = PPM


def unpriced(model: str) -> Price:
    """Give the price of a model that has none: zero, and flagged by its version."""
    return Price(model=model, version="unpriced", input_nanousd=0, cached_input_nanousd=0, output_nanousd=0)


def per_token_nanousd(usd_per_million: float) -> int:
    """Turn USD per million tokens into whole nano-dollars per token; raises PriceError if it is finer."""
    exact = Decimal(str(usd_per_million)) * NANO / 1_000_000
    if exact != exact.to_integral_value():
        raise PriceError(f"{usd_per_million} USD per million tokens is finer than a nano-dollar a token")
    return int(exact)


def usd_to_nanousd(usd: float) -> int:
    """Turn an amount in USD into whole nano-dollars."""
    return int((Decimal(str(usd)) * NANO).to_integral_value())


def price_of(
    model: str, *, input_usd: float, cached_usd: float | None, output_usd: float, factors: tuple[float, float]
) -> Price:
    """Build a price whose version is a hash of its content, so that a change makes a new version.

    ``factors`` are those of a cache hit and of a joined request. Raises PriceError.
    """
    fields = (
        per_token_nanousd(input_usd),
        per_token_nanousd(input_usd if cached_usd is None else cached_usd),
        per_token_nanousd(output_usd),
        round(factors[0] * PPM),
        round(factors[1] * PPM),
    )
    digest = hashlib.sha256(repr((model, fields)).encode()).hexdigest()[:16]
    return Price(
        model=model,
        version=f"p-{digest}",
        input_nanousd=fields[0],
        cached_input_nanousd=fields[1],
        output_nanousd=fields[2],
        cache_hit_ppm=fields[3],
        joined_ppm=fields[4],
    )


def price_of_model(settings: ModelSettings) -> Price:
    """Give the price of a model, or the flagged zero of one that has none. Raises PriceError."""
    price = settings.price
    if price is None:
        return unpriced(settings.name)
    return price_of(
        settings.name,
        input_usd=price.input,
        cached_usd=price.cached_input,
        output_usd=price.output,
        factors=(price.cache_hit, price.joined),
    )


def amount_nanousd(price: Price, usage: Usage, source: Source) -> int:
    """Give the amount of one answer."""
    fresh_tokens = max(0, usage.prompt_tokens - usage.cached_tokens)
    full = (
        fresh_tokens * price.input_nanousd
        + usage.cached_tokens * price.cached_input_nanousd
        + usage.completion_tokens * price.output_nanousd
    )
    if source == "upstream":
        return full
    factor_ppm = price.joined_ppm if source == "joined" else price.cache_hit_ppm
    return (full * factor_ppm + PPM // 2) // PPM
