"""What an answer costs. Pure integer arithmetic in nano-dollars.

A price per token is whole nano-dollars: 0.05 USD per million tokens is 50 a token; a finer one is refused.
Factors are parts per million and never above one, so that the full price is an upper bound. All factors of an
answer are multiplied first and the amount is rounded once, at the end, half up. Completion tokens include
reasoning tokens, prompt tokens include cached ones. Nothing delivered costs nothing, the price of a request
included. Embeddings cost the input price of their model.
"""

import hashlib
from decimal import Decimal
from typing import Literal

import msgspec

from gateway.openai.usage import MAX_TOKENS, Usage
from gateway.settings import ModelSettings, PriceSettings

NANO = 1_000_000_000
PPM = 1_000_000
UNPRICED = "unpriced"

Source = Literal["upstream", "hit-exact", "hit-semantic", "joined"]
Service = Literal["standard", "batch", "spot"]


class PriceError(ValueError):
    """A price that cannot be kept."""


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one model's price, in nano-dollars; ``org`` is empty where it holds for everybody."""

    model: str
    version: str
    org: str = ""
    input_nanousd: int
    cached_input_nanousd: int
    output_nanousd: int
    reasoning_nanousd: int
    request_nanousd: int = 0
    cache_hit_ppm: int = PPM
    joined_ppm: int = PPM
    batch_ppm: int = PPM
    spot_ppm: int = PPM


def unpriced(model: str) -> Price:
    """Give the price of a model that has none: zero, and flagged by its version."""
    return Price(
        model=model,
        version=UNPRICED,
        input_nanousd=0,
        cached_input_nanousd=0,
        output_nanousd=0,
        reasoning_nanousd=0,
    )


def per_token_nanousd(usd_per_million: float) -> int:
    """Turn USD per million tokens into whole nano-dollars per token; raises PriceError if it is finer."""
    exact = Decimal(str(usd_per_million)) * NANO / 1_000_000
    if exact != exact.to_integral_value():
        raise PriceError(f"{usd_per_million} USD per million tokens is finer than a nano-dollar a token")
    return int(exact)


def usd_to_nanousd(usd: float) -> int:
    """Turn an amount in USD into whole nano-dollars."""
    return int((Decimal(str(usd)) * NANO).to_integral_value())


def nanousd_to_usd(nanousd: int) -> str:
    """Write an amount in USD, exactly."""
    sign, rest = "-" * (nanousd < 0), abs(nanousd)
    return f"{sign}{rest // NANO}.{rest % NANO:09d}"


def price_of(model: str, settings: PriceSettings, org: str = "") -> Price:
    """Build a price whose version is a hash of its content: a change makes a new one. Raises PriceError."""
    cached = settings.input if settings.cached_input is None else settings.cached_input
    reasoning = settings.output if settings.reasoning is None else settings.reasoning
    request_nanousd = usd_to_nanousd(settings.request)
    if Decimal(str(settings.request)) * NANO != request_nanousd:
        raise PriceError(f"{settings.request} USD per request is finer than a nano-dollar")
    price = Price(
        model=model,
        version="",
        org=org,
        input_nanousd=per_token_nanousd(settings.input),
        cached_input_nanousd=per_token_nanousd(cached),
        output_nanousd=per_token_nanousd(settings.output),
        reasoning_nanousd=per_token_nanousd(reasoning),
        request_nanousd=request_nanousd,
        cache_hit_ppm=round(settings.cache_hit * PPM),
        joined_ppm=round(settings.joined * PPM),
        batch_ppm=round(settings.batch * PPM),
        spot_ppm=round(settings.spot * PPM),
    )
    content = repr(msgspec.structs.astuple(price))
    return msgspec.structs.replace(price, version=f"p-{hashlib.sha256(content.encode()).hexdigest()[:16]}")


def price_of_model(settings: ModelSettings) -> Price:
    """Give the price of a model, or the flagged zero of one that has none. Raises PriceError."""
    return unpriced(settings.name) if settings.price is None else price_of(settings.name, settings.price)


def ceiling_nanousd(price: Price, prompt_tokens: int, output_tokens: int) -> int:
    """Give the most that so many tokens can cost, whatever part of them is cached or reasoning."""
    return (
        prompt_tokens * max(price.input_nanousd, price.cached_input_nanousd)
        + output_tokens * max(price.output_nanousd, price.reasoning_nanousd)
        + price.request_nanousd
    )


def covered_tokens(price: Price, reserved_nanousd: int, prompt_tokens: int) -> int:
    """Give how many output tokens a reservation covers beside the prompt; -1 where not even that."""
    left = reserved_nanousd - ceiling_nanousd(price, prompt_tokens, 0)
    dearest = max(price.output_nanousd, price.reasoning_nanousd)
    return -1 if left < 0 else left // dearest if dearest else MAX_TOKENS


def amount_nanousd(price: Price, usage: Usage, source: Source, service: Service = "standard") -> int:
    """Give the amount of one answer."""
    if not usage.prompt_tokens and not usage.completion_tokens:
        return 0
    full = (
        usage.prompt_tokens * price.input_nanousd
        + usage.completion_tokens * price.output_nanousd
        + price.request_nanousd
    )
    if usage.cached_tokens:
        full += usage.cached_tokens * (price.cached_input_nanousd - price.input_nanousd)
    if usage.reasoning_tokens:
        full += usage.reasoning_tokens * (price.reasoning_nanousd - price.output_nanousd)
    if source == "upstream" and service == "standard":
        return full
    factor = whole = 1
    if source != "upstream":
        factor, whole = price.joined_ppm if source == "joined" else price.cache_hit_ppm, PPM
    if service != "standard":
        factor *= price.batch_ppm if service == "batch" else price.spot_ppm
        whole *= PPM
    return (full * factor + whole // 2) // whole
