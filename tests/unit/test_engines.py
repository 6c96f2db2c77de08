"""Launch arguments against golden files (`REGOLD=1` rewrites them), and the profile's own checks."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.engines import ENGINES, CannotLaunch, LaunchCommand, LaunchContext, LaunchProfile, stage
from tests.launch_cases import CASES, CONTEXT, launch

GOLDEN = Path(__file__).parents[1] / "golden" / "launch"


def rendered(command: LaunchCommand) -> str:
    """A flag and its value on one line, then the environment."""
    lines = ["argv:"]
    for word in command.argv:
        known = word.replace(str(Path(__file__).parents[2]), "<project>")
        starts = (
            word.startswith("-")
            or len(lines) == 1
            or not lines[-1].lstrip().startswith("-")
            or " " in lines[-1].strip()
        )
        if starts:
            lines.append(f"  {known}")
        else:
            lines[-1] += f" {known}"
    lines.append("env:")
    lines += [f"  {name}={value}" for name, value in sorted(command.env.items())]
    return "\n".join([*lines, f"shutdown_timeout_s: {command.shutdown_timeout_s}", ""])


@pytest.mark.parametrize("case", CASES)
def test_launch_arguments(case: str) -> None:
    path, text = GOLDEN / f"{case}.txt", rendered(launch(case))
    if os.environ.get("REGOLD") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


@pytest.mark.parametrize(
    ("table", "part"),
    [
        ({"weights": ""}, "weights"),
        ({"weights": "/w", "quantization": "nope"}, "unknown quantization 'nope'"),
        ({"weights": "/w", "kv_cache_dtype": "fp3"}, "unknown kv_cache_dtype 'fp3'"),
        ({"weights": "/w", "tensor_parallel": 0}, "tensor_parallel"),
        ({"weights": "/w", "gpus": 2}, "tensor_parallel x pipeline_parallel x data_parallel = 1"),
        ({"weights": "/w", "gpus": 2, "tensor_parallel": 2, "devices": [0, 1, 2]}, "`devices` names 3 GPUs"),
        ({"weights": "/w", "min_replicas": 3, "max_replicas": 2}, "max_replicas"),
        (
            {"weights": "/w", "speculative": {"method": "guess", "num_speculative_tokens": 2}},
            "speculative method",
        ),
        ({"weights": "/w", "speculative": {"method": "eagle", "num_speculative_tokens": 2}}, "needs `model`"),
        (
            {"weights": "/w", "speculative": {"method": "ngram", "num_speculative_tokens": 0}},
            "num_speculative",
        ),
        ({"weights": "/w", "extra_args": ["--host=0.0.0.0"]}, "--host=0.0.0.0"),
        ({"weights": "/w", "extra_args": ["--served_model_name", "x"]}, "Switchgear sets it"),
        ({"weights": "/w", "tensor_paralel": 2}, "tensor_paralel"),
        ({"weights": "/w", "quantization": "bitsandbytes"}, "vLLM took it out"),
        ({"weights": "/w", "load_format": "fast"}, "unknown load_format 'fast'"),
        ({"weights": "/w", "sleep_mode": True}, "`sleep_mode` needs GPUs"),
        ({"weights": "/w", "lora": {"max_rank": 17}}, "max_rank"),
        ({"weights": "/w", "loader": {"concurrency": 2}}, "`loader` belongs to a `load_format`"),
        ({"weights": "/w", "max_num_batched_tokens": 8, "max_num_seqs": 16}, "less than `max_num_seqs`"),
        ({"weights": "/w", "gpus": 1, "devices": [0], "expert_parallel": True}, "there is only one"),
        ({"weights": "/w", "nodes": {"count": 2, "rank": 2, "master_address": "a"}}, "less than `count`"),
    ],
)
def test_nonsense_is_refused_with_its_name(table: dict[str, Any], part: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=part.replace("(", r"\(")):
        msgspec.convert(table, LaunchProfile)


def test_the_contracts_keys_are_taken() -> None:
    table = {
        "weights": "/models/qwen",
        "gpus": 1,
        "tensor_parallel": 1,
        "quantization": "awq",
        "min_replicas": 0,
        "max_replicas": 4,
        "speculative": {"method": "ngram", "num_speculative_tokens": 4},
    }
    assert msgspec.convert(table, LaunchProfile).max_replicas == 4


def test_an_attached_engine_says_why_it_is_not_launched() -> None:
    with pytest.raises(CannotLaunch, match="url"):
        ENGINES["openai"].launch(LaunchProfile(weights="/w"), CONTEXT)
    with pytest.raises(CannotLaunch, match="embedding"):
        ENGINES["local"].launch(
            LaunchProfile(weights="/w"), LaunchContext(python="p", port=1, served_name="s")
        )


def test_the_stage_is_the_latest_that_the_log_tells() -> None:
    log = (
        "INFO Resolved architecture: LlamaForCausalLM",
        "INFO Starting to load model /models/x...",
        "INFO 12 %",
    )
    assert stage(ENGINES["vllm"], log) == "loading weights"
    assert stage(ENGINES["vllm"], ()) == "starting"


@pytest.mark.parametrize(
    ("engine", "profile", "part"),
    [
        ("sglang", LaunchProfile(weights="/w"), "needs GPUs"),
        ("trtllm", LaunchProfile(weights="/w"), "needs GPUs"),
        ("sglang", LaunchProfile(weights="/w", gpus=1, long_prefill_tokens=9), "launch.long_prefill_tokens"),
        ("trtllm", LaunchProfile(weights="/w", gpus=1, prefix_caching=False), "launch.prefix_caching"),
        ("trtllm", LaunchProfile(weights="/w", gpus=1, quantization="fp8"), "extra_llm_api_options"),
    ],
)
def test_an_engine_refuses_what_it_has_no_flag_for(engine: str, profile: LaunchProfile, part: str) -> None:
    with pytest.raises(CannotLaunch, match=part):
        ENGINES[engine].launch(profile, CONTEXT)
