"""vLLM: launch arguments for the official build (GPU) and the CPU build, metric names, wire facts.

Facts of vLLM 0.32 and 0.33:
- The CPU build's console script dies (it looks for a distribution called `vllm`), so its server module is
  started; the official build is started by its command-line module, which follows it through moves.
- `VLLM_CPU_OMP_THREADS_BIND=auto` puts two servers on one core: give every server its own `cpu_cores`.
- `--scheduling-policy priority` is needed for `priority` in a request; without it such a request is a 400.
- It listens on 127.0.0.1 only. The development endpoints are shut (`VLLM_SERVER_DEV_MODE`) but for a profile
  with `sleep_mode`, which needs two of them; the gateway forwards none.
- After a sleep of level 2 the weights are read again between the two halves of the wake, as vLLM's page on
  sleep mode has it.
- `--kv-offloading-size` and `--cpu-offload-gb` are in GiB.
"""

import math

import msgspec

from backends.engines.profile import Engine, LaunchCommand, LaunchContext, LaunchProfile, Sleep
from backends.load import LoadMetrics, TokenMetrics

GIB = 1 << 30
CPU_MODULE = "vllm.entrypoints.launchers.api_server.entry"
GPU_MODULE = "vllm.entrypoints.cli.main"


def launch(profile: LaunchProfile, context: LaunchContext) -> LaunchCommand:
    server = (
        [GPU_MODULE, "serve", profile.weights] if profile.gpus else [CPU_MODULE, "--model", profile.weights]
    )
    argv = [context.python, "-P", "-m", *server]
    argv += ["--served-model-name", context.served_name, "--host", "127.0.0.1", "--port", str(context.port)]
    argv += _shape(profile, context)
    argv += _memory(profile)
    argv += _prefixes(profile, context)
    argv += _batching(profile)
    argv += _serving(profile)
    argv += _adapters(profile)
    return LaunchCommand(
        argv=(*argv, *profile.extra_args),
        env=_environment(profile) | profile.env,
        shutdown_timeout_s=profile.shutdown_timeout_s,
    )


def _shape(profile: LaunchProfile, context: LaunchContext) -> list[str]:
    """What the model is and over which devices it is spread."""
    eager = profile.gpus == 0 if profile.eager is None else profile.eager
    return [
        *(["--runner", "pooling"] if context.kind == "embedding" else []),
        *(["--max-model-len", str(context.context_tokens)] if context.context_tokens else []),
        *(["--dtype", profile.dtype] if profile.dtype else []),
        *(["--quantization", profile.quantization] if profile.quantization else []),
        *(["--tensor-parallel-size", str(profile.tensor_parallel)] if profile.tensor_parallel > 1 else []),
        *(
            ["--pipeline-parallel-size", str(profile.pipeline_parallel)]
            if profile.pipeline_parallel > 1
            else []
        ),
        *(["--data-parallel-size", str(profile.data_parallel)] if profile.data_parallel > 1 else []),
        *(["--enable-expert-parallel"] if profile.expert_parallel else []),
        *(["--distributed-executor-backend", profile.executor] if profile.executor else []),
        *_nodes(profile),
        *(["--enforce-eager"] if eager else []),
    ]


def _nodes(profile: LaunchProfile) -> list[str]:
    """Several machines: by their ranks with multiprocessing; Ray knows its machines itself."""
    nodes = profile.nodes
    if nodes is None or profile.executor == "ray":
        return []
    place = ["--nnodes", str(nodes.count), "--node-rank", str(nodes.rank)]
    return [*place, "--master-addr", nodes.master_address, "--master-port", str(nodes.master_port)]


def _memory(profile: LaunchProfile) -> list[str]:
    """Weights and KV blocks: how they are loaded, how large, where."""
    on_gpu = {
        "--kv-cache-memory-bytes": profile.kv_cache_bytes,
        "--gpu-memory-utilization": profile.gpu_memory_utilization,
    }
    flags: dict[str, object] = {
        "--load-format": profile.load_format,
        "--model-loader-extra-config": msgspec.json.encode(profile.loader).decode()
        if profile.loader
        else None,
        "--kv-cache-dtype": profile.kv_cache_dtype,
        **(on_gpu if profile.gpus else {}),
        "--kv-offloading-size": _gib(profile.kv_offload_bytes),
        "--cpu-offload-gb": _gib(profile.weights_offload_bytes),
        "--block-size": profile.block_tokens,
    }
    return [*_given(flags), *(["--enable-sleep-mode"] if profile.sleep_mode else [])]


def _prefixes(profile: LaunchProfile, context: LaunchContext) -> list[str]:
    """Whether prefixes are kept; for an embedding model vLLM knows whether they can be."""
    if not profile.prefix_caching:
        return ["--no-enable-prefix-caching"]
    return [] if context.kind == "embedding" else ["--enable-prefix-caching"]


def _batching(profile: LaunchProfile) -> list[str]:
    flags: dict[str, object] = {
        "--max-num-seqs": profile.max_num_seqs,
        "--max-num-batched-tokens": profile.max_num_batched_tokens,
        "--max-num-queued-reqs": profile.max_num_queued_reqs,
        "--long-prefill-token-threshold": profile.long_prefill_tokens,
    }
    chunked = {None: [], True: ["--enable-chunked-prefill"], False: ["--no-enable-chunked-prefill"]}
    return [*_given(flags), *chunked[profile.chunked_prefill]]


