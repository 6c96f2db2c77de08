"""Does a model fit: weights, KV cache, concurrency, speed, which GPUs. Pure arithmetic on a model's shape.

- Weights: the bytes of the safetensors where they are known, else the parameters of the shape at the width of
  the dtype or the quantisation. Spread over tensor and pipeline ranks.
- KV bytes per token: two vectors per layer and KV head (one compressed one with multi-head latent attention);
  KV heads are split over tensor ranks, and copied where there are fewer of them than ranks.
- Speed: the roofline of decoding: a step reads all active weights and the KV of its sequences once, so memory
  bandwidth is the bound; real engines reach about 60 to 80 % of it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from backends.engines.profile import LaunchProfile

GIB = 1 << 30
DTYPE_BYTES = {"float32": 4.0, "float": 4.0, "bfloat16": 2.0, "float16": 2.0, "half": 2.0, "auto": 2.0}
QUANTIZED_BITS = {
    "awq": 4.25, "awq_marlin": 4.25, "auto_awq": 4.25, "gptq": 4.25, "gptq_marlin": 4.25, "auto_gptq": 4.25,
    "fp8": 8.0, "fp8_per_block": 8.0, "fp8_per_channel": 8.0, "fp8_per_tensor": 8.0, "fbgemm_fp8": 8.0,
    "experts_int8": 8.0, "int8_per_channel_weight_only": 8.0, "modelopt": 8.0, "modelopt_fp4": 4.5,
    "mxfp4": 4.25, "gpt_oss_mxfp4": 4.25, "mxfp8": 8.25, "moe_wna16": 4.25,
}  # fmt: skip
OVERHEAD_BYTES = 2 * GIB
"""Activations, graphs and the CUDA context, per GPU."""
GPU_BLOCK_TOKENS, CPU_BLOCK_TOKENS = 16, 128
"""vLLM's blocks, where none are set; capacity comes in whole ones."""
DEFAULT_SHARE = 0.92
DEFAULT_CPU_KV_BYTES = GIB
EFFICIENCY = 0.7
NO_GPU = (
    "no GPU was found here: set gpus = 0 for the CPU build; for another machine, describe its GPUs to "
    "'switchgear plan' by --gpus and --gpu-memory-gib"
)


class Shape(Struct, frozen=True, kw_only=True):
    """What `config.json` says of a model."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    parameters: int
    active_parameters: int
    """Of a mixture of experts, those that a token passes."""
    dtype: str = "bfloat16"
    quantization: str | None = None
    context_tokens: int = 0
    latent_values: int = 0
    """Values per token and layer with latent attention; 0 without."""
    weight_bytes: int | None = None
    """Of the files; None: not seen."""


class Gpu(Struct, frozen=True, kw_only=True):
    """One device, found or described."""

    memory_bytes: int
    bandwidth_bytes_per_s: float = 0.0
    """0: unknown, no speed is given."""
    name: str = "GPU"


class Machine(Struct, frozen=True, kw_only=True):
    """What replicas are placed on."""

    gpus: Sequence[Gpu] = ()
    taken: frozenset[int] = frozenset()
    """GPUs that other models have."""
    memory_bytes: int = 0
    """Of the host, for engines without GPUs; 0: unknown, not checked."""
    taken_bytes: int = 0
    """What others need of it."""


class Fit(Struct, frozen=True, kw_only=True):
    """What a launch would come to."""

    fits: bool
    problems: tuple[str, ...]
    weight_bytes: int
    weight_bytes_per_gpu: int
    kv_bytes_per_token: int
    kv_bytes: int
    """Room for the KV cache, over all ranks."""
    kv_tokens: int
    sequences: dict[str, int]
    """length in tokens -> so many at once; none where there is no KV cache."""
    tokens_per_s: float | None
    """One sequence; None where the bandwidth is not known."""
    devices: tuple[tuple[int, ...], ...]
    """The GPUs of each replica."""
    host_bytes: int
    """What all replicas need of the host's memory; 0 on GPUs."""


class UnknownShape(ValueError):
    """The description lacks what the plan needs; the text says what."""


