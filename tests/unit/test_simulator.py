"""The simulator: its replica does what the measured one did, and the policies keep what they promise."""

import math
import os
import random
import statistics

import pytest

from routing.policies import POLICIES
from routing.simulator import Engine, Fleet, simulate
from routing.traces import KINDS, Kind, Request, TraceError, generate, parse

ONE = Fleet(speeds=(1.0,))
RIVALS = ("round_robin", "least_requests")


def ask(at_s: float, tokens: int, output: int = 1, name: str = "") -> Request:
    return Request(at_s, ((name or f"{at_s}", tokens),), output)


@pytest.mark.parametrize(
    ("tokens", "measured_s"), [(32, 0.17), (128, 0.42), (512, 1.95), (1024, 4.0), (2048, 8.8)]
)
def test_a_prefill_takes_as_long_as_measured(tokens: int, measured_s: float) -> None:
    assert simulate([ask(0.0, tokens)], "adaptive", ONE, 0).ttft_p50_s == pytest.approx(measured_s, rel=0.2)


@pytest.mark.parametrize(("streams", "measured_s"), [(1, 0.058), (4, 0.065), (8, 0.088), (16, 0.118)])
def test_a_decode_step_takes_as_long_as_measured(streams: int, measured_s: float) -> None:
    trace = [ask(number * 1e-6, 16, 101) for number in range(streams)]
    result = simulate(trace, "adaptive", ONE, 0)
    assert (result.total_p50_s - result.ttft_p50_s) / 100 == pytest.approx(measured_s, rel=0.2)


def test_a_warm_prompt_is_prefilled_from_where_it_is_warm() -> None:
    trace = [ask(0.0, 1000, name="same"), ask(60.0, 1000, name="same")]
    result = simulate(trace, "adaptive", ONE, 0)
    assert result.prefix_hits == pytest.approx(896 / 2000)  # seven blocks of 128
    assert result.ttft_p99_s == pytest.approx(3.8, rel=0.1)
    assert result.total_p50_s == result.ttft_p99_s


def test_a_newcomer_waits_for_the_step_under_way_only() -> None:
    trace = [ask(0.0, 16, 500), ask(10.0, 16, 1)]
    result = simulate(trace, "adaptive", ONE, 0)
    assert result.ttft_p99_s < 0.3


def test_the_same_seed_gives_the_same_result() -> None:
    trace = generate(KINDS["bursty"], 3.0, 200, 5)
    assert trace == generate(KINDS["bursty"], 3.0, 200, 5)
    for policy in POLICIES:
        assert simulate(trace, policy, Fleet(), 3) == simulate(trace, policy, Fleet(), 3)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_is_served_under_overload(policy: str) -> None:
    trace = [ask(number * 0.01, 200, 20) for number in range(300)]
    result = simulate(trace, policy, Fleet(speeds=(1.0, 1.0), max_concurrency=4), 1)
    assert result.refused == 0
    assert 0 < result.fairness <= 1


@pytest.mark.parametrize("name", KINDS)
def test_a_trace_has_the_rate_it_is_asked_for(name: str) -> None:
    rates = []
    for seed in range(30):
        trace = generate(KINDS[name], 2.0, 400, seed)
        assert len(trace) == 400
        rates.append(400 / trace[-1].at_s)
    assert statistics.mean(rates) == pytest.approx(2.0, rel=0.25)


def p99s(kind: Kind, fleet: Fleet, seeds: range, requests: int = 300) -> dict[str, list[float]]:
    traces = [generate(kind, fleet.rate(kind), requests, seed) for seed in seeds]
    return {
        policy: [simulate(trace, policy, fleet, 0).ttft_p99_s for trace in traces]
        for policy in ("adaptive", *RIVALS)
    }


def better(found: dict[str, list[float]]) -> None:
    """On the mean over the seeds, and on most of them."""
    for rival in RIVALS:
        assert statistics.mean(found["adaptive"]) < statistics.mean(found[rival])
        wins = [mine < its for mine, its in zip(found["adaptive"], found[rival], strict=True)]
        assert sum(wins) > len(wins) / 2


@pytest.mark.parametrize("name", KINDS)
def test_adaptive_beats_turns_and_counting_on_the_bundled_traces(name: str) -> None:
    better(p99s(KINDS[name], Fleet(), range(1000, 1012)))


UNSEEN = {
    "poisson, long prompts": (Kind(load=0.6, prompt_tokens=500.0, prompt_sigma=0.4), Fleet()),
    "poisson, long answers": (Kind(load=0.6, prompt_tokens=80.0, output_tokens=150.0), Fleet()),
    "bursty, sharper": (Kind(load=0.45, burst=4.0, burst_s=3.0), Fleet(speeds=(1.0,) * 6)),
    "heavy-tailed, prompts only": (Kind(load=0.55, prompt_tokens=60.0, prompt_sigma=1.5), Fleet()),
    "multi-turn, one system prompt": (
        Kind(load=0.7, prompt_tokens=40.0, systems=1, system_tokens=1200, turns=6.0), Fleet(),
    ),
    "one slow replica": (Kind(load=0.6), Fleet(speeds=(1.0, 1.0, 1.0, 0.4))),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSEEN)
def test_adaptive_beats_turns_and_counting_on_other_traffic(name: str) -> None:
    kind, fleet = UNSEEN[name]
    better(p99s(kind, fleet, range(2000, 2010)))


