"""Objectives held live: shares with forced queries and several processes, costs, what is told of them."""

from itertools import pairwise

import numpy as np
import pytest

from routing.complexity import ShareController, share_for_quality, tier_shares
from routing.embedding import load_facts
from routing.forecast import Known, forecast, picture
from routing.objectives import Shares, Spending, Steps, mean_cost, share_for_cost

PRIOR = [step / 64 for step in range(65)]
COSTS = [0.001, 0.01]


def test_fixed_thresholds_part_the_scores_evenly_and_never_below_the_floor() -> None:
    steps = Steps(0.8, 3)
    assert [steps.place(score).tier for score in (0.1, 0.4, 0.79, 0.8)] == [0, 1, 1, 2]
    assert steps.place(0.1, least=2).tier == 2
    assert steps.thresholds() == [0.4, 0.8]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_that_part_a_sorted_stream_hold_its_share_together(processes: int) -> None:
    draw = np.random.default_rng(processes)
    scores = np.concatenate(
        [draw.uniform(0, 0.2, 3000), draw.uniform(0.7, 1, 3000), draw.uniform(0, 1, 3000)]
    )
    held = [Shares(0.3, 2, PRIOR, processes) for _ in range(processes)]
    large = np.array([held[draw.integers(processes)].place(score).tier for score in scores])
    windows = np.convolve(large, np.ones(2000), "valid") / 2000
    assert np.abs(windows - 0.3).max() <= (0.01 if processes == 1 else 0.03)


@pytest.mark.parametrize("tiers", [3, 4])
def test_each_tier_of_several_has_its_share_of_a_sorted_stream(tiers: int) -> None:
    draw, held = np.random.default_rng(5), Shares(0.3, tiers, PRIOR)
    parts = ((0.0, 0.2), (0.85, 1.0), (0.4, 0.6), (0.0, 0.05), (0.6, 1.0))
    scores = np.concatenate([draw.uniform(low, high, 1800) for low, high in parts])
    placed = np.array([held.place(float(score)).tier for score in scores])
    windows = np.convolve(placed == tiers - 1, np.ones(2000), "valid") / 2000
    assert np.abs(windows - 0.3).max() <= 0.01
    for tier, share in enumerate(tier_shares(0.3, tiers), 1):
        assert (placed >= tier).mean() == pytest.approx(share, abs=0.01)


def test_what_is_forced_goes_above_and_is_paid_back_by_the_rest() -> None:
    draw, shares = np.random.default_rng(1), Shares(0.3, 2, PRIOR)
    forced = draw.uniform(size=4000) < 0.1
    tiers = [shares.place(float(draw.uniform()), int(one)).tier for one in forced]
    assert all(tier == 1 for tier, one in zip(tiers, forced, strict=True) if one)
    assert abs(np.mean(tiers[1000:]) - 0.3) < 0.02


def test_more_forced_than_wanted_does_not_starve_the_rest_for_ever() -> None:
    controller = ShareController.start(0.1, PRIOR)
    for _ in range(20_000):
        controller.decide(0.5, forced=True)
    assert controller.owed >= -500


@pytest.mark.parametrize("usd", [0.002, 0.005, 0.009])
def test_a_cost_per_request_is_held_though_the_prices_were_guessed_wrong(usd: float) -> None:
    draw, spending = np.random.default_rng(2), Spending(usd, COSTS, PRIOR)
    paid = []
    for _ in range(6000):
        tier = spending.place(float(draw.uniform())).tier
        paid.append(float((0.0004, 0.013)[tier] * draw.uniform(0.5, 1.5)))
        spending.spent(tier, paid[-1])
    assert np.mean(paid[2000:]) == pytest.approx(usd, rel=0.05)


@pytest.mark.parametrize("guessed", [[0.0, 0.0, 0.0], [0.0007, 0.0028, 0.0112], [2e-7, 5e-7, 2e-6]])
@pytest.mark.parametrize("part", [0.2, 0.6])
def test_a_cost_is_held_from_the_first_hundreds_of_requests_on(guessed: list[float], part: float) -> None:
    """A tier that was thought too dear is not left out: what the others cost tells how wrong that was."""
    costs = (1.2e-5, 5e-5, 2e-4)
    usd = costs[0] + part * (costs[-1] - costs[0])
    draw, spending = np.random.default_rng(1), Spending(usd, guessed, PRIOR)
    paid = []
    for _ in range(1000):
        tier = spending.place(float(draw.uniform())).tier
        paid.append(costs[tier] * float(draw.lognormal(-0.32, 0.8)))  # of mean 1
        spending.spent(tier, paid[-1])
    assert np.mean(paid[:500]) == pytest.approx(usd, rel=0.1)
    assert np.mean(paid) == pytest.approx(usd, rel=0.05)


def test_a_cost_out_of_reach_is_all_small_or_all_large() -> None:
    assert share_for_cost(0.0001, COSTS) == 0.0
    assert share_for_cost(1.0, COSTS) == 1.0
    assert [Spending(usd, COSTS, PRIOR).place(0.5).tier for usd in (0.0001, 1.0)] == [0, 1]


@pytest.mark.parametrize("costs", [COSTS, [0.001, 0.002, 0.02], [0.0, 0.0, 0.0]])
def test_the_share_for_a_cost_costs_that(costs: list[float]) -> None:
    for share in (0.1, 0.5, 0.9):
        usd = mean_cost(share, costs)
        assert mean_cost(share_for_cost(usd, costs), costs) == pytest.approx(usd, abs=1e-6)


def test_a_forecast_from_outcomes_lies_between_random_and_the_oracle() -> None:
    draw = np.random.default_rng(3)
    scores = draw.uniform(size=800)
    small = (draw.uniform(size=800) < 0.8 - 0.5 * scores).astype(float)
    large = (draw.uniform(size=800) < 0.9).astype(float)
    known = Known([0.5, 1.0], 0.1)
    found = forecast(("large_share", 0.3), scores, (small, large), known, COSTS)
    assert (found.queries, found.labelled, found.share) == (800, True, 0.3)
    assert found.ci[0] < found.quality < found.ci[1]
    assert found.cost_usd == pytest.approx(0.7 * 0.001 + 0.3 * 0.01)
    for point in found.curve[1:-1]:
        assert point.oracle is not None
        assert point.random - 0.03 < point.quality <= point.oracle
    assert all(one.share < two.share for one, two in pairwise(found.curve))
    wanted = forecast(("quality", found.quality), scores, (small, large), known, None)
    assert wanted.share <= 0.3 + 1e-9
    assert picture(found).count("<polyline") == 3


def test_a_forecast_without_outcomes_is_the_validation_rows() -> None:
    facts = load_facts()
    known = Known(facts.quality_by_share, facts.quality_spread)
    found = forecast(("quality", 0.9), np.linspace(0, 1, 11), None, known, None)
    assert not found.labelled
    assert found.quality >= 0.9
    assert found.share == pytest.approx(share_for_quality(facts.quality_by_share, 0.9), abs=1e-4)  # as live
    assert found.ci == pytest.approx((found.quality - known.spread, found.quality + known.spread), abs=1e-4)
    assert picture(found).count("<polyline") == 2
    assert forecast(("threshold", 0.5), np.linspace(0, 1, 11), None, known, None).share == pytest.approx(
        6 / 11, abs=1e-4
    )
    with pytest.raises(ValueError, match="prices"):
        forecast(("cost_per_request_usd", 0.1), np.ones(3), None, known, None)
