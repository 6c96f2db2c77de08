"""What the operator says about a model to launch (`[models.launch]`), and what an engine makes of it.

Pure. Checked here, because the engines' own parsers take nonsense (`--quantization nope`,
`--tensor-parallel-size 0`) and fail minutes later, or never. The known names are
vLLM's; a test holds them against its own lists.
"""

from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct

from backends.load import LoadMetrics, TokenMetrics

Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]

# fmt: off
QUANTIZATIONS = frozenset({
    "auto_awq", "auto_gptq", "awq", "awq_marlin", "compressed-tensors", "deepseek_v4_fp8",
    "experts_int8", "fbgemm_fp8", "fp8", "fp8_per_block", "fp8_per_channel", "fp8_per_tensor",
    "fp_quant", "gpt_oss_mxfp4", "gptq", "gptq_marlin", "humming", "inc",
    "int8_per_channel_weight_only", "modelopt", "modelopt_fp4", "modelopt_mixed", "modelopt_mxfp8",
    "moe_wna16", "mxfp4", "mxfp8", "nvfp4_per_token", "online", "quark", "torchao",
})
KV_CACHE_DTYPES = frozenset({
    "auto", "bfloat16", "float16", "fp8", "fp8_ds_mla", "fp8_e4m3", "fp8_e5m2", "fp8_inc",
    "fp8_per_token_head", "int4_per_token_head", "int8_per_token_head", "nvfp4", "nvfp4_4over6",
    "nvfp4_ds_mla", "turboquant_3bit_nc", "turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_k8v4",
    "ultraquant_4bit",
})
# fmt: on
DRAFTED_BY_A_MODEL = frozenset(
    {"dflash", "draft_model", "dspark", "eagle", "eagle3", "medusa", "mlp_speculator"}
)
SPECULATIVE_METHODS = DRAFTED_BY_A_MODEL | {"mtp", "ngram", "ngram_gpu", "suffix"}
OWNED_FLAGS = frozenset(
    {"--api-key", "--host", "--model", "--port", "--root-path", "--served-model-name", "--uds"}
)
"""The launcher decides these; an extra argument must not."""


class Speculative(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Speculative decoding; the names are the engine's (vLLM's `--speculative-config`)."""

    method: str
    num_speculative_tokens: Positive
    model: str | None = None
    prompt_lookup_min: Positive | None = None
    prompt_lookup_max: Positive | None = None
    draft_tensor_parallel_size: Positive | None = None

    def __post_init__(self) -> None:
        _known("speculative method", self.method, SPECULATIVE_METHODS)
        if self.method in DRAFTED_BY_A_MODEL and not self.model:
            raise ValueError(f"speculative method {self.method!r} needs `model`, the draft model's weights")


class LaunchProfile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to run one replica of a model. `gpus = 0` means the engine's CPU build."""

    weights: str
    min_replicas: Natural = 1
    max_replicas: Natural | None = None
    """None: as many as `min_replicas`."""
    gpus: Natural = 0
    devices: tuple[Natural, ...] = ()
    """GPU numbers; empty: whichever the engine sees."""
    cpu_cores: tuple[Natural, ...] = ()
    """Cores for the compute threads; empty: the engine's choice (two servers then share one core)."""
    tensor_parallel: Positive = 1
    pipeline_parallel: Positive = 1
    dtype: str | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    kv_cache_bytes: Positive | None = None
    gpu_memory_utilization: Annotated[float, Meta(gt=0, le=1)] | None = None
    max_num_seqs: Positive | None = None
    max_num_batched_tokens: Positive | None = None
    prefix_caching: bool = True
    eager: bool | None = None
    """None: eager on CPU, compiled on GPU."""
    speculative: Speculative | None = None
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template: str | None = None
    extra_args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    load_timeout_s: Annotated[float, Meta(gt=0)] = 900.0
    shutdown_timeout_s: Natural = 20
    """A running request gets so long to finish when the replica is ended."""

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("`weights` is empty: name a directory or a hub model")
        _known("quantization", self.quantization, QUANTIZATIONS)
        _known("kv_cache_dtype", self.kv_cache_dtype, KV_CACHE_DTYPES)
        if self.max_replicas is not None and self.max_replicas < max(self.min_replicas, 1):
            raise ValueError(f"`max_replicas` = {self.max_replicas} is less than `min_replicas` or 1")
        ranks = self.tensor_parallel * self.pipeline_parallel
        if self.gpus and self.gpus != ranks:
            raise ValueError(f"`gpus` = {self.gpus}, but tensor_parallel x pipeline_parallel = {ranks}")
        if self.devices and len(self.devices) != self.gpus:
            raise ValueError(f"`devices` names {len(self.devices)} GPUs, but `gpus` = {self.gpus}")
        if not self.gpus and ranks > 1 and self.cpu_cores and len(self.cpu_cores) < ranks:
            raise ValueError(f"`cpu_cores` names {len(self.cpu_cores)} cores for {ranks} ranks")
        for argument in self.extra_args:
            if argument.partition("=")[0].replace("_", "-") in OWNED_FLAGS:
                raise ValueError(f"`extra_args` must not hold {argument!r}: Switchgear sets it")

    @property
    def local(self) -> bool:
        """True where the weights are a path, not the name of a hub model."""
        return self.weights.startswith(("/", "./", "../", "~"))


class LaunchContext(Struct, frozen=True, kw_only=True):
    """What the profile cannot know: where the replica runs and what it is called."""

    python: str
    """The engine environment's interpreter."""
    port: int
    served_name: str
    kind: str = "chat"
    """chat | embedding"""
    context_tokens: int | None = None


class LaunchCommand(Struct, frozen=True, kw_only=True):
    """`env` is added to the launcher's neutral environment."""

    argv: tuple[str, ...]
    env: dict[str, str]
    shutdown_timeout_s: int = 20


class Engine(Struct, frozen=True, kw_only=True):
    """One kind of inference server: how it is launched and in what it differs on the wire."""

    name: str
    launch: Callable[[LaunchProfile, LaunchContext], LaunchCommand]
    """Pure; raises CannotLaunch for a profile that this engine cannot run."""
    health_path: str | None = None
    """Relative to the server's root; None: asks `/v1/models` instead."""
    metrics_path: str | None = None
    load_metrics: LoadMetrics | None = None
    token_metrics: TokenMetrics | None = None
    figures: dict[str, tuple[str, ...]] = {}
    """What the engine calls the figures that all engines have (`gateway.telemetry.ENGINE_METRICS`)."""
    takes_priority: bool = False
    """Understands `priority`, smaller first, where launched by us: vLLM's default policy refuses it."""
    takes_cache_salt: bool = False
    """Understands `cache_salt`: prompts share cached prefixes only where it is the same."""
    returns_token_ids: bool = False
    """Understands `return_token_ids`."""
    stages: tuple[tuple[str, str], ...] = ()
    """(part of a log line, what it means), in the order of a start."""


class CannotLaunch(ValueError):
    """The engine cannot be started with this profile; the message says why and what to do."""


def stage(engine: Engine, log: tuple[str, ...]) -> str:
    """What the engine is doing, from its latest log line that tells; "starting" before the first."""
    for line in reversed(log):
        for part, meaning in engine.stages:
            if part in line:
                return meaning
    return "starting"


def _known(what: str, value: str | None, allowed: frozenset[str]) -> None:
    if value is not None and value not in allowed:
        raise ValueError(f"unknown {what} {value!r}; known: {', '.join(sorted(allowed))}")
