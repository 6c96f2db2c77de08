"""The composition root: settings and edges in, one running gateway out. Nothing else wires anything."""

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import threading
import time
from collections import ChainMap
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from pathlib import Path

import msgspec
from litestar import Router
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from backends.clients import Clients
from backends.clients.base import InferenceClient
from backends.clients.probe import ClientProbe
from backends.engines import ENGINES
from backends.launchers import launchers
from backends.replica import Replica
from backends.supervisor import Supervisor
from gateway import declared, gauges, rollouts
from gateway.aftermath import Aftermath
from gateway.api import admin, console, fallback, feedback, inference, models, probes, schema, streams, usage
from gateway.attempts import Attempts
from gateway.batching import Batching
from gateway.catalogue import Catalogue
from gateway.checks import check
from gateway.choosing import Chooser
from gateway.cluster import Cluster, Hooks, cluster_of
from gateway.coalescing import Coalescing
from gateway.dispatcher import Dispatcher
from gateway.fleet_apart import FleetApart
from gateway.grading import Grading
from gateway.judging import Judge
from gateway.learning import Archive, Learning
from gateway.likeness import Keep
from gateway.links import limits_of, link_of, logs_of, meeting_of, news_of
from gateway.loops import running
from gateway.metering import metering_from
from gateway.outbound.webhooks import post
from gateway.pipeline import Pipeline
from gateway.process import Control, Process
from gateway.recordings import Recordings
from gateway.request_log import RequestLog
from gateway.rounds import loops
from gateway.salt import own_salt
from gateway.scaling import Fleet, Scaler
from gateway.settings import Settings
from gateway.shadows import Shadows
from gateway.sharpening import Sharpening
from gateway.spot import SpotWatch
from gateway.staging import ConfigFile
from gateway.state.memory import MemoryLimits
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
from gateway.tenancy.watch import Watch
from gateway.tier import Tier
from gateway.together import Together
from gateway.tracing import tracing_from
from semantic_cache.saving import OwnFile

log = logging.getLogger("switchgear.app")

ROUTES = (
    inference.handlers,
    streams.handlers,
    models.handlers,
    usage.handlers,
    feedback.handlers,
    probes.handlers,
    console.handlers,
    admin.handlers,
)


