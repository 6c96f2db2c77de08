"""Models whose replicas are pods: where they are, waking and sleeping, machines that are taken away.

Every gateway watches and wakes; only the holder of the Lease puts to sleep and evicts. What the API server
does not tell, or forbids, changes nothing: the pods that were known last serve on, and a step that failed is
tried again.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from backends.background import Background
from backends.clients.kubernetes import ACCOUNT, KubeApi, KubeError, Patience
from backends.discovery import SERVICE, Machine, Pod, machines, pods, usable
from backends.launchers import kubernetes as workloads
from backends.launchers.kubernetes import Workload
from backends.lease import Lease
from backends.load import Figures
from backends.load_times import LoadTimes
from backends.watching import Watched
from gateway.loops import ended
from gateway.settings import ConfigError, KubernetesSettings, ModelSettings, PodSettings, Settings

PINS = "switchgear.io/pinned"
WAKE_AGAIN_S = 5.0
PROBED_S = 10.0
USE = ("prompt_tokens_total", "generation_tokens_total", "running", "waiting")


class Work(Protocol):
    """What is known of a model's requests; see ``gateway.dispatcher``."""

    def running(self) -> dict[str, int]: ...

    def depth(self) -> dict[str, int]: ...


class Known(msgspec.Struct, eq=False):
    """One model."""

    declared: PodSettings
    pods: tuple[Pod, ...] = ()
    changed_s: float = float("-inf")
    woken_s: float = float("-inf")
    used: object = None
    """What its engines had counted when it was last seen in use."""
    used_s: float = 0.0
    resumed: bool = False
    """KEDA was told to take it up again since it woke."""
    refused: KubeError | None = None
    """Why it could not be woken; until it has pods, or nobody waits."""

    @property
    def workloads(self) -> list[Workload]:
        space = self.declared.namespace
        return [Workload(name=one.name, namespace=space, kind=one.kind) for one in self.declared.workloads]


class Hooks(msgspec.Struct, frozen=True):
    """What the cluster reads of the rest, and whom it tells that the pods changed."""

    work: Work
    figures: Callable[[], Mapping[str, Figures]]
    declare: Callable[[], None]
    now: Callable[[], float]
    wall: Callable[[], float]


