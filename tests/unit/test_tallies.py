"""Numbers that several processes share: added up, kept beyond a death, never counted twice."""

import math
import os

from gateway import tallies
from gateway.tallies import SharedTallies, Tallies
from gateway.telemetry import Telemetry

COUNTER, PROBE = "switchgear_limits_alone_total", "switchgear_queue_depth"


def shown(telemetry: Telemetry, name: str) -> list[str]:
    return [line for line in telemetry.text().decode().splitlines() if line.startswith(name)]


def test_numbers_are_added_up_whoever_is_asked() -> None:
    board = tallies.board(3)
    three = [Telemetry(SharedTallies(board, place)) for place in range(3)]
    for number, telemetry in enumerate(three):
        telemetry.count("switchgear_tokens_total", ("m", "prompt"), 10.0**number)
        telemetry.observe("switchgear_queue_seconds", ("m",), number)
    three[2].count("switchgear_tokens_total", ("other", "prompt"), 7)
    for telemetry in three:
        assert sorted(shown(telemetry, "switchgear_tokens_total")) == [
            'switchgear_tokens_total{direction="prompt",model="m"} 111.0',
            'switchgear_tokens_total{direction="prompt",model="other"} 7.0',
        ]
        assert 'switchgear_queue_seconds_bucket{le="+Inf",model="m"} 3.0' in telemetry.text().decode()
        assert shown(telemetry, "switchgear_queue_seconds_sum") == [
            'switchgear_queue_seconds_sum{model="m"} 3.0'
        ]


def test_who_follows_a_killed_worker_counts_on() -> None:
    board = tallies.board(2)
    watching = Telemetry(SharedTallies(board, 0))
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            worker = Telemetry(SharedTallies(board, 1))
            worker.count(COUNTER, ())
            worker.count("switchgear_tokens_total", ("m", "prompt"), 5)
            os._exit(9)
        os.waitpid(pid, 0)
    assert shown(watching, COUNTER) == [f"{COUNTER} 3.0"]
    assert shown(watching, "switchgear_tokens_total") == [
        'switchgear_tokens_total{direction="prompt",model="m"} 15.0'
    ]


def test_a_probe_is_added_up_unless_all_workers_read_alike() -> None:
    board = tallies.board(2)
    depth: dict[str, float] = {"m": 2.0}
    both = [Telemetry(SharedTallies(board, place)) for place in range(2)]
    for telemetry in both:
        telemetry.probe(PROBE, lambda: [((name,), value) for name, value in depth.items()])
        telemetry.probe("switchgear_replicas", lambda: [(("m", "ready"), 1.0)])
        telemetry.text()
    assert shown(both[0], PROBE) == [PROBE + '{model="m"} 4.0']
    assert shown(both[0], "switchgear_replicas") == ['switchgear_replicas{model="m",phase="ready"} 1.0']
    depth.clear()
    both[1].text()
    assert shown(both[0], PROBE) == []


def test_what_does_not_fit_is_not_counted_and_does_no_harm() -> None:
    board = tallies.board(1)
    full = SharedTallies(board, 0)
    for number in range(50_000):
        key = ("name", (str(number),))
        full.values[full.place(key, 16)] += 1.0
    kept = [number for number in range(50_000) if full.sums(("name", (str(number),)), 1) == [1.0]]
    assert 5_000 < len(kept) < 50_000
    assert kept == list(range(len(kept)))
    again = SharedTallies(board, 0)
    assert again.sums(("name", ("0",)), 1) == [1.0]


def test_alone_it_is_a_list() -> None:
    alone = Tallies()
    at = alone.place(("a", ()), 2)
    alone.values[at + 1] = 5.0
    assert alone.sums(("a", ()), 2) == [0.0, 5.0]
    assert math.isnan(alone.own(("b", ()), 1)[0])
    assert list(alone.known()) == [("a", ())]
