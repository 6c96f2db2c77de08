"""``switchgear up``: the appliance, gateway and supervised engines together."""

import argparse
import asyncio
import os
import shutil
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
import uvloop

from backends import demo
from backends.engines import environment
from backends.replica import Phase
from backends.starts import said
from backends.wanted import Progress
from gateway import app, pages, server
from gateway.checks import check, check_weights
from gateway.commands import address, credentials
from gateway.commands.base import CommandError, add_config, log_to_stderr
from gateway.commands.credentials import Credentials
from gateway.commands.demo_config import demo_config
from gateway.commands.serve import with_address
from gateway.config_file import load
from gateway.planning import refuse_misfits, this_machine
from gateway.process import Process
from gateway.settings import KeySettings, Settings
from gateway.tenancy import keys

PROGRESS_S = 1.0
REPEAT_S = 15.0


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_config(parser, required=False)
    parser.add_argument("--home", type=Path, default=Path(".switchgear"), help="where state and models live")
    parser.add_argument("--engine", type=Path, default=Path(".engine"), help="the engines' environment")
    parser.add_argument("--host", help="address to listen on (over server.host)")
    parser.add_argument("--port", type=int, help="port to listen on (over server.port); 0 chooses a free one")
    parser.add_argument("--prepare", action="store_true", help="make environment and models, then exit")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prepare what is missing, start everything, serve until a signal."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the loop listens to it
    try:
        return _run(options, time.monotonic())
    except KeyboardInterrupt:
        if options.prepare:
            raise
        _say("stopped")
        return 0


def _run(options: argparse.Namespace, started_s: float) -> int:
    if os.environ.get("MAKELEVEL"):
        _end_with_parent()
    log_to_stderr()
    home: Path = options.home.absolute()
    engine: Path = options.engine.absolute()
    _make("--home", home, home)
    _make("--engine", engine, engine.parent)
    python = environment.ensure(engine, gpu=has_gpu(), progress=_say)
    os.environ.update(environment.variables(python))
    config = options.config
    if config is None:
        config = _demo(home, python)
    if options.prepare:
        return 0
    own = credentials.made(home)
    credentials.put_into(os.environ, own)

    def settings() -> Settings:
        return with_key(with_address(load(config), options.host, options.port), own.api_key)

    first = settings()
    check(first, str(config), os.environ)
    check_weights(first, str(config))
    if first.fleet.apart:
        raise CommandError(f"{config}: fleet.apart: run 'switchgear serve' and 'switchgear fleet run' for it")
    machine = this_machine()
    refuse_misfits(first, str(config), machine, _say)
    if first.server.workers > 1:
        raise CommandError(
            f"{config}: server.workers: 'switchgear up' is one process; use 'switchgear serve'"
        )
    pages.give_back()
    listener = server.listen(first.server.host, first.server.port)
    edges = app.Edges(
        load=settings,
        source=str(config),
        file=config,
        engine_python=str(python),
        gpus=tuple(range(len(machine.gpus))),
    )
    uvloop.run(_up(first, listener, edges, own, started_s))
    _say("stopped")
    return 0


