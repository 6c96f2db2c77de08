"""Launch profiles that the golden files and the real vLLM parser are both held against."""

from backends.engines import (
    ENGINES,
    LaunchCommand,
    LaunchContext,
    LaunchProfile,
    Lora,
    Nodes,
    Speculative,
)

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
    "vllm-gpu-everything": (
        "vllm",
        LaunchProfile(
            weights="/models/mixture",
            gpus=8,
            tensor_parallel=4,
            data_parallel=4,
            expert_parallel=True,
            executor="mp",
            nodes=Nodes(count=2, rank=1, master_address="10.0.0.1"),
            quantization="fp8",
            kv_offload_bytes=16 << 30,
            weights_offload_bytes=4 << 30,
            block_tokens=32,
            max_num_queued_reqs=128,
            chunked_prefill=True,
            long_prefill_tokens=4096,
            speculative=Speculative(method="eagle3", num_speculative_tokens=3, model="/models/eagle"),
            lora=Lora(max_loras=4, max_rank=32, max_cpu_loras=8, adapters={"tax": "/lora/tax"}, runtime=True),
            sleep_mode=True,
            load_format="runai_streamer",
            loader={"concurrency": 16},
            compile_cache="/var/cache/vllm",
            structured_outputs="xgrammar",
        ),
        CONTEXT,
    ),
    "vllm-gpu-ray-draft-gptq": (
        "vllm",
        LaunchProfile(
            weights="/models/qwen-gptq",
            gpus=2,
            tensor_parallel=2,
            executor="ray",
            quantization="gptq_marlin",
            chunked_prefill=False,
            speculative=Speculative(method="draft_model", num_speculative_tokens=5, model="/models/draft"),
        ),
        CONTEXT,
    ),
    "sglang": (
        "sglang",
        LaunchProfile(
            weights="/models/qwen",
            gpus=2,
            tensor_parallel=2,
            quantization="fp8",
            max_num_seqs=64,
            gpu_memory_utilization=0.9,
            speculative=Speculative(method="eagle3", num_speculative_tokens=3, model="/models/eagle"),
            lora=Lora(adapters={"tax": "/lora/tax"}),
            tool_parser="qwen25",
        ),
        CONTEXT,
    ),
    "trtllm": (
        "trtllm",
        LaunchProfile(
            weights="/models/qwen", gpus=2, tensor_parallel=2, max_num_seqs=64, gpu_memory_utilization=0.9
        ),
        CONTEXT,
    ),
    "local": ("local", LaunchProfile(weights="/models/minilm", cpu_cores=(1,)), EMBEDDING),
}


def launch(case: str) -> LaunchCommand:
    engine, profile, context = CASES[case]
    return ENGINES[engine].launch(profile, context)
