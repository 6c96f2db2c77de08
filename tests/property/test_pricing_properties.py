"""Money is exact: parts sum to the whole, and nothing is negative."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.openai.usage import MAX_TOKENS, PromptDetails, Usage, UsageFields
from gateway.tenancy.pricing import Price, amount_nanousd, per_token_nanousd, price_of

nanousd = st.integers(0, 10**9)
ppm = st.integers(0, 10**6)
prices = st.builds(
    Price, model=st.just("m"), version=st.just("v"), input_nanousd=nanousd, cached_input_nanousd=nanousd,
    output_nanousd=nanousd, cache_hit_ppm=ppm, joined_ppm=ppm,
)  # fmt: skip
tokens = st.integers(0, 10**6)
usages = st.tuples(tokens, tokens, tokens).map(lambda t: Usage(t[0] + t[2], t[1], t[2]))


@given(prices, st.lists(usages, max_size=6))
def test_the_amount_of_a_sum_is_the_sum_of_the_amounts(price: Price, parts: list[Usage]) -> None:
    whole = Usage(
        sum(one.prompt_tokens for one in parts),
        sum(one.completion_tokens for one in parts),
        sum(one.cached_tokens for one in parts),
    )
    assert amount_nanousd(price, whole, "upstream") == sum(
        amount_nanousd(price, one, "upstream") for one in parts
    )


@given(prices, usages)
def test_a_hit_never_costs_more_than_the_answer_and_is_right_to_half_a_nano_dollar(
    price: Price, usage: Usage
) -> None:
    full = amount_nanousd(price, usage, "upstream")
    for source, factor_ppm in (("hit-exact", price.cache_hit_ppm), ("joined", price.joined_ppm)):
        amount = amount_nanousd(price, usage, source)  # type: ignore[arg-type]  # literals of a loop
        assert 0 <= amount <= full
        assert abs(2 * (amount * 10**6 - full * factor_ppm)) <= 10**6


@given(st.integers(), st.none() | st.integers(), st.integers(), prices)
def test_whatever_usage_an_upstream_claims_the_amount_fits_the_books(
    prompt: int, completion: int | None, cached: int, price: Price
) -> None:
    usage = UsageFields(prompt, completion, PromptDetails(cached)).usage()
    assert 0 <= usage.cached_tokens <= usage.prompt_tokens <= MAX_TOKENS
    assert 0 <= amount_nanousd(price, usage, "upstream") < 2**63


@given(st.integers(0, 10**9))
def test_every_whole_price_is_kept_exactly(per_token: int) -> None:
    assert per_token_nanousd(per_token / 1000) == per_token


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_versions_tell_prices_apart(one: int, other: int, output: int) -> None:
    def version(per_token: int) -> str:
        return price_of(
            "m", input_usd=per_token / 1000, cached_usd=None, output_usd=output / 1000, factors=(1, 1)
        ).version

    assert (version(one) == version(other)) == (one == other)