class Edges(msgspec.Struct, frozen=True, kw_only=True):
    """What comes from outside: clocks in seconds, chance, the environment, how a file is read again."""

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    draw: Callable[[], float] = random.random
    environ: Mapping[str, str] = os.environ
    load: Callable[[], Settings] | None = None
    source: str = "the configuration"
    file: Path | None = None
    engine_python: str = ""
    gpus: tuple[int, ...] = ()
    """Of this machine, for engines that are launched here."""
    clients: Callable[[], InferenceClient] = Clients
    tallies: Tallies | None = None
    tell_siblings: Callable[[], None] = lambda: None
    """Have the other workers read the file again too."""


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
        self.metering = metering_from(edges.environ, self.telemetry, edges.wall)
        self.log = RequestLog(self.telemetry, (edges.now, edges.wall))
        self.news = news_of(settings, edges.environ)
        cache = settings.cache
        self.link = link_of(settings, edges.environ, edges.now)
        file = OwnFile(state_dir / "semantic.cache")
        keep = Keep(cache.max_bytes, cache.max_entries, file, self.news, self.link)
        self.store = keep.store("exact")
        name = f"{int(edges.wall() * 1000)}-{os.getpid()}"
        self.control = self._open_books(settings, state_dir, name)
        self._gather_fleet(settings, state_dir, name)
        self.chooser = Chooser(None, self.dispatcher)
        judge = Judge(self.supervisor.report, self.dispatcher.rest, self.telemetry, edges.now)
        self.batching = Batching(Attempts(self.dispatcher, self.clients, judge, self._credentials))
        self._learn(name)
        self.together = self._part(settings)
        self.logs = logs_of(settings, edges.environ)
        self.coalescing = Coalescing(self.logs, self.batching)
        self.aftermath = Aftermath(self.telemetry, self.tracing, self.log)
        self.pipeline = Pipeline(
            keys=self.keys,
            billing=self.billing,
            store=self.store,
            chooser=self.chooser,
            attempts=self.batching,
            coalescing=self.coalescing,
            sharpening=self.sharpening,
            shadows=self.shadows,
            telemetry=self.telemetry,
            tracing=self.tracing,
            aftermath=self.aftermath,
        )
        self.tier = Tier(self.batching, self.telemetry, edges.draw, keep, self.pipeline.shelf.kept)
        self._season(state_dir)
        self.recordings = Recordings(self.logs, self.pipeline, self.control.opened, edges.wall)
        self.process = self._process(settings)
        self.spot.leave = self.process.leave
        self.adopt(settings)

    def _open_books(self, settings: Settings, state_dir: Path, name: str) -> Control:
        """Make what knows keys, limits and money."""
        edges = self._edges
        self.keys = keys = KeyTable()
        prices = PriceTable()
        alone = lambda: self.telemetry.count("switchgear_limits_alone_total", ())  # noqa: E731
        self.shared = limits_of(settings, edges.environ, alone)
        limits = MemoryLimits() if self.shared is None else self.shared
        self.purses = limits.money.accounts
        journal = Journal(state_dir / "journal", name, state_dir / "journal-kept")
        directory = Directory(state_dir / "keys.json", keys)
        held = self.shared.money if self.shared is not None else None
        self.books = Books(
            settings, journal, directory, limits, prices, shared=held, wall=edges.wall, environ=edges.environ
        )
        master = webhooks.master_secret(edges.environ)
        self.billing = Billing(journal, limits, prices, edges.wall)
        watch = Watch(directory, self.billing.refused)
        self.notices = Notices(self.books, watch, master, post, edges.wall, self.telemetry.count)
        return Control(
            engine=self.books.engine,
            directory=directory,
            keys=keys,
            prices=prices,
            wall=edges.wall,
            admin_digest=_admin_digest(edges.environ),
            one_writer=threading.Lock(),
            webhook_master=master,
        )

    def _gather_fleet(self, settings: Settings, state_dir: Path, name: str) -> None:
        """Make what runs replicas, chooses among them, and changes their number."""
        edges = self._edges
        self.supervisor = Supervisor(
            (),
            launchers=launchers(state_dir, settings.fleet.orphan_s),
            probe=ClientProbe(self.clients),
            now=edges.now,
            state_dir=state_dir,
            on_change=self._changed,
            busy=lambda replica_id: self.dispatcher.busy(replica_id),
            gpus=edges.gpus,
        )
        self.supervisor.withdraw = self.clients.withdraw
        self.dispatcher = Dispatcher(
            now=edges.now,
            draw=edges.draw,
            expected_ready_s=self._expected_ready_s,
            holds=lambda model: self.apart.holds(model) or self.keeper(model).holds(model),
            wake=lambda model: self.keeper(model).wake(model),
        )
        self.apart = FleetApart(self.dispatcher, self.control.opened, edges.wall, name)
        self.apart.declare, self.apart.withdraw = self._declare, self.clients.withdraw
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
        figures = lambda: self.supervisor.figures  # noqa: E731 - replaced at every look
        hooks = Hooks(self.dispatcher, figures, self._declare, edges.now, edges.wall)
        self.cluster = cluster_of(settings, hooks, edges.environ, edges.source)
        self.scaler.declare = self._declare
        self.scaler.rouse, self.scaler.rest = self.supervisor.rouse, self.supervisor.rest
        self.rollouts = rollouts.Rollouts()
        self._followed: int | None = None  # the revision of the database that the shares are of
        self.scaler.shares = self.rollouts.in_use
        self.spot = SpotWatch(self.supervisor, edges.wall)

    def _learn(self, name: str) -> None:
        """Make what sharpens the classifier and teaches it."""
        edges, control = self._edges, self.control
        self.grading: Grading | None = None
        archive = Archive(
            control.opened, lambda: control.directory.revision, edges.wall, control.one_writer, name
        )
        self.learning = Learning(archive, lambda: self.grading, self.telemetry)
        self.sharpening = Sharpening(self.batching, lambda: self.grading, self.telemetry)
        self.shadows = Shadows(self.batching, self.learning, self.telemetry, edges.draw, edges.wall)

    def _part(self, settings: Settings) -> Together | None:
        """Make what routes together with the other processes, where there may be some."""
        meeting, shared = meeting_of(settings, self._edges.environ), self.shared
        if meeting is None or shared is None:
            return None
        processes = self.shadows.processes = lambda: shared.money.share
        return Together(meeting, lambda: self.grading, self.chooser.conversations, processes)

    @property
    def has_siblings(self) -> bool:
        """Whether other workers share its numbers."""
        return self._edges.tallies is not None

    def keeper(self, model: str) -> Scaler | Cluster:
        """Give whoever knows how many replicas of a model there are, and wakes it."""
        return self.cluster if self.cluster is not None and model in self.cluster else self.scaler

    def _expected_ready_s(self, model: str) -> float | None:
        if self.apart.models and (wait_s := self.apart.expected_ready_s(model)) is not None:
            return wait_s
        wait_s = self.supervisor.expected_ready_s(model)
        return wait_s if wait_s is not None or self.cluster is None else self.cluster.expected_ready_s(model)

    def _process(self, settings: Settings) -> Process:
        """Give the process as its handlers see it."""
        edges = self._edges
        token = settings.server.metrics_token_env
        return Process(
            settings=settings,
            pipeline=self.pipeline,
            chooser=self.chooser,
            recordings=self.recordings,
            supervisor=self.supervisor,
            scaler=self.scaler,
            apart=self.apart,
            cluster=self.cluster,
            telemetry=self.telemetry,
            control=self.control,
            log=self.log,
            learning=self.learning,
            together=self.together,
            now=edges.now,
            metrics_token=edges.environ[token] if token else None,
            rollouts=self.rollouts,
            follow_rollouts=self.follow_rollouts,
            reload=self.reload,
            tell_siblings=edges.tell_siblings,
            file=_file(settings, edges),
            loops=loops(self, settings, edges.wall),
            part_errors=ChainMap(
                self.books.errors, *(part.errors for part in (self.shared, self.link) if part is not None)
            ),
            exchanges=set(),
        )

    def _season(self, state_dir: Path) -> None:
        """Give what is kept its salt, and have bad answers told to whoever gave them."""
        shelf, news = self.pipeline.shelf, self.news
        salt = own_salt(state_dir / "cache.salt")
        shelf.season(salt)
        if news is None:
            return
        from semantic_cache.stores.shared import Complained

        news.salt, news.on_salt = salt, shelf.season
        shelf.kept.tell = lambda tenant, request_id: news.tell(Complained(tenant, request_id))
        heard = shelf.kept.complaints
        news.listen(
            lambda one: heard.append((one.tenant, one.request_id)) if isinstance(one, Complained) else None
        )

    def _changed(self, before: Replica, after: Replica) -> None:
        """Hear that a replica has another phase."""
        self.dispatcher.update(self.supervisor.replicas)
        gauges.started(self.telemetry, before, after)

    def adopt(self, settings: Settings) -> None:
        """Put settings in force: names, prices, routes, cache, credentials, keys."""
        if settings.routes and self.chooser.grader is None:
            self.grading = Grading.load(self._edges.now, settings.server.workers)
            self.chooser.grader = self.process.grading = self.grading
        catalogue = Catalogue(settings, ENGINES, self._adapters)
        self.dispatcher.configure(settings.models)
        self.spot.settings = settings.spot
        apart = {one.name: one for one in settings.models if settings.fleet.apart and one.launch is not None}
        self.apart.models = apart
        self.scaler.configure(tuple(one for one in settings.models if one.name not in apart))
        self.process.settings = settings
        if self.cluster is not None:
            self.cluster.configure(settings.models)
        self.batching.configure(settings.models)
        self._credentials.clear()
        self._credentials.update(declared.credentials(settings, self._edges.environ))
        self.pipeline.adopt(catalogue, settings.cache, settings.coalescing)
        self.recordings.adopt(settings.idempotency, settings.streams)
        self.tier.adopt(settings.cache, settings.models)
        self.billing.refuse_unpriced = settings.billing.unpriced == "refuse"
        if self.tracing is not None:
            self.tracing.adopt(settings.tracing)
        self.log.adopt(settings.logging)
        self.books.adopt(settings)
        self.notices.allow_private = settings.webhooks.allow_private
        self._declare()

    def _adapters(self, model: str) -> Collection[str]:
        return {*self.supervisor.adapters(model), *self.apart.adapters(model)}

    def _declare(self) -> None:
        """Tell the fleet which replicas are wanted now."""
        edges = self._edges
        self.supervisor.declare(
            [
                *declared.specs(
                    self.process.settings,
                    edges.environ,
                    edges.engine_python,
                    self.scaler,
                    self.cluster.pods if self.cluster is not None else lambda model: (),
                ),
                *self.apart.specs(),
            ]
        )
        self.dispatcher.update(self.supervisor.replicas)

    def rollouts_due(self) -> bool:
        """Whether the database may say something new of rollouts."""
        return self.control.directory.revision not in (None, self._followed)

    async def follow_rollouts(self) -> None:
        """Put the shares of versions in force as the database has them, where anything there is new."""
        if not self.rollouts_due():
            return
        revision = self.control.directory.revision
        if self.rollouts.adopt(await asyncio.to_thread(rollouts.read, self.books.engine)):
            models = self.process.settings.models
            self.scaler.configure(tuple(one for one in models if one.name not in self.apart.models))
            self._declare()
        self._followed = revision

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
    gauges.of_house(house, edges.wall)
    try:
        if house.shared is not None:
            from gateway.state.redis import RedisAway

            try:
                await house.shared.step(edges.wall())
            except RedisAway as error:
                said = str(error).rstrip(".")
                log.warning("redis.url: %s; until it answers, this process serves by itself", said)
        if house.news is not None:
            from redis.exceptions import RedisError

            with contextlib.suppress(RedisError, OSError):
                await house.news.agree()
        await house.books.open()
        await house.tier.load(edges.wall())
        house.scaler.found(house.supervisor.left())
        await house.supervisor.sweep()
        await house.supervisor.reconcile_once()
        await house.supervisor.probe_once()
        if house.tracing is not None:
            house.tracing.start()
        house.log.start()
        async with running(house.process.loops, *_heard(house.telemetry)):
            yield house.process
    finally:
        await house.recordings.close()
        await house.coalescing.close()
        await house.logs.close()
        if house.cluster is not None:
            await house.cluster.close()
        await house.supervisor.stop()
        with contextlib.suppress(OSError):
            await house.tier.save()
        await house.clients.close()
        if house.news is not None:
            await house.news.close()
        if house.link is not None:
            await house.link.close()
        if house.together is not None:
            await house.together.close()
        if house.shared is not None:
            await house.shared.close()
        await house.books.close()
        await house.aftermath.tell()
        await asyncio.to_thread(house.log.close)
        if house.metering is not None:
            await house.metering.close()
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
    rest = fallback.Ordinary(
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


def _file(settings: Settings, edges: Edges) -> ConfigFile | None:
    path = edges.file
    return None if path is None else ConfigFile(path, Path(settings.server.state_dir), edges.environ)


def _admin_digest(environ: Mapping[str, str]) -> bytes | None:
    key = environ.get("SWITCHGEAR_ADMIN_KEY")
    return hashlib.sha256(key.encode()).digest() if key else None


def _heard(telemetry: Telemetry) -> tuple[Callable[[str], None], Callable[[str, float], None]]:
    """Give what counts the failures of loops, and how long their steps take."""
    return (
        lambda name: telemetry.count("switchgear_loop_failures_total", (name,)),
        lambda name, spent_s: telemetry.observe("switchgear_loop_step_seconds", (name,), spent_s),
    )
