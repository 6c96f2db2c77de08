"""The kinds of inference servers: a file each, a line in `ENGINES` each."""

from backends.engines import local, openai, sglang, trtllm, vllm
from backends.engines.profile import (
    CannotLaunch,
    Engine,
    LaunchCommand,
    LaunchContext,
    LaunchProfile,
    Lora,
    Nodes,
    Place,
    Sleep,
    Speculative,
    stage,
)

ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (vllm.ENGINE, trtllm.ENGINE, sglang.ENGINE, local.ENGINE, openai.ENGINE)
}

__all__ = [
    "ENGINES",
    "CannotLaunch",
    "Engine",
    "LaunchCommand",
    "LaunchContext",
    "LaunchProfile",
    "Lora",
    "Nodes",
    "Place",
    "Sleep",
    "Speculative",
    "stage",
]
