"""Which replicas there are: versions, spot, zones, GPUs and cores."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.assignment import assigned, kept
from backends.engines import ENGINES, CannotLaunch, LaunchProfile, Place
from backends.prefetch import prefetch
from backends.seats import Mix, Seat, may_go, next_seat, shared_out
from backends.starts import Start, said

SHARES = st.lists(st.integers(1, 100), min_size=1, max_size=5).map(
    lambda parts: {f"v{number}": part / sum(parts) for number, part in enumerate(parts)}
)


@given(st.integers(1, 40), SHARES)
def test_replicas_are_shared_out_as_the_traffic_is(count: int, shares: dict[str, float]) -> None:
    found = shared_out(count, shares)
    assert sum(found.values()) == max(count, len(shares))
    assert all(number >= 1 for number in found.values())
    if count >= 10 * len(shares):
        assert all(abs(found[one] - count * share) <= len(shares) for one, share in shares.items())


def test_a_version_for_keys_only_has_one_replica() -> None:
    assert shared_out(4, {"old": 1.0, "canary": 0.0}) == {"old": 3, "canary": 1}
    assert shared_out(0, {"old": 1.0}) == {}


@given(st.integers(0, 4), st.integers(1, 12), st.integers(1, 3))
def test_the_floor_stands_and_zones_are_even(floor: int, count: int, zones: int) -> None:
    mix = Mix(spot=True, on_demand=floor, zones=[f"z{one}" for one in range(zones)])
    seats: list[Seat] = []
    for _ in range(count):
        seats.append(next_seat(mix, "", seats, {}))
    assert sum(not one.spot for one in seats) == min(floor, count)
    loads = [sum(one.zone == zone for one in seats) for zone in mix.zones]
    assert max(loads) - min(loads) <= 1
    while leaving := [one for one in seats if may_go(mix, one, seats)]:
        seats.remove(leaving[0])
    assert len(seats) == min(floor, count)


def test_of_equal_zones_the_calmer_one_is_taken() -> None:
    mix = Mix(spot=True, zones=["a", "b"])
    assert next_seat(mix, "", [], {"a": 3, "b": 1}).zone == "b"
    assert next_seat(mix, "", [Seat(zone="b")], {"a": 3, "b": 1}).zone == "a"


def test_no_two_replicas_share_a_gpu() -> None:
    profile = LaunchProfile(weights="/w", gpus=1, max_replicas=3)
    first = assigned(profile, (0, 1), [])
    second = assigned(profile, (0, 1), [first])
    assert (first.devices, second.devices) == ((0,), (1,))
    with pytest.raises(CannotLaunch, match="1 GPUs are needed and 0 of 0, 1 are free"):
        assigned(profile, (0, 1), [first, second])
    assert assigned(profile, (), []).devices == (), "where none is known the engine chooses"


def test_a_replica_that_is_taken_over_keeps_its_gpus_while_they_are_its_model_s() -> None:
    profile = LaunchProfile(weights="/w", gpus=1)
    second = kept(profile, [0, 1], Place(devices=(1,)))
    assert second.devices == (1,)
    assert assigned(profile, [0, 1], [second]).devices == (0,)
    elsewhere = LaunchProfile(weights="/w", gpus=1, devices=(0,))
    assert kept(elsewhere, [0, 1], Place(devices=(1,))).devices == ()


def test_cores_are_shared_out_among_the_replicas_there_may_be() -> None:
    profile = LaunchProfile(weights="/w", cpu_cores=(0, 1, 2, 3), max_replicas=2)
    first = assigned(profile, (), [])
    second = assigned(profile, (), [first])
    assert (first.cpu_cores, second.cpu_cores) == ((0, 1), (2, 3))
    alone = LaunchProfile(weights="/w", cpu_cores=(0, 1))
    assert assigned(alone, (), []).cpu_cores == (0, 1)


def test_a_start_is_told_step_by_step() -> None:
    engine, start = ENGINES["vllm"], Start(100.0)
    start.spawned(100.2)
    start.see(engine, ["noise"], 110.0)
    log = ["INFO Resolved architecture: LlamaForCausalLM"]
    start.see(engine, log, 120.2)
    log.append("INFO Starting to load model /models/x...")
    start.see(engine, log, 130.2)
    log += ["INFO Loading weights took 2.7 seconds", "INFO Application startup complete."]
    start.see(engine, log, 133.2)
    start.ready(134.2)
    start.see(engine, log, 150.0)
    found = {one.step: one.seconds for one in start.steps(999.0)}
    assert found == {
        "spawn": 0.2,
        "import": 20.0,
        "processes": 10.0,
        "weights": 3.0,
        "kv and compile": 0.0,
        "warm-up": 1.0,
    }
    assert said(start.steps(999.0)).startswith("spawn 0.2 s, import 20.0 s")


def test_weights_are_read_ahead_once(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 5_000_000)
    (tmp_path / "unreadable.safetensors").mkdir()
    thread = prefetch(str(tmp_path))
    thread.join(30.0)
    assert not thread.is_alive()
    prefetch(str(tmp_path / "nowhere")).join(30.0)
