"""What answers cost: whole nano-dollars, exactly."""

from typing import Any

import pytest

from gateway.openai.usage import Usage
from gateway.settings import ModelSettings, PriceSettings
from gateway.tenancy.pricing import (
    Price,
    PriceError,
    amount_nanousd,
    nanousd_to_usd,
    per_token_nanousd,
    price_of,
    price_of_model,
    unpriced,
    usd_to_nanousd,
)
from tests.fakes.prices import priced

PRICE = priced("m", input=0.05, cached_input=0.01, output=0.2, cache_hit=0.1, joined=0.25)


@pytest.mark.parametrize(
    ("usd_per_million", "nanousd"),
    [(0.05, 50), (0.001, 1), (0.0, 0), (2.5, 2500), (0.3, 300), (0.1, 100), (0.007, 7), (1e6, 10**9),
     (6.0, 6000)],
)  # fmt: skip
def test_a_price_is_whole_nano_dollars_a_token(usd_per_million: float, nanousd: int) -> None:
    assert per_token_nanousd(usd_per_million) == nanousd


@pytest.mark.parametrize("usd_per_million", [0.0005, 0.0015, 1e-9, 0.12345, 1 / 3])
def test_a_finer_price_is_refused(usd_per_million: float) -> None:
    with pytest.raises(PriceError, match="finer than a nano-dollar"):
        per_token_nanousd(usd_per_million)
    with pytest.raises(PriceError, match="per request is finer"):
        priced("m", input=1.0, request=1.5e-9)


def test_usd_becomes_nano_dollars_and_back() -> None:
    assert usd_to_nanousd(0.1) == 100_000_000
    assert usd_to_nanousd(1e9) == 10**18
    assert usd_to_nanousd(0.000006) == 6000
    assert nanousd_to_usd(6000) == "0.000006000"
    assert nanousd_to_usd(-1_500_000_001) == "-1.500000001"
    assert nanousd_to_usd(0) == "0.000000000"


def test_cached_tokens_have_their_own_rate() -> None:
    """litellm#36168: cached tokens were billed at the full rate, four times too much."""
    assert amount_nanousd(PRICE, Usage(10, 3), "upstream") == 10 * 50 + 3 * 200
    assert amount_nanousd(PRICE, Usage(10, 3, 4), "upstream") == 6 * 50 + 4 * 10 + 3 * 200
    same = priced("m", input=0.05, output=0.2)
    assert amount_nanousd(same, Usage(10, 3, 4), "upstream") == 10 * 50 + 3 * 200


def test_reasoning_tokens_have_their_own_rate() -> None:
    price = priced("m", input=0.05, output=0.2, reasoning=0.4)
    assert amount_nanousd(price, Usage(10, 8, 0, 5), "upstream") == 10 * 50 + 3 * 200 + 5 * 400
    assert amount_nanousd(PRICE, Usage(10, 8, 0, 5), "upstream") == 10 * 50 + 8 * 200


def test_a_request_has_its_price_once_something_was_delivered() -> None:
    price = priced("m", input=0.05, output=0.2, request=0.001)
    assert amount_nanousd(price, Usage(), "upstream") == 0
    assert amount_nanousd(price, Usage(1, 0), "upstream") == 50 + 1_000_000
    assert amount_nanousd(price, Usage(1, 0), "hit-exact") == round((50 + 1_000_000) / 10)


def test_complaint_10_a_small_custom_price_is_not_lost() -> None:
    """litellm#10598: 0.000006 USD a token came out as nothing."""
    price = priced("m", input=6.0, output=6.0)
    assert amount_nanousd(price, Usage(1, 1), "upstream") == 12_000


@pytest.mark.parametrize(
    ("full", "factor_ppm", "amount"),
    [(50, 100_000, 5), (54, 100_000, 5), (55, 100_000, 6), (56, 100_000, 6), (1, 499_999, 0), (1, 500_000, 1),
     (3, 500_000, 2), (7, 1_000_000, 7), (7, 0, 0)],
)  # fmt: skip
def test_a_factor_rounds_once_half_up(full: int, factor_ppm: int, amount: int) -> None:
    price = Price(
        model="m", version="v", input_nanousd=1, cached_input_nanousd=1, output_nanousd=1,
        reasoning_nanousd=1, cache_hit_ppm=factor_ppm, joined_ppm=1_000_000 - factor_ppm,
        batch_ppm=factor_ppm, spot_ppm=1_000_000 - factor_ppm,
    )  # fmt: skip
    assert amount_nanousd(price, Usage(full), "hit-exact") == amount
    assert amount_nanousd(price, Usage(full), "hit-semantic") == amount
    assert amount_nanousd(price, Usage(full), "upstream", "batch") == amount
    rest = (full * (1_000_000 - factor_ppm) + 500_000) // 1_000_000
    assert amount_nanousd(price, Usage(full), "joined") == rest
    assert amount_nanousd(price, Usage(full), "upstream", "spot") == rest


def test_factors_are_multiplied_before_they_round() -> None:
    price = priced("m", input=0.001, cache_hit=0.5, batch=0.5)
    assert amount_nanousd(price, Usage(1), "hit-exact", "batch") == 0  # 0.25; twice rounded it would be 1
    assert amount_nanousd(price, Usage(2), "hit-exact", "batch") == 1


def test_a_changed_price_is_a_new_version() -> None:
    def version(org: str = "", **changed: Any) -> str:
        return price_of("m", PriceSettings(**{"input": 0.05, "output": 0.2, **changed}), org).version

    assert version() == version(reasoning=0.2) == version(cached_input=0.05)
    changes: list[dict[str, Any]] = [
        {"input": 0.06}, {"output": 0.3}, {"cached_input": 0.02}, {"cache_hit": 0.2}, {"joined": 0.2},
        {"reasoning": 0.3}, {"request": 0.1}, {"batch": 0.5}, {"spot": 0.5}, {"org": "acme"},
    ]  # fmt: skip
    assert len({version(), *(version(**one) for one in changes)}) == len(changes) + 1


def test_a_model_without_a_price_is_flagged() -> None:
    price = price_of_model(ModelSettings(name="m"))
    assert price == unpriced("m")
    assert (price.version, amount_nanousd(price, Usage(9, 9, 9), "upstream")) == ("unpriced", 0)
