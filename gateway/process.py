"""One gateway process, as its handlers see it: the pipeline, the settings, who is under way, how it is."""

import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa

from backends.supervisor import Supervisor
from gateway.choosing import Chooser
from gateway.cluster import Cluster
from gateway.database import DatabaseError
from gateway.fleet_apart import FleetApart
from gateway.grading import Grading
from gateway.learning import Learning
from gateway.loops import Loop
from gateway.pipeline import Pipeline
from gateway.recordings import Recordings
from gateway.request_log import RequestLog
from gateway.rollouts import Rollouts
from gateway.scaling import Scaler
from gateway.settings import Settings
from gateway.staging import ConfigFile
from gateway.telemetry import Telemetry
from gateway.tenancy.directory import Directory
from gateway.tenancy.keys import KeyTable
from gateway.tenancy.prices import PriceTable
from gateway.together import Together


class Abortable(Protocol):
    """An exchange that can be ended from outside."""

    def shut_down(self) -> None:
        """End it because the process ends."""


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """What the admin API works on; ``admin_digest`` is the hash of the admin key, if any.

    ``one_writer`` is held by who changes something; ``webhook_master`` is what the secrets of webhooks are
    derived from, if anything.
    """

    engine: sa.Engine
    directory: Directory
    keys: KeyTable
    prices: PriceTable
    wall: Callable[[], float]
    admin_digest: bytes | None
    one_writer: threading.Lock
    webhook_master: bytes | None

    def opened(self) -> sa.Engine:
        """Give the engine of a database that has been read. Raises DatabaseError."""
        if not self.directory.read_once():
            raise DatabaseError("the database has not been opened yet")
        return self.engine


class Process(msgspec.Struct, kw_only=True, eq=False):
    """The parts, wired by ``gateway.app``; ``part_errors`` names parts that do not work and why."""

    settings: Settings
    pipeline: Pipeline
    chooser: Chooser
    recordings: Recordings
    supervisor: Supervisor
    scaler: Scaler
    apart: FleetApart
    cluster: Cluster | None
    telemetry: Telemetry
    control: Control
    log: RequestLog
    learning: Learning
    together: Together | None
    now: Callable[[], float]
    metrics_token: str | None
    rollouts: Rollouts
    follow_rollouts: Callable[[], Awaitable[None]]
    reload: Callable[[], None]
    tell_siblings: Callable[[], None]
    file: ConfigFile | None = None
    loops: Sequence[Loop] = ()
    part_errors: Mapping[str, str] = {}
    grading: Grading | None = None  # while there are routes
    leaving: bool = False
    """Told to go soon: load balancers hear it first, requests are still taken."""
    draining: bool = False
    exchanges: set[Abortable] = set()

    def leave(self) -> None:
        """Have `/readyz` turn red."""
        self.leaving = True

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Tell whether any model can serve, and give the body of ``/readyz``."""
        models = {}
        for name in self.pipeline.catalogue.models:
            phases = [str(one.phase) for one in self.supervisor.replicas.values() if one.model == name]
            models[name] = "ready" if "ready" in phases else (phases[0] if phases else self._without(name))
        serving = any(state in ("ready", "asleep") for state in models.values())
        serving = serving and not (self.leaving or self.draining)
        parts: dict[str, Any] = {
            "models": models,
            "loops": {loop.name: loop.last_error for loop in self.loops if not loop.well},
            **self.part_errors,
        }
        if self.leaving or self.draining:
            parts["shutdown"] = "draining" if self.draining else "leaving"
        well = (
            all(state in ("ready", "asleep") for state in models.values())
            and not parts["loops"]
            and not self.part_errors
        )
        status = "ready" if serving and well else "degraded" if serving else "unavailable"
        return serving, {"status": status, "parts": parts}

    def _without(self, model: str) -> str:
        """Say what a model without replicas is: one that a request wakes can serve."""
        if model in self.apart.models:
            return "asleep" if self.apart.holds(model) else "no replicas"
        cluster = self.cluster
        known = cluster is not None and model in cluster
        return "asleep" if (cluster if known and cluster else self.scaler).holds(model) else "no replicas"
