"""What the operator says about a model to launch (`[models.launch]`), and what an engine makes of it.

Pure. Checked here, because the engines' own parsers take nonsense (`--quantization nope`,
`--tensor-parallel-size 0`) and fail minutes later, or never. The known names are
vLLM's; a test holds them against its own lists.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import fields

from backends.autoscaler import Scaling
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
# fmt: off
LOAD_FORMATS = frozenset({
    "auto", "dummy", "fastsafetensors", "hf", "instanttensor", "ipc_cache", "mistral", "modelexpress",
    "npcache", "pt", "runai_streamer", "runai_streamer_sharded", "safetensors", "sharded_state", "tensorizer",
})
# fmt: on
STRUCTURED_OUTPUTS = frozenset({"auto", "guidance", "lm-format-enforcer", "outlines", "xgrammar"})
EXECUTORS = frozenset({"mp", "ray"})
LORA_RANKS = frozenset({1, 8, 16, 32, 64, 128, 256, 320, 512})
GONE = {
    "bitsandbytes": "vLLM took it out; use fp8, int8_per_channel_weight_only or an AWQ or GPTQ checkpoint",
    "gguf": "vLLM took it out; convert the file to safetensors (the demo models are made so)",
}
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


class Lora(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Adapters over the weights: some from the start, others loaded while it runs."""

    max_loras: Positive = 1
    """So many different ones in a batch."""
    max_rank: Positive = 16
    max_cpu_loras: Positive | None = None
    adapters: dict[str, str] = {}
    """name -> directory, loaded at the start."""
    runtime: bool = False
    """Adapters may be loaded and unloaded while it runs."""

    def __post_init__(self) -> None:
        if self.max_rank not in LORA_RANKS:
            known = ", ".join(map(str, sorted(LORA_RANKS)))
            raise ValueError(f"lora `max_rank` = {self.max_rank}; the engine takes {known}")
        if self.max_cpu_loras is not None and self.max_cpu_loras < self.max_loras:
            raise ValueError("lora `max_cpu_loras` is less than `max_loras`")
        for name, path in self.adapters.items():
            if not name or "=" in name or not path:
                raise ValueError(f"lora adapter {name!r} needs a name without '=' and a directory")


class Nodes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """This machine's place among several that run one replica together."""

    count: Annotated[int, Meta(ge=2)]
    rank: Natural
    master_address: str
    master_port: Annotated[int, Meta(ge=1, le=65535)] = 29501

    def __post_init__(self) -> None:
        if self.rank >= self.count:
            raise ValueError(f"nodes `rank` = {self.rank} must be less than `count` = {self.count}")


def is_path(weights: str) -> bool:
    """Tell a directory of this machine from the name of a hub model."""
    return weights.startswith(("/", "./", "../", "~"))


