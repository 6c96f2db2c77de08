"""SGLang: launch arguments, metric names, wire facts.

It needs a GPU and cannot be run where this project is tested: its arguments are held against golden files,
compared with its `server_args.py` and its page of server arguments (0.5). Settings that it has no counterpart
for are refused by name, never dropped. Drafting takes its three numbers together: steps, one candidate each,
and one token more than steps (it refuses the last alone). It knows priorities only with its own flag and
counts the other way round, so none are sent.
"""

import msgspec

from backends.engines.profile import (
    CannotLaunch,
    Engine,
    LaunchCommand,
    LaunchContext,
    LaunchProfile,
    Sleep,
    refuse,
)
from backends.load import LoadMetrics

METHODS = {"eagle": "EAGLE", "eagle3": "EAGLE3", "ngram": "NGRAM", "draft_model": "STANDALONE"}
LACKING = (
    "kv_cache_bytes",
    "kv_offload_bytes",
    "long_prefill_tokens",
    "compile_cache",
    "executor",
)


def launch(profile: LaunchProfile, context: LaunchContext) -> LaunchCommand:
    if not profile.gpus:
        raise CannotLaunch('engine = "sglang" needs GPUs: set launch.gpus, or use engine = "vllm"')
    refuse("sglang", profile, LACKING)
    argv = [context.python, "-P", "-m", "sglang.launch_server", "--model-path", profile.weights]
    argv += ["--served-model-name", context.served_name, "--host", "127.0.0.1", "--port", str(context.port)]
    argv += ["--enable-metrics", "--enable-cache-report"]
    argv += ["--is-embedding"] if context.kind == "embedding" else []
    flags: dict[str, object] = {
        "--context-length": context.context_tokens,
        "--tp-size": profile.tensor_parallel,
        "--pp-size": profile.pipeline_parallel if profile.pipeline_parallel > 1 else None,
        "--dp-size": profile.data_parallel if profile.data_parallel > 1 else None,
        "--ep-size": profile.tensor_parallel if profile.expert_parallel else None,
        "--dtype": profile.dtype,
        "--quantization": profile.quantization,
        "--kv-cache-dtype": profile.kv_cache_dtype,
        "--mem-fraction-static": profile.gpu_memory_utilization,
        "--max-running-requests": profile.max_num_seqs,
        "--max-queued-requests": profile.max_num_queued_reqs,
        "--max-prefill-tokens": profile.max_num_batched_tokens,
        "--chunked-prefill-size": -1 if profile.chunked_prefill is False else None,
        "--cpu-offload-gb": None
        if (size := profile.weights_offload_bytes) is None
        else -(-size // (1 << 30)),
        "--page-size": profile.block_tokens,
        "--load-format": profile.load_format,
        "--model-loader-extra-config": msgspec.json.encode(profile.loader).decode()
        if profile.loader
        else None,
        "--grammar-backend": profile.structured_outputs,
        "--tool-call-parser": profile.tool_parser,
        "--reasoning-parser": profile.reasoning_parser,
        "--chat-template": profile.chat_template,
    }
    argv += [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]
    argv += [] if profile.prefix_caching else ["--disable-radix-cache"]
    argv += ["--disable-cuda-graph"] if profile.eager else []
    argv += ["--enable-memory-saver"] if profile.sleep_mode else []
    argv += _speculative(profile) + _adapters(profile) + _nodes(profile)
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, profile.devices))} if profile.devices else {}
    env = {"PYTHONUNBUFFERED": "1", **({"HF_HUB_OFFLINE": "1"} if profile.local else {}), **devices}
    return LaunchCommand(
        argv=(*argv, *profile.extra_args),
        env=env | profile.env,
        shutdown_timeout_s=profile.shutdown_timeout_s,
    )


def _speculative(profile: LaunchProfile) -> list[str]:
    one = profile.speculative
    if one is None:
        return []
    if one.method not in METHODS:
        raise CannotLaunch(f"sglang has no speculative method {one.method!r}; it has {', '.join(METHODS)}")
    words, count = ["--speculative-algorithm", METHODS[one.method]], one.num_speculative_tokens
    if one.method == "ngram":
        return [*words, "--speculative-num-draft-tokens", str(count)]
    words += ["--speculative-num-steps", str(count), "--speculative-eagle-topk", "1"]
    words += ["--speculative-num-draft-tokens", str(count + 1)]
    return words + (["--speculative-draft-model-path", one.model] if one.model else [])


def _adapters(profile: LaunchProfile) -> list[str]:
    lora = profile.lora
    if lora is None:
        return []
    words = [
        "--enable-lora",
        "--max-loras-per-batch",
        str(lora.max_loras),
        "--max-lora-rank",
        str(lora.max_rank),
    ]
    paths = [f"{name}={path}" for name, path in lora.adapters.items()]
    return words + (["--lora-paths", *paths] if paths else [])


def _nodes(profile: LaunchProfile) -> list[str]:
    nodes = profile.nodes
    if nodes is None:
        return []
    address = f"{nodes.master_address}:{nodes.master_port}"
    return ["--nnodes", str(nodes.count), "--node-rank", str(nodes.rank), "--dist-init-addr", address]


ENGINE = Engine(
    name="sglang",
    launch=launch,
    health_path="/health",
    metrics_path="/metrics",
    load_metrics=LoadMetrics(
        running=("sglang:num_running_reqs",),
        waiting=("sglang:num_queue_reqs",),
        kv_usage=("sglang:token_usage",),
    ),
    sleeps={1: Sleep("/release_memory_occupation", (("/resume_memory_occupation", {}),))},
    lora_paths=("/load_lora_adapter", "/unload_lora_adapter"),
    stages=(
        ("Load weight begin", "loading weights", "weights"),
        ("Load weight end", "weights loaded", "kv and compile"),
        ("KV Cache is allocated", "sizing the KV cache", "kv and compile"),
        ("Capture cuda graph begin", "capturing CUDA graphs", "kv and compile"),
        ("The server is fired up", "warming up", "warm-up"),
    ),
)
