"""Asks the replicas of a configuration for their engines' token counters; who does not answer is left out."""

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path

from backends.clients import Clients, Outgoing
from backends.clients.base import ClientError
from backends.engines import ENGINES, Engine
from backends.load import TokenCount, read_counts
from gateway.settings import Settings

TIMEOUT_S = 5.0
LIMIT_BYTES = 16 * 1024 * 1024
STARTED = re.compile(r"^switchgear: starting \S+ on port (\d+)$", re.MULTILINE)


def token_counts(settings: Settings) -> dict[str, TokenCount]:
    """Give what each replica's engine has counted, by the replica's id."""
    return asyncio.run(_ask_all(settings))


async def _ask_all(settings: Settings) -> dict[str, TokenCount]:
    wanted = list(_replicas(settings))
    clients = Clients()
    try:
        found = await asyncio.gather(*(_ask(clients, url, key, engine) for _, url, key, engine in wanted))
    finally:
        await clients.close()
    return {one[0]: count for one, count in zip(wanted, found, strict=True) if count is not None}


def _replicas(settings: Settings) -> Iterator[tuple[str, str, str | None, Engine]]:
    """Give id, root URL, key and engine of what runs already, and of what ``up`` started here last."""
    logs = Path(settings.server.state_dir) / "engines"
    for model in settings.models:
        engine = ENGINES[model.engine]
        if engine.metrics_path is None or engine.token_metrics is None:
            continue
        for number, replica in enumerate(model.replicas):
            url = replica.url.rstrip("/").removesuffix("/v1")
            yield f"{model.name}-{number}", url, os.environ.get(replica.api_key_env or ""), engine
        for log in logs.glob(f"{model.name}-*.log") if model.launch is not None else ():
            if ports := STARTED.findall(log.read_text(errors="replace")):
                yield log.stem, f"http://127.0.0.1:{ports[-1]}", None, engine


async def _ask(clients: Clients, url: str, key: str | None, engine: Engine) -> TokenCount | None:
    assert engine.metrics_path is not None
    assert engine.token_metrics is not None
    headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
    deadline_s = asyncio.get_running_loop().time() + TIMEOUT_S
    request = Outgoing(url + engine.metrics_path, b"", headers, method="GET", deadline_s=deadline_s)
    try:
        reply = await clients.send(request)
        try:
            text = await reply.read_all(LIMIT_BYTES)
        finally:
            reply.close()
    except ClientError:
        return None
    if reply.status != 200:
        return None
    return read_counts(text.decode(errors="replace"), engine.token_metrics)
