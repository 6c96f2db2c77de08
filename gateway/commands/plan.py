"""``switchgear plan``: does each launched model fit, how much does it hold, how is it started."""

import argparse
import shlex
from typing import Any

import msgspec

from backends.placement import GIB, Fit
from backends.weights import described
from gateway.commands.base import CommandError, add_config, launchable
from gateway.planning import planned, this_machine


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_config(parser)
    parser.add_argument("--gpus", type=int, help="plan for so many GPUs instead of those found here")
    parser.add_argument("--gpu-memory-gib", type=float, default=80.0, help="of each described GPU")
    parser.add_argument("--gpu-name", default="H100", help="of the described GPUs, for their bandwidth")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Plan every launched model; 1 where one does not fit."""
    settings = launchable(options.config)
    if options.gpus is not None and (options.gpus < 1 or options.gpu_memory_gib <= 0):
        raise CommandError("--gpus and --gpu-memory-gib must be above 0")
    machine = this_machine()
    if options.gpus is not None:
        gpus = (described(options.gpu_name, options.gpu_memory_gib),) * options.gpus
        machine = msgspec.structs.replace(machine, gpus=gpus)
    plans = planned(settings, machine)
    if options.json:
        print(msgspec.json.encode({"models": plans}).decode())
    else:
        print("\n".join(_said(one) for one in plans))
    return 0 if all(one["fits"] for one in plans) else 1


def _said(one: dict[str, Any]) -> str:
    unfit = "DOES NOT FIT" if "kv_tokens" in one else "CANNOT BE PLANNED"
    lines = [f"{one['model']}: {'fits' if one['fits'] else unfit}"]
    lines += [f"  problem: {problem}" for problem in one.get("problems", ())]
    lines += [f"  note: {note}" for note in one.get("notes", ())]
    if "attached" in one:
        lines.append(f"  runs already: {', '.join(one['attached'])}")
    if "kv_tokens" in one:
        lines += _figures(msgspec.convert({k: one[k] for k in Fit.__struct_fields__}, Fit))
    if "command" in one:
        env = " ".join(f"{name}={shlex.quote(value)}" for name, value in one["env"].items())
        lines.append(f"  launch: {env} {shlex.join(one['command'])}")
    return "\n".join(lines)


def _figures(found: Fit) -> list[str]:
    at_once = ", ".join(f"{count} of {length}" for length, count in found.sequences.items())
    room = (
        f"{found.kv_bytes / GIB:.2f} GiB, {found.kv_bytes_per_token} bytes a token: "
        f"{found.kv_tokens} tokens; sequences at once: {at_once}"
    )
    lines = [
        f"  weights {found.weight_bytes / GIB:.2f} GiB ({found.weight_bytes_per_gpu / GIB:.2f} per device)",
        f"  KV cache: {room if found.kv_bytes_per_token else 'none, the engine keeps nothing of a request'}",
    ]
    if found.tokens_per_s is not None:
        lines.append(f"  one sequence decodes about {found.tokens_per_s:.0f} tokens/s (bound by memory)")
    for number, devices in enumerate(found.devices):
        lines.append(f"  replica {number} on GPU {', '.join(map(str, devices))}")
    return lines