def shape_of(config: Mapping[str, Any], weight_bytes: int | None = None) -> Shape:
    """Read a Hugging Face `config.json`; raises UnknownShape."""
    config = {**config, **config.get("text_config", {})}
    try:
        hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
        heads = int(config["num_attention_heads"])
    except KeyError as error:
        raise UnknownShape(f"config.json has no {error}") from None
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or hidden // heads)
    latent = int(config.get("kv_lora_rank") or 0)
    total, active = _parameters(config, hidden, layers, heads * head_dim, kv_heads * head_dim)
    method = (config.get("quantization_config") or {}).get("quant_method")
    return Shape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        parameters=total,
        active_parameters=active,
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "bfloat16"),
        quantization=method,
        context_tokens=int(config.get("max_position_embeddings") or 0),
        latent_values=latent + int(config.get("qk_rope_head_dim") or 0) if latent else 0,
        weight_bytes=weight_bytes,
    )


def _parameters(
    config: Mapping[str, Any], hidden: int, layers: int, query_width: int, kv_width: int
) -> tuple[int, int]:
    """All, and those that a token passes. Norms and biases are left out: under a thousandth."""
    embedding = int(config.get("vocab_size", 0)) * hidden
    heads = embedding * (1 if config.get("tie_word_embeddings") else 2)
    attention = hidden * (2 * query_width + 2 * kv_width)
    inner = int(config.get("intermediate_size") or 4 * hidden)
    gates = 2 if config.get("model_type") in ("opt", "gpt2", "gpt_neox", "phi") else 3
    experts = int(config.get("num_local_experts") or config.get("num_experts") or 0)
    if not experts:
        total = layers * (attention + gates * hidden * inner) + heads
        return total, total
    width = int(config.get("moe_intermediate_size") or inner)
    chosen = int(config.get("num_experts_per_tok") or 2)
    expert, router = gates * hidden * width, hidden * experts
    return (
        layers * (attention + router + experts * expert) + heads,
        layers * (attention + router + chosen * expert) + heads,
    )


def weight_bytes(shape: Shape, profile: LaunchProfile) -> int:
    """Bytes of the weights in memory."""
    asked = profile.quantization
    if shape.weight_bytes is not None and (asked is None or shape.quantization is not None):
        return shape.weight_bytes
    method = asked or shape.quantization
    width = QUANTIZED_BITS[method] / 8 if method in QUANTIZED_BITS else _width(profile.dtype or shape.dtype)
    return round(shape.parameters * width)


def kv_bytes_per_token(shape: Shape, profile: LaunchProfile) -> int:
    """Bytes of a token's KV cache over all ranks of a replica."""
    name = profile.kv_cache_dtype or "auto"
    plain = _width(profile.dtype or shape.dtype)
    width = plain if name == "auto" else 1.0 if "8" in name else 0.5 if "4" in name else 2.0
    ranks = profile.tensor_parallel
    if shape.latent_values:
        return round(shape.layers * shape.latent_values * width * ranks)
    heads = max(shape.kv_heads, ranks)
    return round(2 * shape.layers * heads * shape.head_dim * width)