class LaunchProfile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to run one replica of a model. `gpus = 0` means the engine's CPU build."""

    weights: str
    min_replicas: Natural = 1
    max_replicas: Natural | None = None
    """None: as many as `min_replicas`, and one at least."""
    gpus: Natural = 0
    devices: tuple[Natural, ...] = ()
    """GPU numbers that the replicas share out, `gpus` each; empty: all of the machine."""
    cpu_cores: tuple[Natural, ...] = ()
    """Cores for the compute threads, shared out among `max_replicas`; empty: the engine's choice."""
    tensor_parallel: Positive = 1
    pipeline_parallel: Positive = 1
    data_parallel: Positive = 1
    expert_parallel: bool = False
    executor: str | None = None
    """mp | ray: what spans the ranks; None: the engine's choice."""
    nodes: Nodes | None = None
    dtype: str | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    kv_cache_bytes: Positive | None = None
    gpu_memory_utilization: Annotated[float, Meta(gt=0, le=1)] | None = None
    kv_offload_bytes: Positive | None = None
    """Host memory that evicted KV blocks go to."""
    weights_offload_bytes: Positive | None = None
    """Weights kept in host memory, per GPU."""
    block_tokens: Positive | None = None
    max_num_seqs: Positive | None = None
    max_num_batched_tokens: Positive | None = None
    max_num_queued_reqs: Positive | None = None
    chunked_prefill: bool | None = None
    long_prefill_tokens: Positive | None = None
    """Prompts longer than this count as long and are prefilled in such pieces."""
    prefix_caching: bool = True
    eager: bool | None = None
    """None: eager on CPU, compiled on GPU."""
    speculative: Speculative | None = None
    lora: Lora | None = None
    sleep_mode: bool = False
    """GPU only: the replica can give back its memory and come back without a start."""
    sleep_level: Literal[1, 2] = 1
    """1: weights go to host memory; 2: they are dropped, and read again at the wake."""
    load_format: str | None = None
    loader: dict[str, str | int | float | bool] = {}
    """The load format's own settings, such as `{ concurrency = 16 }` of runai_streamer."""
    prefetch: bool = True
    """Local weights are read into the page cache while the engine starts: one read for several replicas."""
    compile_cache: str | None = None
    """A directory that keeps compiled graphs over restarts."""
    structured_outputs: str | None = None
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template: str | None = None
    extra_args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    load_timeout_s: Annotated[float, Meta(gt=0)] = 900.0
    shutdown_timeout_s: Natural = 20
    """A running request gets so long to finish when the engine has been told to end."""
    drain_timeout_s: Annotated[float, Meta(ge=0)] = 120.0
    """Out of routing, running requests get so long before the engine is told to end."""
    when_asleep: Literal["hold", "refuse"] = "hold"
    """A request that finds no replica wakes one; it waits for it, or gets 503 with `retry-after`."""
    fit: Literal["refuse", "warn"] = "refuse"
    """What becomes of a start where the plan says that the model does not fit on the machine."""
    standby: Natural = 0
    """Replicas beyond those in use that are loaded and wait, asleep where the engine can."""
    spot: bool = False
    on_demand: Natural = 0
    """With `spot`: so many replicas at least are not; the top band goes there first."""
    zones: tuple[str, ...] = ()
    """Replicas are spread over them; a launcher that knows no zones ignores them."""
    scaling: Scaling = Scaling()

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("`weights` is empty: name a directory or a hub model")
        _known("quantization", self.quantization, QUANTIZATIONS)
        _known("kv_cache_dtype", self.kv_cache_dtype, KV_CACHE_DTYPES)
        _known("load_format", self.load_format, LOAD_FORMATS)
        _known("structured_outputs", self.structured_outputs, STRUCTURED_OUTPUTS)
        _known("executor", self.executor, EXECUTORS)
        if self.on_demand and not self.spot:
            raise ValueError("`on_demand` is the floor beneath spot replicas; set `spot`, or remove it")
        if self.standby and self.standby + max(self.min_replicas, 1) > self.ceiling:
            raise ValueError(f"`max_replicas` has no room for `standby` = {self.standby}; raise it")
        if self.max_replicas is not None and self.max_replicas < max(self.min_replicas, 1):
            raise ValueError(f"`max_replicas` = {self.max_replicas} is less than `min_replicas` or 1")
        self._check_devices()
        self._check_batching()
        for argument in self.extra_args:
            if argument.partition("=")[0].replace("_", "-") in OWNED_FLAGS:
                raise ValueError(f"`extra_args` must not hold {argument!r}: Switchgear sets it")

    def _check_devices(self) -> None:
        ranks = self.tensor_parallel * self.pipeline_parallel * self.data_parallel
        machines = self.nodes.count if self.nodes else 1
        if ranks % machines:
            raise ValueError(f"`nodes` names {machines} machines for {ranks} ranks, which they cannot share")
        if self.gpus and self.gpus * machines != ranks:
            raise ValueError(
                f"`gpus` = {self.gpus}, but tensor_parallel x pipeline_parallel x data_parallel = {ranks}"
                + (f" over {machines} machines" if machines > 1 else "")
            )
        if self.devices and (not self.gpus or len(self.devices) % self.gpus):
            raise ValueError(
                f"`devices` names {len(self.devices)} GPUs; name `gpus` = {self.gpus} of them a replica"
            )
        if len(set(self.devices)) != len(self.devices):
            raise ValueError("`devices` names a GPU twice")
        if self.cpu_cores and len(self.cpu_cores) < ranks:
            raise ValueError(f"`cpu_cores` names {len(self.cpu_cores)} cores for {ranks} ranks")
        gpu_only = {
            "sleep_mode": self.sleep_mode,
            "nodes": self.nodes,
            "weights_offload_bytes": self.weights_offload_bytes,
        }
        for name, value in gpu_only.items():
            if value and not self.gpus:
                raise ValueError(
                    f"`{name}` needs GPUs; the CPU build does not have it: set `gpus`, or remove it"
                )
        if self.expert_parallel and ranks == 1:
            raise ValueError("`expert_parallel` spreads experts over ranks, and there is only one")

    def _check_batching(self) -> None:
        tokens, seqs = self.max_num_batched_tokens, self.max_num_seqs
        if tokens and seqs and tokens < seqs:
            raise ValueError(f"`max_num_batched_tokens` = {tokens} is less than `max_num_seqs` = {seqs}")
        if self.kv_cache_bytes and self.gpu_memory_utilization:
            raise ValueError("give `kv_cache_bytes` or `gpu_memory_utilization`, not both")
        if self.long_prefill_tokens and self.chunked_prefill is False:
            raise ValueError("`long_prefill_tokens` needs `chunked_prefill`")
        if self.loader and self.load_format is None:
            raise ValueError("`loader` belongs to a `load_format`; name one")

    @property
    def ceiling(self) -> int:
        """The most replicas that there may be."""
        return max(self.min_replicas, 1) if self.max_replicas is None else self.max_replicas

    @property
    def local(self) -> bool:
        """True where the weights are a path, not the name of a hub model."""
        return is_path(self.weights)


