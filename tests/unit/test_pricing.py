"""What answers cost: whole nano-dollars, exactly."""

import pytest

from gateway.openai.usage import Usage
from gateway.settings import ModelSettings, PriceSettings
from gateway.tenancy.pricing import (
    Price,
    PriceError,
    amount_nanousd,
    per_token_nanousd,
    price_of,
    price_of_model,
    unpriced,
    usd_to_nanousd,
)

PRICE = price_of("m", input_usd=0.05, cached_usd=0.01, output_usd=0.2, factors=(0.1, 0.25))


@pytest.mark.parametrize(
    ("usd_per_million", "nanousd"),
    [
        (0.05, 50),
        (0.001, 1),
        (0.0, 0),
        (2.5, 2500),
        (0.3, 300),
        (0.1, 100),
        (0.007, 7),
        (1e6, 10**9),
        (6.0, 6000),
    ],
)
def test_a_price_is_whole_nano_dollars_a_token(usd_per_million: float, nanousd: int) -> None:
    assert per_token_nanousd(usd_per_million) == nanousd


@pytest.mark.parametrize("usd_per_million", [0.0005, 0.0015, 1e-9, 0.12345, 1 / 3])
def test_a_finer_price_is_refused(usd_per_million: float) -> None:
    with pytest.raises(PriceError, match="finer than a nano-dollar"):
        per_token_nanousd(usd_per_million)


def test_usd_becomes_nano_dollars() -> None:
    assert usd_to_nanousd(0.1) == 100_000_000
    assert usd_to_nanousd(1e9) == 10**18
    assert usd_to_nanousd(0.000006) == 6000


def test_cached_tokens_have_their_own_rate() -> None:
    assert amount_nanousd(PRICE, Usage(10, 3), "upstream") == 10 * 50 + 3 * 200
    assert amount_nanousd(PRICE, Usage(10, 3, 4), "upstream") == 6 * 50 + 4 * 10 + 3 * 200
    same = price_of("m", input_usd=0.05, cached_usd=None, output_usd=0.2, factors=(1, 1))
    assert amount_nanousd(same, Usage(10, 3, 4), "upstream") == 10 * 50 + 3 * 200


@pytest.mark.parametrize(
    ("full", "factor_ppm", "amount"),
    [(50, 100_000, 5), (54, 100_000, 5), (55, 100_000, 6), (56, 100_000, 6), (1, 499_999, 0), (1, 500_000, 1),
     (3, 500_000, 2), (7, 1_000_000, 7), (7, 0, 0)],
)  # fmt: skip
def test_a_factor_rounds_once_half_up(full: int, factor_ppm: int, amount: int) -> None:
    price = Price(
        model="m", version="v", input_nanousd=1, cached_input_nanousd=1, output_nanousd=1,
        cache_hit_ppm=factor_ppm, joined_ppm=1_000_000 - factor_ppm,
    )  # fmt: skip
    assert amount_nanousd(price, Usage(full), "hit-exact") == amount
    assert amount_nanousd(price, Usage(full), "hit-semantic") == amount
    rest = (full * (1_000_000 - factor_ppm) + 500_000) // 1_000_000
    assert amount_nanousd(price, Usage(full), "joined") == rest


def test_a_changed_price_is_a_new_version() -> None:
    def version(**changed: float) -> str:
        given = {
            "input": 0.05,
            "output": 0.2,
            "cached_input": 0.01,
            "cache_hit": 0.1,
            "joined": 0.1,
            **changed,
        }
        return price_of_model(ModelSettings(name="m", price=PriceSettings(**given))).version

    assert version() == version()
    changes = [{"input": 0.06}, {"output": 0.3}, {"cached_input": 0.02}, {"cache_hit": 0.2}, {"joined": 0.2}]
    assert len({version(), *(version(**one) for one in changes)}) == 6


def test_a_model_without_a_price_is_flagged() -> None:
    price = price_of_model(ModelSettings(name="m"))
    assert price == unpriced("m")
    assert (price.version, amount_nanousd(price, Usage(9, 9, 9), "upstream")) == ("unpriced", 0)
