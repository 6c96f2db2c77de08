"""TensorRT-LLM (`trtllm-serve`): launch arguments, metric names, wire facts.

It needs a GPU and cannot be run where this project is tested: its arguments are held against golden files,
compared with the options that its `tensorrt_llm/commands/serve.py` declares and the gauges that its
`tensorrt_llm/metrics/collector.py` names (1.x). What its command line has no flag for goes through its own
options file, which it reads from a path: a profile that needs it names the file in `extra_args`
(`["--extra_llm_api_options", "/etc/trtllm.yaml"]`); settings without a counterpart are refused by name, never
dropped. It runs no second queue by priority, so none is sent.
"""

from backends.engines.profile import CannotLaunch, Engine, LaunchCommand, LaunchContext, LaunchProfile, refuse
from backends.load import LoadMetrics

LACKING = (
    "block_tokens",
    "compile_cache",
    "data_parallel",
    "dtype",
    "eager",
    "executor",
    "kv_cache_bytes",
    "kv_cache_dtype",
    "kv_offload_bytes",
    "load_format",
    "loader",
    "long_prefill_tokens",
    "lora",
    "max_num_queued_reqs",
    "nodes",
    "prefix_caching",
    "quantization",
    "sleep_mode",
    "speculative",
    "structured_outputs",
    "weights_offload_bytes",
)


def launch(profile: LaunchProfile, context: LaunchContext) -> LaunchCommand:
    if not profile.gpus:
        raise CannotLaunch('engine = "trtllm" needs GPUs: set launch.gpus, or use engine = "vllm"')
    if context.kind != "chat":
        raise CannotLaunch(
            f'engine = "trtllm" serves kind = "chat", not {context.kind!r}; use engine = "vllm"'
        )
    refuse(
        "trtllm",
        profile,
        LACKING,
        "; put it into a file and name that by --extra_llm_api_options in extra_args",
    )
    argv = [context.python, "-P", "-m", "tensorrt_llm.commands.serve", "serve", profile.weights]
    argv += ["--host", "127.0.0.1", "--port", str(context.port), "--served_model_name", context.served_name]
    flags: dict[str, object] = {
        "--max_seq_len": context.context_tokens,
        "--tp_size": profile.tensor_parallel,
        "--pp_size": profile.pipeline_parallel if profile.pipeline_parallel > 1 else None,
        "--ep_size": profile.tensor_parallel if profile.expert_parallel else None,
        "--max_batch_size": profile.max_num_seqs,
        "--max_num_tokens": profile.max_num_batched_tokens,
        "--kv_cache_free_gpu_memory_fraction": profile.gpu_memory_utilization,
        "--tool_parser": profile.tool_parser,
        "--reasoning_parser": profile.reasoning_parser,
        "--chat_template": profile.chat_template,
    }
    argv += [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]
    argv += ["--enable_chunked_prefill"] if profile.chunked_prefill else []
    env = {"PYTHONUNBUFFERED": "1"}
    if profile.local:
        env["HF_HUB_OFFLINE"] = "1"
    if profile.devices:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, profile.devices))
    return LaunchCommand(
        argv=(*argv, *profile.extra_args),
        env=env | profile.env,
        shutdown_timeout_s=profile.shutdown_timeout_s,
    )


ENGINE = Engine(
    name="trtllm",
    launch=launch,
    health_path="/health",
    metrics_path="/prometheus/metrics",
    load_metrics=LoadMetrics(
        running=("trtllm_num_requests_running",),
        waiting=("trtllm_num_requests_waiting",),
        kv_usage=("trtllm_kv_cache_utilization",),
    ),
    stages=(
        ("Loading weights", "loading weights", "weights"),
        ("Max KV cache", "sizing the KV cache", "kv and compile"),
        ("Application startup complete", "warming up", "warm-up"),
    ),
)
