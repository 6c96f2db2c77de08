"""The composition root: settings and edges in, one running gateway out. Nothing else wires anything."""

import asyncio
import contextlib
import hashlib
import os
import random
import time
from collections import ChainMap
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path

import msgspec
from litestar import Litestar, Router
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from backends.clients import Clients, Outgoing
from backends.clients.base import ClientError, ConnectFailed, InferenceClient, ReplyTimeout
from backends.engines import ENGINES
from backends.launchers import LAUNCHERS
from backends.probing import ProbeReply
from backends.replica import Replica
from backends.supervisor import Supervisor
from backends.wanted import ReplicaSpec
from gateway.api import admin, console, fallback, inference, models, probes, schema, usage
from gateway.attempts import Attempts
from gateway.batching import Batching
from gateway.catalogue import Catalogue
from gateway.checks import check
from gateway.choosing import Chooser
from gateway.dispatcher import Dispatcher
from gateway.grading import Grading
from gateway.loops import Loop, running
from gateway.outbound.webhooks import post
from gateway.pipeline import Pipeline
from gateway.process import Control, Process
from gateway.scaling import Fleet, Scaler
from gateway.settings import ModelSettings, Settings
from gateway.state.memory import MemoryLimits
from gateway.state.redis import RedisAway, RedisLimits
from gateway.tallies import Tallies
from gateway.telemetry import Telemetry
from gateway.tenancy import webhooks
from gateway.tenancy.billing import Billing
from gateway.tenancy.books import Books
from gateway.tenancy.directory import Directory
from gateway.tenancy.journal import Journal
from gateway.tenancy.keys import KeyTable
from gateway.tenancy.notices import Notices
from gateway.tenancy.prices import PriceTable
from gateway.tracing import tracing_from
from semantic_cache.stores.memory import MemoryStore

ROUTES = (
    inference.handlers,
    models.handlers,
    usage.handlers,
    probes.handlers,
    console.handlers,
    admin.handlers,
)

PROBE_BODY_LIMIT_BYTES = 4 * 1024 * 1024


class Edges(msgspec.Struct, frozen=True, kw_only=True):
    """What comes from outside: clocks in seconds, chance, the environment, how a file is read again."""

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    draw: Callable[[], float] = random.random
    environ: Mapping[str, str] = os.environ
    load: Callable[[], Settings] | None = None
    source: str = "the configuration"
    engine_python: str = ""
    clients: Callable[[], InferenceClient] = Clients
    tallies: Tallies | None = None
    tell_siblings: Callable[[], None] = lambda: None
    """Have the other workers read the file again too."""


def loops(house: "House", *more: Loop) -> tuple[Loop, ...]:
    """Everything that repeats beside the requests: name, period in seconds, step."""
    supervisor, books, notices = house.supervisor, house.books, house.notices

    async def scrape() -> None:
        await supervisor.scrape_once()
        house.dispatcher.observe(supervisor.loads)

    return (
        *more,
        Loop("reconcile", 0.5, supervisor.reconcile_once),
        Loop("scaling", 1.0, house.scaler.look),
        Loop("probe", 1.0, supervisor.probe_once),
        Loop("scrape", 2.0, scrape),
        Loop("ledger", 0.5, books.carry),
        Loop("keys", 1.0, books.refresh_keys),
        Loop("expiry", 60.0, books.expire),
        Loop("proof", 300.0, books.prove),
        Loop("alerts", 5.0, notices.watch),
        Loop("webhooks", 1.0, notices.deliver),
    )


