"""The plan's arithmetic against published figures, and against what vLLM itself reported."""

from typing import Any

import msgspec
import pytest

from backends.engines import LaunchProfile
from backends.placement import GIB, Machine, fit, kv_bytes_per_token, shape_of
from backends.weights import described

LLAMA_8B = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip
LLAMA_70B = LLAMA_8B | {
    "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 28672,
}  # fmt: skip
MIXTRAL = LLAMA_8B | {"vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2}
SMOLLM2 = {
    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "billions"), [(LLAMA_8B, 8.03), (LLAMA_70B, 70.55), (MIXTRAL, 46.70), (SMOLLM2, 0.1345)]
)
def test_parameters_are_the_published_ones(config: dict[str, Any], billions: float) -> None:
    assert shape_of(config).parameters / 1e9 == pytest.approx(billions, rel=0.002)


def test_of_a_mixture_only_the_chosen_experts_work() -> None:
    assert shape_of(MIXTRAL).active_parameters / 1e9 == pytest.approx(12.88, rel=0.002)


def test_kv_capacity_is_what_vllm_reported() -> None:
    """vLLM 0.32, CPU build, 1 GiB: "CPU KV cache size: 46,592 tokens"."""
    found = fit(shape_of(SMOLLM2), LaunchProfile(weights="/w"), Machine(), [4096])
    assert (found.kv_bytes_per_token, found.kv_tokens) == (23040, 46592)
    assert found.sequences == {"4096": 11}


def test_an_encoder_has_no_kv_cache_and_needs_no_memory_for_one() -> None:
    profile, machine = LaunchProfile(weights="/w"), Machine(memory_bytes=5 * GIB // 2)
    found = fit(shape_of(SMOLLM2), profile, machine, [256], caches=False)
    assert found.fits
    assert (found.kv_bytes_per_token, found.kv_bytes, found.kv_tokens, found.sequences) == (0, 0, 0, {})
    assert not fit(shape_of(SMOLLM2), profile, machine, [256]).fits


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (LaunchProfile(weights="/w", gpus=5, tensor_parallel=5), "set tensor_parallel to one of 1, 2, 3, 4,"),
        (LaunchProfile(weights="/w", gpus=64, pipeline_parallel=64), "set pipeline_parallel to 32 or less"),
        (LaunchProfile(weights="/w", gpus=1), "set gpus = 0"),
    ],
)
def test_every_problem_has_its_remedy(profile: LaunchProfile, said: str) -> None:
    gpus = () if profile.gpus == 1 else [described("H100", 80)] * 64
    found = fit(shape_of({**LLAMA_8B, "num_attention_heads": 24}), profile, Machine(gpus=gpus), [4096])
    (problem,) = found.problems
    assert said in problem


def test_tensor_ranks_beyond_the_kv_heads_copy_them() -> None:
    shape = shape_of(LLAMA_8B)
    assert kv_bytes_per_token(shape, LaunchProfile(weights="/w")) == 131072
    wide = LaunchProfile(weights="/w", gpus=16, tensor_parallel=16)
    assert kv_bytes_per_token(shape, wide) == 2 * 131072
    assert kv_bytes_per_token(shape, LaunchProfile(weights="/w", kv_cache_dtype="fp8")) == 65536


def test_what_does_not_fit_says_what_to_change() -> None:
    gpu = described("H100", 80)
    alone = fit(shape_of(LLAMA_70B), LaunchProfile(weights="/w", gpus=1), Machine(gpus=[gpu]), [4096])
    assert not alone.fits
    assert "raise tensor_parallel, or quantise" in alone.problems[0]
    four = LaunchProfile(weights="/w", gpus=4, tensor_parallel=4)
    spread = fit(shape_of(LLAMA_70B), four, Machine(gpus=[gpu] * 4), [4096])
    assert spread.fits
    assert spread.devices == ((0, 1, 2, 3),)
    assert spread.kv_bytes < 4 * 80 * GIB - spread.weight_bytes
    many = fit(shape_of(LLAMA_70B), four, Machine(gpus=[gpu] * 4), [4096], replicas=2)
    assert "need 8, and there are 4 free" in many.problems[0]


def test_a_cache_too_small_for_one_sequence_is_a_problem() -> None:
    small = LaunchProfile(weights="/w", kv_cache_bytes=1 << 20)
    found = fit(shape_of(LLAMA_8B), small, Machine(), [4096])
    assert "kv_cache_bytes (to 0.5 GiB)" in found.problems[0] or not found.kv_tokens
    assert not found.fits


def test_models_on_one_machine_do_not_share_gpus() -> None:
    gpus, one = [described("H100", 80)] * 2, LaunchProfile(weights="/w", gpus=1)
    first = fit(shape_of(LLAMA_8B), one, Machine(gpus=gpus), [4096])
    second = fit(shape_of(LLAMA_8B), one, Machine(gpus=gpus, taken=frozenset(first.devices[0])), [4096])
    assert (first.devices, second.devices) == (((0,),), ((1,),))
    third = fit(shape_of(LLAMA_8B), one, Machine(gpus=gpus, taken=frozenset({0, 1})), [4096])
    assert "there are 0 free" in third.problems[0]


def test_without_gpus_the_memory_of_the_machine_is_the_bound() -> None:
    profile = LaunchProfile(weights="/w", kv_cache_bytes=4 * GIB)
    assert fit(shape_of(LLAMA_8B), profile, Machine(memory_bytes=24 * GIB), [4096]).fits
    small = fit(shape_of(LLAMA_8B), profile, Machine(memory_bytes=16 * GIB), [4096])
    assert "the machine has 16.0 GiB" in small.problems[0]


def test_models_on_one_machine_do_not_share_memory() -> None:
    profile = LaunchProfile(weights="/w", kv_cache_bytes=4 * GIB)
    first = fit(shape_of(LLAMA_8B), profile, Machine(memory_bytes=30 * GIB), [4096])
    assert first.fits
    beside = Machine(memory_bytes=30 * GIB, taken_bytes=first.host_bytes)
    second = fit(shape_of(LLAMA_8B), profile, beside, [4096])
    assert "the machine has 30.0 GiB, of which other models need" in second.problems[0]
    on_gpu = LaunchProfile(weights="/w", gpus=1)
    gpus = (described("H100", 80),)
    assert fit(shape_of(LLAMA_8B), on_gpu, msgspec.structs.replace(beside, gpus=gpus), [4096]).fits