def fit(
    shape: Shape,
    profile: LaunchProfile,
    machine: Machine,
    lengths: Sequence[int],
    replicas: int = 1,
    caches: bool = True,
) -> Fit:
    """Place `replicas` on the machine and say what each can hold; `caches` is false of an encoder."""
    weights, per_token = weight_bytes(shape, profile), kv_bytes_per_token(shape, profile) if caches else 0
    devices, problems = _devices(profile, machine, replicas)
    share = weights // (profile.tensor_parallel * profile.pipeline_parallel)
    room, bandwidth = _room(profile, machine.gpus, share)
    if room < 0:
        problems.append(
            f"the weights need {_gib(share)} per GPU and {_gib(OVERHEAD_BYTES)} beside them, "
            f"{_gib(-room)} more than there is: raise tensor_parallel, or quantise"
        )
    room = max(room, 0) if caches else 0
    host = 0 if profile.gpus else replicas * (weights + room + OVERHEAD_BYTES)
    problems += _crowded(machine, host, replicas)
    block = profile.block_tokens or (GPU_BLOCK_TOKENS if profile.gpus else CPU_BLOCK_TOKENS)
    tokens = room // per_token // block * block if per_token else 0
    longest = max(lengths, default=0)
    if room and tokens < longest:
        problems.append(
            f"{tokens} tokens of KV cache hold no sequence of {longest}: lower context_tokens, raise "
            f'kv_cache_bytes (to {_gib(longest * per_token)}), or set kv_cache_dtype = "fp8"'
        )
    if shape.heads % profile.tensor_parallel:
        able = ", ".join(str(ranks) for ranks in range(1, shape.heads + 1) if shape.heads % ranks == 0)
        problems.append(
            f"{shape.heads} attention heads cannot be split over {profile.tensor_parallel} ranks: "
            f"set tensor_parallel to one of {able}"
        )
    if shape.layers < profile.pipeline_parallel:
        problems.append(
            f"{shape.layers} layers cannot be split over {profile.pipeline_parallel} stages: "
            f"set pipeline_parallel to {shape.layers} or less"
        )
    active = weights * shape.active_parameters / max(shape.parameters, 1)
    step = active + per_token * max(longest // 2, 1)
    speed = EFFICIENCY * bandwidth * profile.tensor_parallel / step if bandwidth else None
    limit = profile.max_num_seqs or 1 << 30
    return Fit(
        fits=not problems,
        problems=tuple(problems),
        weight_bytes=weights,
        weight_bytes_per_gpu=share,
        kv_bytes_per_token=per_token,
        kv_bytes=room,
        kv_tokens=tokens,
        sequences={str(length): min(tokens // length, limit) for length in lengths if caches},
        tokens_per_s=None if speed is None else round(speed, 1),
        devices=devices,
        host_bytes=host,
    )


def _crowded(machine: Machine, host: int, replicas: int) -> list[str]:
    """Say where the host's memory is too small for so many bytes beside what others need of it."""
    if not host or not 0 < machine.memory_bytes < host + machine.taken_bytes:
        return []
    others = f", of which other models need {_gib(machine.taken_bytes)}" if machine.taken_bytes else ""
    return [
        f"{replicas} replicas need {_gib(host)} of memory with their KV cache, and the machine has "
        f"{_gib(machine.memory_bytes)}{others}: lower kv_cache_bytes or min_replicas, or take a smaller model"
    ]


def _room(profile: LaunchProfile, gpus: Sequence[Gpu], share: int) -> tuple[int, float]:
    """Bytes for the KV cache over all ranks (negative: missing per GPU), and the slowest bandwidth."""
    ranks = profile.tensor_parallel * profile.pipeline_parallel
    if not profile.gpus:
        return (profile.kv_cache_bytes or DEFAULT_CPU_KV_BYTES) * ranks, 0.0
    if not gpus:
        return 0, 0.0
    smallest = min(one.memory_bytes for one in gpus)
    usable = math.floor(smallest * (profile.gpu_memory_utilization or DEFAULT_SHARE))
    left = usable - share - OVERHEAD_BYTES + (profile.weights_offload_bytes or 0)
    if left >= 0 and profile.kv_cache_bytes is not None:
        left = profile.kv_cache_bytes if profile.kv_cache_bytes <= left else left - profile.kv_cache_bytes
    return left * ranks if left >= 0 else left, min(one.bandwidth_bytes_per_s for one in gpus)


def _devices(
    profile: LaunchProfile, machine: Machine, replicas: int
) -> tuple[tuple[tuple[int, ...], ...], list[str]]:
    """Which GPUs each replica has, side by side in their order."""
    need = profile.gpus
    if not need:
        return (), []
    if not machine.gpus:
        return (), [NO_GPU]
    pool = profile.devices or range(len(machine.gpus))
    free = [one for one in pool if one not in machine.taken]
    if need * replicas > len(free):
        text = f"{replicas} replicas of {need} GPUs need {need * replicas}, and there are {len(free)} free"
        return (), [f"{text}: lower min_replicas or tensor_parallel"]
    return tuple(tuple(free[n * need : (n + 1) * need]) for n in range(replicas)), []


def _width(dtype: str) -> float:
    return DTYPE_BYTES.get(dtype.removeprefix("torch."), 2.0)


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / GIB:.1f} GiB"