class House:
    """The parts of one gateway process, and the way a configuration is put in force in them."""

    def __init__(self, settings: Settings, edges: Edges) -> None:
        """Wire everything; nothing runs yet. Raises DatabaseError for an unusable URL, or JournalError."""
        state_dir = Path(settings.server.state_dir)
        self._edges = edges
        self._credentials: dict[str, bytes] = {}
        self.clients = edges.clients()
        self.telemetry = Telemetry(edges.tallies)
        self.tracing = tracing_from(edges.environ, self.telemetry, (edges.now, edges.wall))
        self.store = MemoryStore(settings.cache.max_bytes)
        keys, prices = KeyTable(), PriceTable()
        self.shared = _shared(settings, edges, self.telemetry)
        limits = MemoryLimits() if self.shared is None else self.shared
        name = f"{int(edges.wall() * 1000)}-{os.getpid()}"
        journal = Journal(state_dir / "journal", name, state_dir / "journal-kept")
        directory = Directory(state_dir / "keys.json", keys)
        self.books = Books(
            settings, journal, directory, limits, prices, wall=edges.wall, environ=edges.environ
        )
        master = webhooks.master_secret(edges.environ)
        self.notices = Notices(self.books, directory, master, post, edges.wall, self.telemetry.count)
        self.billing = Billing(journal, limits, prices, edges.wall)
        self.supervisor = Supervisor(
            (),
            launchers={name: make(state_dir) for name, make in LAUNCHERS.items()},
            probe=_Probe(self.clients),
            now=edges.now,
            state_dir=state_dir,
            on_change=lambda _before, _after: self.dispatcher.update(self.supervisor.replicas),
            busy=lambda replica_id: self.dispatcher.busy(replica_id),
        )
        self.dispatcher = Dispatcher(
            now=edges.now,
            draw=edges.draw,
            expected_ready_s=self.supervisor.expected_ready_s,
            holds=lambda model: self.scaler.holds(model),
            wake=lambda model: self.scaler.wake(model),
        )
        self.scaler = Scaler(
            Fleet(
                lambda: self.supervisor.replicas,
                lambda: self.supervisor.loads,
                self.supervisor.load_time_s,
            ),
            self.dispatcher,
            edges.now,
            edges.wall,
        )
        self.scaler.declare = self._declare
        self.scaler.rouse = self.supervisor.rouse
        self.chooser = Chooser(None, self.dispatcher.ready)
        self.batching = Batching(
            Attempts(self.dispatcher, self.clients, self.supervisor.report, self.telemetry, self._credentials)
        )
        self.pipeline = Pipeline(
            keys=keys,
            billing=self.billing,
            store=self.store,
            chooser=self.chooser,
            attempts=self.batching,
            telemetry=self.telemetry,
            tracing=self.tracing,
        )
        control = Control(
            engine=self.books.engine,
            directory=directory,
            keys=keys,
            prices=prices,
            wall=edges.wall,
            admin_digest=_admin_digest(edges.environ),
            webhook_master=master,
        )
        self.process = self._process(settings, control)
        self.adopt(settings)

    def _process(self, settings: Settings, control: Control) -> Process:
        """Give the process as its handlers see it."""
        edges = self._edges
        token = settings.server.metrics_token_env
        return Process(
            settings=settings,
            pipeline=self.pipeline,
            supervisor=self.supervisor,
            scaler=self.scaler,
            telemetry=self.telemetry,
            control=control,
            now=edges.now,
            metrics_token=edges.environ[token] if token else None,
            reload=self.reload,
            tell_siblings=edges.tell_siblings,
            loops=loops(self, *self._shared_loops()),
            part_errors=self.books.errors
            if self.shared is None
            else ChainMap(self.books.errors, self.shared.errors),
            exchanges=set(),
        )

    def _shared_loops(self) -> Iterable[Loop]:
        """Give the loops that one of several processes has."""
        if (shared := self.shared) is not None:
            yield Loop("limits", 0.5, lambda: shared.step(self._edges.wall()))
        if self._edges.tallies is not None:
            yield Loop("tallies", 1.0, self.telemetry.publish)

    def adopt(self, settings: Settings) -> None:
        """Put settings in force: names, prices, routes, cache, credentials, keys."""
        if settings.routes and self.chooser.grader is None:
            self.chooser.grader = Grading.load()
        catalogue = Catalogue(settings, ENGINES)
        self.dispatcher.configure(settings.models)
        self.scaler.configure(settings.models)
        self.batching.configure(settings.models)
        self._credentials.clear()
        self._credentials.update(_credentials(settings, self._edges.environ))
        self.pipeline.adopt(catalogue, settings.cache)
        self.billing.refuse_unpriced = settings.billing.unpriced == "refuse"
        if self.tracing is not None:
            self.tracing.adopt(settings.tracing)
        self.books.adopt(settings)
        self.notices.allow_private = settings.webhooks.allow_private
        self.process.settings = settings
        self._declare()

    def _declare(self) -> None:
        """Tell the fleet which replicas are wanted now."""
        self.supervisor.declare(specs(self.process.settings, self._edges, self.scaler.ids))
        self.dispatcher.update(self.supervisor.replicas)

    def reload(self) -> None:
        """Read the file again and put it in force; raises ConfigError and changes nothing if it is bad."""
        if self._edges.load is None:
            return
        settings = self._edges.load()
        check(settings, self._edges.source, self._edges.environ)
        self.adopt(settings)


