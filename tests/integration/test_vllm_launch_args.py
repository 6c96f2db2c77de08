"""The real vLLM argument parser, in the engine's environment, takes what we launch it with."""

import json
import os
import subprocess
from typing import Any

import pytest

from backends.engines.profile import (
    KV_CACHE_DTYPES,
    LOAD_FORMATS,
    QUANTIZATIONS,
    SPECULATIVE_METHODS,
    STRUCTURED_OUTPUTS,
)
from tests.engine_env import engine_python
from tests.launch_cases import CASES, launch

PARSE = """
import json, sys
from typing import get_args
from vllm.config.cache import CacheDType
from vllm.config.speculative import SpeculativeMethod
from vllm.config.structured_outputs import StructuredOutputsBackend
from vllm.model_executor.model_loader import LoadFormats
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser
def names(kind):
    return [name for one in get_args(kind) for name in ([one] if isinstance(one, str) else names(one))]
known = {"quantization": QUANTIZATION_METHODS, "kv": names(CacheDType), "spec": names(SpeculativeMethod),
         "load": names(LoadFormats), "outputs": names(StructuredOutputsBackend)}
out = {"names": known}
for case, argv in json.load(sys.stdin).items():
    try:
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(argv)
        validate_parsed_serve_args(args)
        plain = (str, int, float, bool, list, dict, type(None))
        out[case] = {name: value for name, value in vars(args).items() if isinstance(value, plain)}
    except (SystemExit, ValueError, TypeError) as error:
        out[case] = {"refused": str(error)}
print("PARSED " + json.dumps(out, default=str))
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """case -> the parser's namespace; one process for all, because the import takes long."""
    python = engine_python()
    commands = {case: launch(case).argv for case, (engine, _, _) in CASES.items() if engine == "vllm"}
    arguments = {}
    for case, argv in commands.items():
        flags = list(argv[argv.index("-m") + 2 :])
        arguments[case] = ["--model", *flags[1:]] if flags[0] == "serve" else flags
    env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "VLLM_NO_USAGE_STATS": "1"}
    env |= {"VLLM_TARGET_DEVICE": "cpu", "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}
    env |= {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"}
    done = subprocess.run(
        [python, "-P", "-c", PARSE],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path_factory.mktemp("neutral"),
        env=env,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("PARSED ")]
    assert lines, done.stderr[-3000:]
    result: dict[str, dict[str, Any]] = json.loads(lines[-1].removeprefix("PARSED "))
    return result


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][0] == "vllm"])
def test_the_parser_reads_what_was_meant(parsed: dict[str, dict[str, Any]], case: str) -> None:
    _, profile, context = CASES[case]
    seen = parsed[case]
    assert "refused" not in seen, seen
    assert seen["model"] == profile.weights
    assert seen["served_model_name"] == [context.served_name]
    assert (seen["host"], seen["port"]) == ("127.0.0.1", context.port)
    assert seen["max_model_len"] == context.context_tokens
    assert seen["tensor_parallel_size"] == profile.tensor_parallel
    assert seen["pipeline_parallel_size"] == profile.pipeline_parallel
    assert seen["quantization"] == profile.quantization
    assert seen["enable_prefix_caching"] is profile.prefix_caching
    assert seen["scheduling_policy"] == "priority"
    assert seen["shutdown_timeout"] == profile.shutdown_timeout_s
    assert seen["enable_auto_tool_choice"] is bool(profile.tool_parser)
    assert seen["enforce_eager"] is (profile.gpus == 0 if profile.eager is None else profile.eager)
    assert seen["data_parallel_size"] == profile.data_parallel
    assert seen["enable_expert_parallel"] is profile.expert_parallel
    assert seen["distributed_executor_backend"] == profile.executor
    assert seen["kv_offloading_size"] == (
        profile.kv_offload_bytes / 2**30 if profile.kv_offload_bytes else None
    )
    assert seen["cpu_offload_gb"] == (profile.weights_offload_bytes or 0) / 2**30
    assert seen["block_size"] == profile.block_tokens
    assert seen["enable_chunked_prefill"] is profile.chunked_prefill
    assert seen["long_prefill_token_threshold"] == (profile.long_prefill_tokens or 0)
    assert seen["max_num_queued_reqs"] == profile.max_num_queued_reqs
    assert seen["enable_sleep_mode"] is profile.sleep_mode
    assert seen["load_format"] == (profile.load_format or "auto")
    assert seen["model_loader_extra_config"] == profile.loader
    assert seen["nnodes"] == (profile.nodes.count if profile.nodes else 1)
    assert seen["max_lora_rank"] == (profile.lora.max_rank if profile.lora else 16)
    speculative = seen["speculative_config"]
    assert (speculative or {}).get("method") == (profile.speculative.method if profile.speculative else None)


def test_our_known_names_are_vllms(parsed: dict[str, dict[str, Any]]) -> None:
    names = parsed["names"]
    assert set(names["quantization"]) == QUANTIZATIONS
    assert set(names["kv"]) == KV_CACHE_DTYPES
    assert set(names["spec"]) >= SPECULATIVE_METHODS
    assert set(names["load"]) == LOAD_FORMATS
    assert set(names["outputs"]) == STRUCTURED_OUTPUTS