@pytest.mark.parametrize(("every_s", "tokens"), [(0.26, 300), (0.18, 200), (0.36, 440)])
def test_adaptive_follows_no_chance_where_turns_are_best(every_s: float, tokens: int) -> None:
    """Equal requests, evenly spaced, as many as the replicas can bear."""
    trace = [ask(number * every_s, tokens, 10) for number in range(300)]
    mine, turns = (simulate(trace, policy, Fleet(), 0).ttft_p99_s for policy in ("adaptive", "round_robin"))
    assert mine < 1.1 * turns


def test_adaptive_goes_by_what_is_nearly_done() -> None:
    """Equal requests, a little off their time, nearly all that the replicas can bear: turns are best."""
    draw = random.Random(1)
    found: dict[str, list[float]] = {"adaptive": [], "round_robin": [], "least_requests": []}
    for _ in range(6):
        at_s = sorted(0.28 * (number + draw.uniform(0.0, 0.6)) for number in range(300))
        trace = [ask(one, 300, 10) for one in at_s]
        for policy, p99s_ in found.items():
            p99s_.append(simulate(trace, policy, Fleet(), 0).ttft_p99_s)
    mine, turns, counted = (statistics.mean(some) for some in found.values())
    assert mine < 1.1 * turns
    assert mine < 0.5 * counted


def drawn(draw: random.Random) -> tuple[Kind, Fleet]:
    """Some traffic and some replicas, some of them slow."""
    kind = Kind(
        load=draw.uniform(0.4, 0.8),
        prompt_tokens=math.exp(draw.uniform(3.4, 6.2)),
        prompt_sigma=draw.uniform(0.3, 1.3),
        output_tokens=math.exp(draw.uniform(2.3, 5.0)),
        output_sigma=draw.uniform(0.3, 1.2),
        burst=draw.choice((1.0, 1.5, 2.5, 4.0)),
        burst_s=draw.uniform(2.0, 10.0),
        systems=draw.choice((0, 0, 1, 3, 8)),
        system_tokens=draw.randrange(200, 1500),
        turns=draw.choice((1.0, 1.0, 3.0, 6.0)),
        tenants=draw.randrange(1, 8),
    )
    speeds = tuple(draw.choice((1.0, 1.0, 1.0, 0.5)) for _ in range(draw.randrange(2, 9)))
    return kind, Fleet(speeds=speeds, max_concurrency=draw.choice((8, 16, 64)))


@pytest.mark.parametrize(
    "count", [8, pytest.param(int(os.environ.get("MINUTES", "20")) * 20, marks=pytest.mark.soak)]
)
def test_adaptive_beats_turns_and_counting_on_any_traffic(count: int) -> None:
    """In p99 of the time to the first token, by a quarter on the (geometric) mean of all that was drawn."""
    draw = random.Random(int(os.environ.get("SEED", "1")) if count > 8 else 1)
    ratios: dict[str, list[float]] = {rival: [] for rival in RIVALS}
    for _ in range(count):
        kind, fleet = drawn(draw)
        found = p99s(kind, fleet, range(draw.randrange(10**6), 10**6)[:2], 200)
        for rival in RIVALS:
            ratios[rival].append(sum(found["adaptive"]) / sum(found[rival]))
    print({rival: round(statistics.geometric_mean(some), 3) for rival, some in ratios.items()})
    for some in ratios.values():
        assert statistics.geometric_mean(some) < 0.75


def test_affinity_finds_the_warm_prefix() -> None:
    kind, fleet = KINDS["multi-turn"], Fleet()
    trace = generate(kind, fleet.rate(kind), 400, 77)
    hits = {name: simulate(trace, name, fleet, 0).prefix_hits for name in POLICIES}
    assert min(hits["prefix_affine"], hits["adaptive"]) > 1.1 * hits["round_robin"]


def test_a_trace_is_given_as_json_lines() -> None:
    trace = parse(
        b'{"at_s": 2, "prompt": [["s", 100], ["q", 5]], "output_tokens": 7, "band": "batch"}\n\n'
        b'{"at_s": 1, "prompt": [["s", 100]], "output_tokens": 1, "answer": "x"}\n'
    )
    seen = [(one.at_s, one.prompt_tokens, one.band) for one in trace]
    assert seen == [(1.0, 100, "standard"), (2.0, 105, "batch")]
    assert simulate(trace, "adaptive", ONE, 0).prefix_hits == 0.0  # less than a block


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no requests"),
        ('{"at_s": 1, "prompt": [["s", 1]], "output_tokens": 1}\n{', "line 2"),
        ('{"at_s": -1, "prompt": [], "output_tokens": 1}', "line 1.*at_s"),
        ('{"at_s": 1, "prompt": [], "output_tokens": 0}', "line 1.*output_tokens"),
        ('{"at_s": 1, "prompt": [["s", -5]], "output_tokens": 1}', "line 1.*prompt"),
        ('{"at_s": 1, "prompt": [], "output_tokens": 1, "model": "x"}', "line 1.*model"),
    ],
)
def test_a_bad_trace_is_named_by_its_line(text: str, said: str) -> None:
    with pytest.raises(TraceError, match=said):
        parse(text.encode())


def test_an_engine_is_loaded_by_what_a_request_costs() -> None:
    engine = Engine()
    assert engine.request_s(Kind(prompt_tokens=300.0)) > engine.request_s(Kind(prompt_tokens=100.0))
    assert Fleet().rate(Kind(load=0.8)) == pytest.approx(2 * Fleet().rate(Kind(load=0.4)))
