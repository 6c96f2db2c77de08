"""Does each launched model fit on a machine, how much does it hold, how is it started."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from backends.engines import ENGINES, CannotLaunch, LaunchContext
from backends.placement import Machine, UnknownShape, fit
from backends.weights import found_gpus, host_memory_bytes, read_shape
from gateway.settings import ConfigError, ModelSettings, Settings

LENGTHS = (1024, 4096, 16384)


def this_machine() -> Machine:
    """Look for GPUs and memory; may take seconds."""
    return Machine(gpus=tuple(found_gpus()), memory_bytes=host_memory_bytes())


def planned(settings: Settings, machine: Machine) -> list[dict[str, Any]]:
    """Plan all models, one beside the other: no two get the same GPU, or the same memory."""
    plans = []
    for model in settings.models:
        plans.append(plan(model, machine))
        used = {device for devices in plans[-1].get("devices", ()) for device in devices}
        host = machine.taken_bytes + plans[-1].get("host_bytes", 0)
        machine = msgspec.structs.replace(machine, taken=machine.taken | used, taken_bytes=host)
    return plans


def misfits(settings: Settings, machine: Machine) -> Iterator[tuple[str, bool]]:
    """Give what speaks against starting each launched model here, and whether that forbids it.

    A model whose shape cannot be read is not judged: its engine will say what is wrong with it.
    """
    for index, (model, one) in enumerate(zip(settings.models, planned(settings, machine), strict=True)):
        if model.launch is not None and not one["fits"] and "kv_tokens" in one:
            text = f"models[{index}].launch: {model.name!r} does not fit here: {'; '.join(one['problems'])}"
            yield text, model.launch.fit == "refuse"


def refuse_misfits(settings: Settings, source: str, machine: Machine, say: Callable[[str], None]) -> None:
    """Raise ConfigError where a model does not fit on this machine, before anything of it is started."""
    refused = []
    for text, forbidden in misfits(settings, machine):
        if forbidden:
            refused.append(text)
        else:
            say(f"{source}: {text}")
    if refused:
        text = "\n".join(f"{source}: {one}" for one in refused)
        raise ConfigError(f'{text}\n(or start it nevertheless with launch.fit = "warn")')


def plan(model: ModelSettings, machine: Machine) -> dict[str, Any]:
    """Give one model's plan, as the JSON has it."""
    launch = model.launch
    if launch is None:
        return {"model": model.name, "fits": True, "attached": [one.url for one in model.replicas]}
    context = LaunchContext(
        python="python",
        port=8000,
        served_name=model.upstream_name,
        kind=model.kind,
        context_tokens=model.context_tokens,
    )
    engine = ENGINES[model.engine]
    try:
        command = engine.launch(launch, context)
    except CannotLaunch as error:
        return {"model": model.name, "fits": False, "problems": [str(error)]}
    start = {"command": list(command.argv), "env": command.env}
    if not launch.local:
        problem = f"{launch.weights} is a hub model: its shape is read where its weights are a directory"
        return {"model": model.name, "fits": True, "notes": [problem], **start}
    try:
        shape = read_shape(launch.weights)
    except UnknownShape as error:
        return {"model": model.name, "fits": False, "problems": [str(error)], **start}
    longest = model.context_tokens or shape.context_tokens
    lengths = sorted({*(one for one in LENGTHS if one < longest), longest})
    found = fit(shape, launch, machine, lengths, max(launch.min_replicas, 1), engine.caches_kv)
    return {"model": model.name, **msgspec.to_builtins(found), **start}
