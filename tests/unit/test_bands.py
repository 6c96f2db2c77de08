"""What a key allows, what a client may choose, what an engine is told."""

import pytest

from gateway.bands import BANDS, band_of, engine_priority


@pytest.mark.parametrize(
    ("allowed", "tier", "band"),
    [
        ("interactive", None, "interactive"),
        ("interactive", "default", "standard"),
        ("interactive", "flex", "batch"),
        ("interactive", "priority", "interactive"),
        ("standard", "fast", "standard"),
        ("standard", "auto", "standard"),
        ("standard", "something new", "standard"),
        ("batch", "priority", "batch"),
    ],
)
def test_a_client_may_step_back_and_never_push_forward(allowed: str, tier: str | None, band: str) -> None:
    assert band_of(allowed, tier) == BANDS[band]


def test_an_engine_orders_bands_first_then_the_clients_own_wish() -> None:
    wishes = (-5, None, 0, 7, 99, 100, 10**9)
    assert [engine_priority(1, wish) for wish in wishes] == [100, 100, 100, 107, 199, 199, 199]
    assert engine_priority(0, 10**9) < engine_priority(1, -(10**9))