class LaunchContext(Struct, frozen=True, kw_only=True):
    """What the profile cannot know: where the replica runs and what it is called."""

    python: str
    """The engine environment's interpreter."""
    port: int
    served_name: str
    kind: str = "chat"
    """chat | embedding"""
    context_tokens: int | None = None


class Place(Struct, frozen=True, kw_only=True):
    """What a replica is, and what of its machine it was given."""

    version: str = ""
    spot: bool = False
    zone: str = ""
    """`spot` and `zone` are for launchers that choose a machine, others ignore them."""
    devices: tuple[int, ...] = ()
    cpu_cores: tuple[int, ...] = ()


class LaunchCommand(Struct, frozen=True, kw_only=True):
    """`env` is added to the launcher's neutral environment."""

    argv: tuple[str, ...]
    env: dict[str, str]
    shutdown_timeout_s: int = 20
    place: Place = Place()


class Sleep(Struct, frozen=True):
    """What is posted, relative to the root, to put an engine to sleep and to wake it, with the bodies."""

    sleep: str
    wake: tuple[tuple[str, Mapping[str, object]], ...]


class Engine(Struct, frozen=True, kw_only=True):
    """One kind of inference server: how it is launched and in what it differs on the wire."""

    name: str
    launch: Callable[[LaunchProfile, LaunchContext], LaunchCommand]
    """Pure; raises CannotLaunch for a profile that this engine cannot run."""
    health_path: str | None = None
    """Relative to the server's root; None: asks `/v1/models` instead."""
    metrics_path: str | None = None
    load_metrics: LoadMetrics | None = None
    sleeps: Mapping[int, Sleep] = {}
    """By level, for those launched with `sleep_mode`; empty: it has no sleep mode."""
    lora_paths: tuple[str, str] | None = None
    """Where adapters are loaded and unloaded (POST, relative to the root)."""
    token_metrics: TokenMetrics | None = None
    figures: dict[str, tuple[str, ...]] = {}
    """What the engine calls the figures that all engines have (`gateway.telemetry.ENGINE_METRICS`)."""
    takes_priority: bool = False
    """Understands `priority`, smaller first, where launched by us: vLLM's default policy refuses it."""
    takes_cache_salt: bool = False
    """Understands `cache_salt`: prompts share cached prefixes only where it is the same."""
    caches_kv: bool = True
    """Keeps keys and values of the tokens so far; an encoder keeps nothing."""
    returns_token_ids: bool = False
    """Understands `return_token_ids`."""
    continues_messages: bool = False
    """Understands `continue_final_message`: goes on with an answer that is begun."""
    stages: tuple[tuple[str, str, str], ...] = ()
    """(part of a log line, what it means, the step of a start that begins with it), in their order."""


class CannotLaunch(ValueError):
    """The engine cannot be started with this profile; the message says why and what to do."""


def stage(engine: Engine, log: tuple[str, ...]) -> str:
    """What the engine is doing, from its latest log line that tells; "starting" before the first."""
    for line in reversed(log):
        for part, meaning, _ in engine.stages:
            if part in line:
                return meaning
    return "starting"


def _known(what: str, value: str | None, allowed: frozenset[str]) -> None:
    if value is not None and value not in allowed:
        gone = f"; {GONE[value]}" if value in GONE else ""
        raise ValueError(f"unknown {what} {value!r}{gone}; known: {', '.join(sorted(allowed))}")


def refuse(engine: str, profile: LaunchProfile, names: Iterable[str], remedy: str = "; remove it") -> None:
    """Raise CannotLaunch where a setting is given that the engine has no counterpart for."""
    defaults = {field.name: field.default for field in fields(profile)}
    for name in names:
        value = getattr(profile, name)
        if value != defaults[name] and value not in (None, {}, ()):
            raise CannotLaunch(f'engine = "{engine}" has no flag for launch.{name}{remedy}')