@contextlib.asynccontextmanager
async def opened(settings: Settings, edges: Edges) -> AsyncGenerator[Process, None]:
    """Build a gateway and run its loops inside the block; closes everything at the end.

    Raises ConfigError, DatabaseError for an unusable URL, or JournalError.
    """
    check(settings, edges.source, edges.environ)
    house = House(settings, edges)
    _wire_probes(house)
    try:
        if house.shared is not None:
            with contextlib.suppress(RedisAway):
                await house.shared.step(edges.wall())
        await house.books.open()
        await house.supervisor.sweep()
        await house.supervisor.reconcile_once()
        await house.supervisor.probe_once()
        if house.tracing is not None:
            house.tracing.start()
        async with running(house.process.loops, _counter(house.telemetry)):
            yield house.process
    finally:
        await house.supervisor.stop()
        await house.clients.close()
        if house.shared is not None:
            await house.shared.close()
        await house.books.close()
        if house.tracing is not None:
            await asyncio.to_thread(house.tracing.close)


def build(process: Process) -> ASGIApp:
    """Make the HTTP application of a process.

    Its raw ASGI handlers, the hot path, are looked up before Litestar's own layers, which would cost a fifth
    of what the gateway itself spends on a request; every other path, and every other spelling of theirs, is
    Litestar's.
    """
    handlers: list[ASGIRouteHandler | HTTPRouteHandler | Router] = [
        handler for make in ROUTES for handler in make(process)
    ]
    rest = Litestar(
        handlers,
        exception_handlers={Exception: fallback.render},
        after_request=fallback.identified,
        openapi_config=schema.CONFIG,
        logging_config=None,
        request_max_body_size=process.settings.server.max_body_bytes,
    )
    hot = {path: one.fn for one in handlers if isinstance(one, ASGIRouteHandler) for path in one.paths}

    def application(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return hot.get(scope["path"], rest)(scope, receive, send)

    return application


def specs(settings: Settings, edges: Edges, launched: Callable[[str], Iterable[str]]) -> list[ReplicaSpec]:
    """Say which replicas are wanted; ``launched`` names those of a launched model."""
    found: list[ReplicaSpec] = []
    for model in settings.models:
        if model.launch is not None:
            found += [_launched(model, replica_id, edges) for replica_id in launched(model.name)]
        found += [_attached(model, number, edges) for number in range(len(model.replicas))]
    return found


def _launched(model: ModelSettings, replica_id: str, edges: Edges) -> ReplicaSpec:
    return ReplicaSpec(
        id=replica_id,
        model=model.name,
        engine=model.engine,
        launcher="local",
        launch=model.launch,
        python=edges.engine_python,
        upstream_model=model.upstream_name,
        kind=model.kind,
        context_tokens=model.context_tokens,
        spot=model.launch is not None and model.launch.spot,
        max_concurrency=model.launch.max_num_seqs or 64 if model.launch is not None else 64,
    )


def _attached(model: ModelSettings, number: int, edges: Edges) -> ReplicaSpec:
    replica = model.replicas[number]
    key = edges.environ.get(replica.api_key_env or "")
    return ReplicaSpec(
        id=f"{model.name}-{number}",
        model=model.name,
        engine=model.engine,
        url=replica.url.rstrip("/"),
        upstream_model=model.upstream_name,
        kind=model.kind,
        context_tokens=model.context_tokens,
        headers={"authorization": f"Bearer {key}"} if key else {},
        spot=replica.spot,
        weight=replica.weight,
        version=replica.version,
        max_concurrency=replica.max_concurrency,
    )


def _shared(settings: Settings, edges: Edges, telemetry: Telemetry) -> RedisLimits | None:
    """Make the limits that several processes share, where there is a Redis."""
    redis = settings.redis
    if redis is None:
        return None
    return RedisLimits(
        redis.url,
        password=edges.environ[redis.password_env] if redis.password_env else None,
        timeout_s=redis.timeout_ms / 1000,
        share=settings.server.workers,
        alone=lambda: telemetry.count("switchgear_limits_alone_total", ()),
    )


def _credentials(settings: Settings, environ: Mapping[str, str]) -> dict[str, bytes]:
    """Give the Authorization header of each replica that needs one."""
    return {
        f"{model.name}-{number}": f"Bearer {environ[replica.api_key_env]}".encode()
        for model in settings.models
        for number, replica in enumerate(model.replicas)
        if replica.api_key_env is not None
    }


def _admin_digest(environ: Mapping[str, str]) -> bytes | None:
    key = environ.get("SWITCHGEAR_ADMIN_KEY")
    return hashlib.sha256(key.encode()).digest() if key else None


class _Probe:
    """Asks by the same clients as the requests; see ``backends.probing.Probe``."""

    def __init__(self, client: InferenceClient) -> None:
        self._client = client

    async def __call__(
        self, url: str, headers: Mapping[str, str], timeout_s: float, body: bytes | None = None
    ) -> ProbeReply:
        pairs = [(name.encode(), value.encode()) for name, value in headers.items() if name != "content-type"]
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        request = Outgoing(
            url, body or b"", pairs, method="GET" if body is None else "POST", deadline_s=deadline_s
        )
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self._client.send(request)
                try:
                    return ProbeReply(reply.status, await reply.read_all(PROBE_BODY_LIMIT_BYTES))
                finally:
                    reply.close()
        except ConnectFailed as error:
            raise ConnectionRefusedError(str(error)) from None
        except ReplyTimeout as error:
            raise TimeoutError(str(error)) from None
        except ClientError as error:
            raise OSError(str(error)) from None


def _wire_probes(house: House) -> None:
    probe, dispatcher, store = house.telemetry.probe, house.dispatcher, house.store
    probe("switchgear_queue_depth", lambda: _by_model(dispatcher.depth()))
    probe("switchgear_running", lambda: _by_model(dispatcher.running()))
    probe("switchgear_replicas", lambda: _phases(house.supervisor.replicas))
    probe("switchgear_ledger_gap_nanousd", lambda: _known(house.books.gap_nanousd))
    probe("switchgear_cache_entries", lambda: [((), float(len(store)))])
    probe("switchgear_cache_bytes", lambda: [((), float(store.size_bytes))])


def _known(amount: int | None) -> Iterable[tuple[tuple[str, ...], float]]:
    return [] if amount is None else [((), float(amount))]


def _by_model(counts: Mapping[str, int]) -> Iterable[tuple[tuple[str, ...], float]]:
    return [((model,), float(count)) for model, count in counts.items()]


def _phases(replicas: Mapping[str, Replica]) -> Iterable[tuple[tuple[str, ...], float]]:
    counts: dict[tuple[str, ...], float] = {}
    for one in replicas.values():
        key = (one.model, str(one.phase))
        counts[key] = counts.get(key, 0.0) + 1.0
    return counts.items()


def _counter(telemetry: Telemetry) -> Callable[[str], None]:
    return lambda name: telemetry.count("switchgear_loop_failures_total", (name,))
