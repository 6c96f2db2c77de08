"""What an engine says of itself, under names that all engines share."""

from hypothesis import given
from hypothesis import strategies as st

from backends.engines import ENGINES
from backends.load import Spread, read_figures
from gateway.metrics import ENGINE_METRICS, METRICS
from gateway.telemetry import Telemetry

NAMES = ENGINES["vllm"].figures
TEXT = """
# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 3.0
vllm:gpu_cache_usage_perc{engine="0"} 0.5
vllm:prompt_tokens_total{engine="0"} 1e3
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1"} 1.0
vllm:time_to_first_token_seconds_bucket{le="+Inf",engine="0"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.1"} 4.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="+Inf"} 4.0
vllm:time_to_first_token_seconds_sum{engine="0"} 5.5
vllm:time_to_first_token_seconds_sum{engine="1"} 0.5
vllm:time_to_first_token_seconds_count{engine="0"} 2.0
"""


def test_figures_are_added_up_over_the_parts_of_an_engine() -> None:
    figures = read_figures(TEXT, NAMES)
    assert figures == {
        "running": 5.0,
        "kv_usage_ratio": 0.5,  # by its older name
        "prompt_tokens_total": 1000.0,
        "first_token_seconds": Spread((("0.1", 5.0), ("+Inf", 6.0)), 6.0),
    }


def test_every_figure_of_an_engine_is_a_metric_and_the_other_way_round() -> None:
    assert {f"switchgear_engine_{name}" for name in NAMES} == {metric.name for metric in ENGINE_METRICS}
    assert set(ENGINE_METRICS) <= set(METRICS)


def test_figures_are_rendered_per_replica() -> None:
    telemetry = Telemetry()
    figures = read_figures(TEXT, NAMES)

    def engines(name: str) -> list[tuple[tuple[str, ...], float | tuple[list[tuple[str, float]], float]]]:
        figure = figures.get(name.removeprefix("switchgear_engine_"))
        if figure is None:
            return []
        return [
            (("m", "m-0"), (list(figure.buckets), figure.total) if isinstance(figure, Spread) else figure)
        ]

    telemetry.engines = engines
    text = telemetry.text().decode()
    assert 'switchgear_engine_running{model="m",replica="m-0"} 5.0' in text
    assert 'switchgear_engine_prompt_tokens_total{model="m",replica="m-0"} 1000.0' in text
    assert 'switchgear_engine_first_token_seconds_bucket{le="0.1",model="m",replica="m-0"} 5.0' in text
    assert 'switchgear_engine_first_token_seconds_count{model="m",replica="m-0"} 6.0' in text


@given(st.text())
def test_nothing_that_an_engine_says_is_an_error(text: str) -> None:
    read_figures(text, NAMES)
    read_figures(f'vllm:num_requests_running{{a="{text}"}} 1\nvllm:prompt_tokens_total {text}', NAMES)