def _make(option: str, path: Path, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CommandError(
            f"{option}: {path} cannot be made: {error.strerror}; name a folder that can be written"
        ) from None


def with_key(settings: Settings, text: str) -> Settings:
    """Add the key of the credentials file to the bootstrap keys."""
    own = KeySettings(name="credentials", sha256=keys.digest(text))
    return msgspec.structs.replace(settings, keys=(*settings.keys, own))


def has_gpu() -> bool:
    """Tell whether this machine has an NVIDIA GPU with its driver."""
    return Path("/dev/nvidiactl").exists() and shutil.which("nvidia-smi") is not None


def _demo(home: Path, python: Path) -> Path:
    """Prepare the demo models; write their configuration where there is none yet."""
    models = demo.prepare(home, python, _say)
    path = home / "switchgear.toml"
    if not path.exists():
        path.write_text(demo_config(home, models, gpu=has_gpu(), cores=os.cpu_count() or 1))
    return path


async def _up(
    settings: Settings, listener: socket.socket, edges: app.Edges, own: Credentials, started_s: float
) -> None:
    stop = server.Stop()
    async with app.opened(settings, edges) as process:
        root = server.root_url(listener)
        address.tell(settings, root)
        welcome = partial(_welcome, process, root, own, started_s)
        await server.serve(process, app.build(process), listener, stop, when_listening=welcome)
        _say("stopping the engines")


async def _welcome(process: Process, root: str, own: Credentials, started_s: float) -> None:
    """Show progress until it serves and every launched model is there or has failed; then say how to try it.

    Replicas that run elsewhere are not waited for, once anything serves.
    """
    _say(f"listens on {root}; waits for the models")
    shown: dict[str, tuple[str, float]] = {}
    while True:
        progress = process.supervisor.progress(log_lines=5)
        for one in progress:
            _show(one, shown)
        away = [one for one in progress if one.phase is not Phase.READY and not _launched(process, one)]
        settled = all(one.phase is Phase.READY or _failed(one) or one in away for one in progress)
        serves = any(one.phase is Phase.READY for one in progress)
        if settled and (serves or not away):
            break
        await asyncio.sleep(PROGRESS_S)
    if progress and not serves:
        raise CommandError("no model could be started; the lines above say why")
    for one in away:
        url = process.supervisor.replicas[one.replica_id].url
        _say(f"{one.replica_id} does not answer at {url}; it gets requests as soon as it does")
    print(how_to_try(root, own.api_key, process.settings))
    counted = "; what make built before is not counted" if os.environ.get("MAKELEVEL") else ""
    print(f"Ready in {time.monotonic() - started_s:.0f} s{counted}. Stop with Ctrl-C.")
    ready = {
        "base_url": f"{root}/v1",
        "api_key": own.api_key,
        "admin_key": os.environ["SWITCHGEAR_ADMIN_KEY"],
        "console": f"{root}/console",
    }
    print("SWITCHGEAR_READY " + msgspec.json.encode(ready).decode(), flush=True)


def _launched(process: Process, one: Progress) -> bool:
    return process.supervisor.replicas[one.replica_id].launched


def _failed(one: Progress) -> bool:
    return one.phase is Phase.FAILED or (one.phase is Phase.WAITING and "ended with status" in one.doing)


def _show(one: Progress, shown: dict[str, tuple[str, float]]) -> None:
    """Print a replica's way when it changes, and now and then while it lasts."""
    before, last_s = shown.get(one.replica_id, ("", -REPEAT_S))
    now_s = time.monotonic()
    state = f"{one.phase} {one.doing}"
    if state == before and (one.phase is Phase.READY or now_s - last_s < REPEAT_S):
        return
    shown[one.replica_id] = (state, now_s)
    expected = f" of about {one.expected_s:.0f}" if one.steps and one.expected_s > one.elapsed_s else ""
    took = f" ({one.elapsed_s:.0f}{expected} s)" if one.elapsed_s >= 1 else ""
    steps = f": {said(one.steps)}" if one.phase is Phase.READY and one.steps else ""
    _say(f"{one.replica_id}: {one.doing}{took}{steps}")
    if _failed(one):
        for line in one.log:
            _say(f"    {line}")


def how_to_try(root: str, api_key: str, settings: Settings) -> str:
    """Give a curl command and some Python that ask `auto`, or else the first model that chats, or embeds."""
    chats = [model.name for model in settings.models if model.kind == "chat"]
    routes = [route.name for route in settings.routes]
    if chats:
        model = "auto" if "auto" in routes else chats[0]
        path, ask = "chat/completions", '[{"role": "user", "content": "What is the capital of France?"}]'
        body, call = f'"messages": {ask}', f'chat.completions.create(model="{model}", messages={ask})'
        shown = "answer.choices[0].message.content"
    else:
        model = settings.models[0].name
        path, ask = "embeddings", '"What is the capital of France?"'
        body, call = f'"input": {ask}', f'embeddings.create(model="{model}", input={ask})'
        shown = "answer.data[0].embedding"
    return f"""
Switchgear serves. Try it:

  curl {root}/v1/{path} \\
    -H "Authorization: Bearer {api_key}" -H "Content-Type: application/json" \\
    -d '{{"model": "{model}", {body}}}'

  from openai import OpenAI
  client = OpenAI(base_url="{root}/v1", api_key="{api_key}")
  answer = client.{call}
  print({shown})
"""


def _say(text: str) -> None:
    print(f"switchgear: {text}", file=sys.stderr, flush=True)


def _end_with_parent() -> None:
    """Ask the kernel for SIGTERM when make ends, so that a killed make leaves nothing behind."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