def _serving(profile: LaunchProfile) -> list[str]:
    arguments = ["--scheduling-policy", "priority", "--enable-prompt-tokens-details"]
    arguments += ["--disable-uvicorn-access-log", "--shutdown-timeout", str(profile.shutdown_timeout_s)]
    if profile.tool_parser:
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser", profile.tool_parser]
    outputs = profile.structured_outputs
    flags: dict[str, object] = {
        "--reasoning-parser": profile.reasoning_parser,
        "--chat-template": profile.chat_template,
        "--structured-outputs-config": msgspec.json.encode({"backend": outputs}).decode()
        if outputs
        else None,
    }
    arguments += _given(flags)
    if profile.speculative:
        arguments += ["--speculative-config", msgspec.json.encode(profile.speculative).decode()]
    return arguments


def _adapters(profile: LaunchProfile) -> list[str]:
    lora = profile.lora
    if lora is None:
        return []
    flags: dict[str, object] = {
        "--max-loras": lora.max_loras,
        "--max-lora-rank": lora.max_rank,
        "--max-cpu-loras": lora.max_cpu_loras,
    }
    modules = [f"{name}={path}" for name, path in lora.adapters.items()]
    return ["--enable-lora", *_given(flags), *(["--lora-modules", *modules] if modules else [])]


def _given(flags: dict[str, object]) -> list[str]:
    """The flags that have a value, each followed by it."""
    return [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]


def _gib(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / GIB, 3)


def _environment(profile: LaunchProfile) -> dict[str, str]:
    env = {"PYTHONUNBUFFERED": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1"}
    if profile.local:
        env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if profile.lora is not None and profile.lora.runtime:
        env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if profile.compile_cache:
        env["VLLM_CACHE_ROOT"] = profile.compile_cache
    if profile.sleep_mode:
        env["VLLM_SERVER_DEV_MODE"] = "1"
    if profile.gpus:
        if profile.devices:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, profile.devices))
        return env
    env["TORCHDYNAMO_DISABLE"] = "1"
    env["VLLM_CPU_KVCACHE_SPACE"] = str(math.ceil((profile.kv_cache_bytes or GIB) / GIB))
    if profile.cpu_cores:
        env["VLLM_CPU_OMP_THREADS_BIND"] = _binding(
            profile.cpu_cores, profile.tensor_parallel * profile.pipeline_parallel * profile.data_parallel
        )
    return env


def _binding(cores: tuple[int, ...], ranks: int) -> str:
    """vLLM's notation: the cores of a rank by commas, the ranks by bars."""
    share = len(cores) // ranks
    return "|".join(",".join(map(str, cores[rank * share : (rank + 1) * share])) for rank in range(ranks))


ENGINE = Engine(
    name="vllm",
    launch=launch,
    health_path="/health",
    metrics_path="/metrics",
    load_metrics=LoadMetrics(
        running=("vllm:num_requests_running",),
        waiting=("vllm:num_requests_waiting",),
        kv_usage=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    ),
    sleeps={
        1: Sleep("/sleep?level=1", (("/wake_up", {}),)),
        2: Sleep(
            "/sleep?level=2",
            (
                ("/wake_up?tags=weights", {}),
                ("/collective_rpc", {"method": "reload_weights"}),
                ("/wake_up?tags=kv_cache", {}),
            ),
        ),
    },
    lora_paths=("/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    token_metrics=TokenMetrics(
        prompt="vllm:prompt_tokens_total",
        generated="vllm:generation_tokens_total",
        since=("vllm:generation_tokens_created", "process_start_time_seconds"),
    ),
    figures={
        "running": ("vllm:num_requests_running",),
        "waiting": ("vllm:num_requests_waiting",),
        "kv_usage_ratio": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        "prefix_queries_total": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
        "prefix_hits_total": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
        "prompt_tokens_total": ("vllm:prompt_tokens_total",),
        "generation_tokens_total": ("vllm:generation_tokens_total",),
        "preemptions_total": ("vllm:num_preemptions_total",),
        "draft_tokens_total": ("vllm:spec_decode_num_draft_tokens_total",),
        "accepted_tokens_total": ("vllm:spec_decode_num_accepted_tokens_total",),
        "queue_seconds": ("vllm:request_queue_time_seconds",),
        "prefill_seconds": ("vllm:request_prefill_time_seconds",),
        "first_token_seconds": ("vllm:time_to_first_token_seconds",),
        "token_seconds": ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
    },
    takes_priority=True,
    takes_cache_salt=True,
    returns_token_ids=True,
    continues_messages=True,
    stages=(
        ("Resolved architecture", "starting the engine", "processes"),
        ("Starting to load model", "loading weights", "weights"),
        ("Loading safetensors checkpoint shards", "loading weights", "weights"),
        ("Loading weights took", "weights loaded", "kv and compile"),
        ("Compiling a graph", "compiling", "kv and compile"),
        ("Capturing CUDA graph", "capturing CUDA graphs", "kv and compile"),
        ("GPU KV cache size", "sizing the KV cache", "kv and compile"),
        ("CPU KV cache size", "sizing the KV cache", "kv and compile"),
        ("Starting vLLM server", "opening the server", "server"),
        ("Application startup complete", "warming up", "warm-up"),
    ),
)
