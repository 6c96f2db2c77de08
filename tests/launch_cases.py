"""Launch profiles that the golden files and the real vLLM parser are both held against."""

from backends.engines import ENGINES, LaunchCommand, LaunchContext, LaunchProfile, Speculative

CONTEXT = LaunchContext(python="/engine/bin/python", port=9001, served_name="small", context_tokens=2048)
EMBEDDING = LaunchContext(python="/engine/bin/python", port=9002, served_name="embed", kind="embedding")

CASES: dict[str, tuple[str, LaunchProfile, LaunchContext]] = {
    "vllm-cpu": (
        "vllm",
        LaunchProfile(weights="/models/smollm2", cpu_cores=(0,), tool_parser="hermes", max_num_seqs=16),
        CONTEXT,
    ),
    "vllm-cpu-bare": (
        "vllm",
        LaunchProfile(weights="/models/x", prefix_caching=False, eager=False),
        EMBEDDING,
    ),
    "vllm-cpu-two-ranks": (
        "vllm",
        LaunchProfile(weights="/models/x", tensor_parallel=2, cpu_cores=(0, 1, 2, 3), kv_cache_bytes=5 << 29),
        CONTEXT,
    ),
    "vllm-gpu": (
        "vllm",
        LaunchProfile(
            weights="Qwen/Qwen2.5-72B-Instruct-AWQ",
            gpus=4,
            devices=(0, 1, 2, 3),
            tensor_parallel=2,
            pipeline_parallel=2,
            dtype="bfloat16",
            quantization="awq_marlin",
            kv_cache_dtype="fp8",
            gpu_memory_utilization=0.92,
            max_num_seqs=256,
            max_num_batched_tokens=8192,
            speculative=Speculative(method="ngram", num_speculative_tokens=4, prompt_lookup_max=4),
            tool_parser="hermes",
            reasoning_parser="qwen3",
            extra_args=("--enable-lora", "--max-loras", "4"),
            env={"NCCL_DEBUG": "WARN"},
            shutdown_timeout_s=60,
        ),
        CONTEXT,
    ),
    "vllm-gpu-kv-bytes": (
        "vllm",
        LaunchProfile(weights="/models/qwen", gpus=1, kv_cache_bytes=8 << 30),
        CONTEXT,
    ),
    "local": ("local", LaunchProfile(weights="/models/minilm", cpu_cores=(1,)), EMBEDDING),
}


def launch(case: str) -> LaunchCommand:
    engine, profile, context = CASES[case]
    return ENGINES[engine].launch(profile, context)
