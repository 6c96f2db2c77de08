"""Engine metrics, well-formed and not."""

from hypothesis import given
from hypothesis import strategies as st

from backends.engines import vllm
from backends.load import LoadMetrics, ReplicaLoad, read_load

NAMES = vllm.ENGINE.load_metrics or LoadMetrics(running=(), waiting=(), kv_usage=())

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m } odd"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
"""


def test_requests_are_summed_and_the_fullest_cache_counts() -> None:
    assert read_load(VLLM, NAMES) == ReplicaLoad(running=5, waiting=1, kv_usage=0.5)


def test_the_older_name_of_the_cache_gauge() -> None:
    assert read_load("vllm:gpu_cache_usage_perc 0.125 1700000000", NAMES) == ReplicaLoad(kv_usage=0.125)


def test_what_is_missing_or_broken_is_unknown() -> None:
    assert read_load("", NAMES) == ReplicaLoad()
    broken = "vllm:num_requests_running\nvllm:num_requests_waiting{ NaN\nvllm:kv_cache_usage_perc{} NaN\n"
    assert read_load(broken + "vllm:num_requests_running -1\n", NAMES) == ReplicaLoad()


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    read_load(text, NAMES)


@given(st.text(alphabet='vllm:num_requests_running{}" 0.9eNa#\n'))
def test_any_text_like_metrics_is_survived(text: str) -> None:
    load = read_load("vllm:num_requests_running" + text, NAMES)
    assert load.running is None or load.running >= 0
