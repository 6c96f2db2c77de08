"""LoRA adapters loaded while replicas run: asked of the engine, remembered for replicas that start later."""

from collections.abc import Awaitable, Collection, Mapping
from typing import Literal, Protocol

from backends.engines import ENGINES
from backends.probing import Verdict
from backends.replica import Event
from backends.wanted import ReplicaSpec


class Tell(Protocol):
    """Posts to one of an engine's own addresses; "" where it did it, else what it said."""

    def __call__(
        self, spec: ReplicaSpec, path: str, body: Mapping[str, object] | None = None
    ) -> Awaitable[str]: ...


class Adapters:
    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._loaded: dict[str, dict[str, str]] = {}  # model -> adapter -> path

    async def change(
        self, spec: ReplicaSpec, verb: Literal["load", "unload"], name: str, path: str = ""
    ) -> str:
        """Load or unload one on a replica; "" where the engine did it, else what it said."""
        paths = ENGINES[spec.engine].lora_paths
        if paths is None:
            return f"the engine {spec.engine!r} has no adapters"
        body = {"lora_name": name, **({"lora_path": path} if verb == "load" else {})}
        refusal = await self._tell(spec, paths[verb == "unload"], body)
        known = self._loaded.setdefault(spec.model, {})
        if verb == "unload":
            known.pop(name, None)
        elif not refusal:
            known[name] = path
        return refusal

    def loaded(self, model: str) -> Collection[str]:
        """The names of a model's adapters that were loaded and not unloaded."""
        return self._loaded.get(model, {}).keys()

    async def restore(self, spec: ReplicaSpec) -> Verdict:
        """Load what its model's replicas have, before it is ready; it stays out while its engine refuses."""
        for name, path in list(self._loaded.get(spec.model, {}).items()):
            refusal = await self.change(spec, "load", name, path)
            if refusal and "already" not in refusal:
                return Verdict(Event.MISSED, f"adapter {name!r}: {refusal}")
        return Verdict(Event.ANSWERED)
