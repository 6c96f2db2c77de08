"""Money is exact: parts sum to the whole, nothing is negative, and the full price bounds every discount."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.openai.usage import MAX_TOKENS, CompletionDetails, PromptDetails, Usage, UsageFields
from gateway.tenancy.pricing import (
    PPM,
    Price,
    Service,
    Source,
    amount_nanousd,
    nanousd_to_usd,
    per_token_nanousd,
    usd_to_nanousd,
)
from tests.fakes.prices import priced

nanousd = st.integers(0, 10**9)
ppm = st.integers(0, PPM)
prices = st.builds(
    Price, model=st.just("m"), version=st.just("v"), input_nanousd=nanousd, cached_input_nanousd=nanousd,
    output_nanousd=nanousd, reasoning_nanousd=nanousd, request_nanousd=nanousd,
    cache_hit_ppm=ppm, joined_ppm=ppm, batch_ppm=ppm, spot_ppm=ppm,
)  # fmt: skip
tokens = st.integers(0, 10**6)
usages = st.tuples(tokens, tokens, tokens, tokens).map(lambda t: Usage(t[0] + t[2], t[1] + t[3], t[2], t[3]))
sources = st.sampled_from(("upstream", "hit-exact", "hit-semantic", "joined"))
services = st.sampled_from(("standard", "batch", "spot"))


@given(prices, st.lists(usages, max_size=6))
def test_the_amount_of_a_sum_is_the_sum_of_the_amounts(price: Price, parts: list[Usage]) -> None:
    price = msgspec.structs.replace(price, request_nanousd=0)
    whole = Usage(
        sum(one.prompt_tokens for one in parts),
        sum(one.completion_tokens for one in parts),
        sum(one.cached_tokens for one in parts),
        sum(one.reasoning_tokens for one in parts),
    )
    assert amount_nanousd(price, whole, "upstream") == sum(
        amount_nanousd(price, one, "upstream") for one in parts
    )


@given(prices, usages, sources, services)
def test_a_discount_is_right_to_half_a_nano_dollar_and_never_above_the_price(
    price: Price, usage: Usage, source: Source, service: Service
) -> None:
    full = amount_nanousd(price, usage, "upstream")
    factor = {"upstream": PPM, "joined": price.joined_ppm}.get(source, price.cache_hit_ppm)
    factor *= {"standard": PPM, "batch": price.batch_ppm, "spot": price.spot_ppm}[service]
    amount = amount_nanousd(price, usage, source, service)
    assert 0 <= amount <= full
    assert abs(2 * (amount * PPM**2 - full * factor)) <= PPM**2


@given(prices, usages, usages)
def test_more_tokens_never_cost_less(price: Price, usage: Usage, more: Usage) -> None:
    whole = Usage(*(one + other for one, other in zip(astuple(usage), astuple(more), strict=True)))
    assert amount_nanousd(price, whole, "upstream") >= amount_nanousd(price, usage, "upstream")


def astuple(usage: Usage) -> tuple[int, ...]:
    return msgspec.structs.astuple(usage)


@given(st.integers(), st.none() | st.integers(), st.integers(), st.integers(), prices)
def test_whatever_usage_an_upstream_claims_the_amount_fits_the_books(
    prompt: int, completion: int | None, cached: int, reasoning: int, price: Price
) -> None:
    usage = UsageFields(prompt, completion, PromptDetails(cached), CompletionDetails(reasoning)).usage()
    assert 0 <= usage.cached_tokens <= usage.prompt_tokens <= MAX_TOKENS
    assert 0 <= usage.reasoning_tokens <= usage.completion_tokens <= MAX_TOKENS
    assert 0 <= amount_nanousd(price, usage, "upstream") < 2**63


@given(st.integers(0, 10**9))
def test_every_whole_price_is_kept_exactly(per_token: int) -> None:
    assert per_token_nanousd(per_token / 1000) == per_token


@given(st.integers(-(2**62), 2**62))
def test_usd_as_text_is_exact(amount: int) -> None:
    whole, _, rest = nanousd_to_usd(amount).partition(".")
    assert int(whole + rest) == amount
    assert usd_to_nanousd(float(amount % 10**12) / 1e9) == amount % 10**12


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_versions_tell_prices_apart(one: int, other: int, output: int) -> None:
    def version(per_token: int) -> str:
        return priced("m", input=per_token / 1000, output=output / 1000).version

    assert (version(one) == version(other)) == (one == other)