class Cluster:
    def __init__(self, settings: Settings, hooks: Hooks, environ: Mapping[str, str]) -> None:
        """Nothing is asked yet. Raises OSError where the API server's address or certificate is not known."""
        own = settings.kubernetes
        self._own, self._hooks = own, hooks
        self._api = _api(own, environ)
        self._load_times = LoadTimes(Path(settings.server.state_dir) / "load-times.json")
        me = environ.get("POD_NAME") or f"{os.uname().nodename}-{os.getpid()}"
        self.lease = Lease(self._api, (_namespace(own), own.lease), me, hooks.now, hooks.wall)
        self._models: dict[str, Known] = {}
        self._watched: dict[str, Watched] = {}
        self._following: dict[str, asyncio.Task[None]] = {}
        self._tasks = Background()
        self._evicted: set[str] = set()

    # What the rest of the gateway asks

    def configure(self, models: Iterable[ModelSettings]) -> None:
        """Put settings in force; known models keep what is known of them."""
        known = self._models
        self._models = {
            model.name: Known(
                declared=model.kubernetes,
                pods=known[model.name].pods if model.name in known else (),
                used_s=self._hooks.now(),
            )
            for model in models
            if model.kubernetes is not None
        }
        paths = {
            f"/apis/discovery.k8s.io/v1/namespaces/{one.declared.namespace}/endpointslices": SERVICE
            for one in self._models.values()
        }
        if self._own.evict:
            paths["/api/v1/nodes"] = ""
        for path in set(self._watched) - set(paths):
            del self._watched[path]
        for path, selector in paths.items():
            if path not in self._watched:
                self._watched[path] = Watched(self._api, path, self._changed, selector)
        self._read()

    def __contains__(self, model: object) -> bool:
        return model in self._models

    def pods(self, model: str) -> list[Pod]:
        """Give the pods that get new requests."""
        return usable(self._models[model].pods) if model in self._models else []

    def holds(self, model: str) -> bool:
        """Tell whether a request of a model without pods waits for one."""
        known = self._models.get(model)
        return known is not None and known.declared.when_asleep == "hold" and self._pins().get(model) != 0

    def expected_ready_s(self, model: str) -> float | None:
        """Seconds until a model of which no replica is ready serves; None where nobody can say."""
        known, now_s = self._models.get(model), self._hooks.now()
        if known is None:
            return None
        if known.pods:  # the cluster calls them ready: our own probe comes within a second
            return 1.0 if now_s < known.changed_s + PROBED_S else None
        return max(known.woken_s + self._load_times.expected_s(model) - now_s, 1.0)

    def wake(self, model: str) -> None:
        """Have one replica at least, once however often it is asked, unless an operator holds it at none."""
        known = self._models.get(model)
        if known is None or known.pods or self._pins().get(model) == 0:
            return
        now_s = self._hooks.now()
        if f"wake {model}" not in self._tasks and now_s > known.woken_s + WAKE_AGAIN_S:
            known.woken_s = now_s
            self._tasks.start(f"wake {model}", self._wake_for_requests(known))

    async def pin(self, model: str, replicas: int | None) -> None:
        """Hold a model at a number of replicas, for all gateways; None gives it back. Raises KubeError."""
        known, pins = self._models[model], self._pins()
        pins.pop(model, None)
        if replicas is not None:
            pins[model] = replicas
        await self.lease.note(PINS, msgspec.json.encode(pins).decode())
        first, *others = known.workloads
        if replicas is None:
            known.resumed = False  # the leader's next look has KEDA take it up
            if not known.pods:
                await self._wake(known)
            return
        for one in (first, *others):
            await workloads.paused(self._api, one, True)
            await workloads.scaled(self._api, one, replicas if one is first else 0)

    def shown(self, model: str) -> dict[str, object] | None:
        """Give what the admin API shows; None for a model that is not of this cluster."""
        known = self._models.get(model)
        if known is None:
            return None
        pinned = self._pins().get(model)
        reason = "set by an operator" if pinned is not None else "kubernetes"
        least = known.declared.min_replicas
        return {"desired": len(known.pods), "min": least, "max": None, "pinned": pinned, "reason": reason}

    # The steps of loops

    async def follow(self) -> None:
        """See to it that every collection is followed. Raises why what is known of one may be old."""
        failed: BaseException | None = None
        for path, watched in self._watched.items():
            failed = watched.failure or failed
            task = self._following.get(path)
            if task is not None and task.done():
                failed = task.exception() or failed
            if task is None or task.done():
                self._following[path] = asyncio.create_task(watched.step(), name=f"watch {path}")
        for path in set(self._following) - set(self._watched):
            self._following.pop(path).cancel()
        if failed is not None:
            raise failed

    async def look(self) -> None:
        """Wake what is waited for; as the leader: resume, put to sleep, evict. Raises KubeError."""
        depth = self._hooks.work.depth()
        for name, known in self._models.items():
            if depth.get(name):
                self.wake(name)
            if known.pods or not depth.get(name):
                known.refused = None
            self._note_use(name, known)
        failures = [known.refused for known in self._models.values() if known.refused is not None]
        for name, known in self._models.items() if self.lease.held else ():
            try:
                await self._tend(name, known)
            except KubeError as error:  # another namespace's rights, another pod's machine: the others go on
                failures.append(error)
        if failures:
            raise failures[0]

    async def close(self) -> None:
        """Let another gateway act for all, and end what is under way."""
        await ended(list(self._following.values()))
        await self._tasks.stop()
        with contextlib.suppress(KubeError):  # its time runs out by itself
            await self.lease.release()
        await self._api.close()

    # Inside

    def _changed(self) -> None:
        self._read()
        self._hooks.declare()

    def _read(self) -> None:
        """Work out each model's pods from what is known of slices and nodes."""
        nodes = self._watched.get("/api/v1/nodes")
        seen: dict[str, Machine] = machines(nodes.items.values(), self._own.taints) if nodes else {}
        slices = [
            one for path, each in self._watched.items() if each is not nodes for one in each.items.values()
        ]
        found = pods(slices, seen)
        for name, known in self._models.items():
            names, space = {one.name for one in known.declared.workloads}, known.declared.namespace
            mine = tuple(pod for pod in found if pod.workload in names and pod.namespace == space)
            if mine and not known.pods and known.woken_s > float("-inf"):
                self._load_times.remember(name, self._hooks.now() - known.woken_s)
            if not mine:
                known.resumed = False
            if mine != known.pods:
                known.pods, known.changed_s = mine, self._hooks.now()
        self._evicted &= {pod.id for known in self._models.values() for pod in known.pods}

    def _pins(self) -> dict[str, int]:
        text = self.lease.notes.get(PINS, "{}")
        try:
            return msgspec.json.decode(text, type=dict[str, int])
        except msgspec.DecodeError:
            return {}  # somebody else wrote it

    def _note_use(self, name: str, known: Known) -> None:
        """Engines count every gateway's requests: one that counts on is in use, like one that is mute."""
        work, figures = self._hooks.work, self._hooks.figures()
        told = [figures.get(pod.id) for pod in known.pods]
        counts = None if None in told else [[str((one or {}).get(use)) for use in USE] for one in told]
        busy = work.running().get(name) or work.depth().get(name) or counts is None or counts != known.used
        if busy:
            known.used, known.used_s = counts, self._hooks.now()

    async def _wake(self, known: Known) -> None:
        """First the replica, then KEDA: were this to end in between, the leader would do the rest."""
        await workloads.raised(self._api, known.workloads[0])
        await self._pause(known, False)
        known.resumed, known.refused = True, None

    async def _wake_for_requests(self, known: Known) -> None:
        """Wake it; a failure is told by the next look, and tried again while somebody waits."""
        try:
            await self._wake(known)
        except KubeError as error:
            known.refused = error

    async def _tend(self, name: str, known: Known) -> None:
        """What the leader does for one model. Raises KubeError."""
        if known.pods and name not in self._pins():
            if not known.resumed:
                await self._pause(known, False)
                known.resumed = True
            if known.declared.min_replicas == 0:
                await self._maybe_sleep(known)
        await self._evict(known)

    async def _maybe_sleep(self, known: Known) -> None:
        """First KEDA, which would start it again, then the replicas."""
        if self._hooks.now() < known.used_s + known.declared.idle_s:
            return
        await self._pause(known, True)
        known.resumed = True  # until its pods have gone, they are no sign that it woke
        for one in known.workloads:
            await workloads.scaled(self._api, one, 0)

    async def _pause(self, known: Known, pause: bool) -> None:
        for one in known.workloads:
            await workloads.paused(self._api, one, pause)

    async def _evict(self, known: Known) -> None:
        """Have pods of machines that are taken away replaced now: their requests still end where they are."""
        for pod in known.pods:
            if not pod.machine.doomed or pod.id in self._evicted:
                continue
            if await workloads.evicted(self._api, pod.namespace, pod.name):
                self._evicted.add(pod.id)


def cluster_of(settings: Settings, hooks: Hooks, environ: Mapping[str, str], source: str) -> Cluster | None:
    """Give the cluster, where replicas are pods. Raises ConfigError where its API server is not known."""
    if all(model.kubernetes is None for model in settings.models):
        return None
    try:
        return Cluster(settings, hooks, environ)
    except OSError as error:
        raise ConfigError(f"{source}: kubernetes: {error}") from None


def _namespace(own: KubernetesSettings) -> str:
    if own.namespace is not None:
        return own.namespace
    try:
        return (ACCOUNT / "namespace").read_text(encoding="ascii").strip()
    except OSError:
        return "default"


def _api(own: KubernetesSettings, environ: Mapping[str, str]) -> KubeApi:
    patience = Patience(timeout_s=own.timeout_s, watch_s=own.watch_s)
    if not own.api:
        return KubeApi.of_pod(environ, patience)
    token = Path(own.token_file) if own.token_file else None
    return KubeApi(own.api, token, Path(own.ca_file) if own.ca_file else None, patience)
