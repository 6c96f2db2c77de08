"""Labels of live traffic: taken in, kept in SQL, and put to use in the grading.

Rules: a label holds numbers, never a text. Every process keeps its labels where all others read them; one, by
a lease, works out in a thread what they teach, and all put in force what SQL says (``gateway.lessons``). So a
restart begins with what was in force, and a reset holds for all. A challenger for a tenant is in force while
it beats the shipped order on labels that it was not fitted on. While the database is away everything stays
as it is, and labels wait.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable

import msgspec
import numpy as np
import sqlalchemy as sa

from gateway import fleet_rows, lessons
from gateway.choosing import Reading
from gateway.grading import Grading
from gateway.lessons import MOST_LABELS, Lesson, Lessons
from gateway.telemetry import Telemetry
from gateway.tenancy.changes import changing
from routing import labels
from routing.feedback import Feedback
from routing.labels import Label, Trial

log = logging.getLogger("switchgear.routing")

LEASE = "routing"
ACTOR = "routing"
_RELEARN_AFTER = 25  # new labels
_LOOKS_EACH = 3  # steps, while nothing comes: for labels of other processes
_decode_curve = msgspec.json.Decoder(list[float]).decode


class Learnt(msgspec.Struct, frozen=True, kw_only=True):
    """What a route's labels tell; ``trials`` by tenant. Labels from before a reset are ``set_aside``."""

    route: str
    labels: int
    both: int
    regret: float | None
    calibrated: bool
    trials: dict[str, Trial]
    in_force: list[str]
    """The tenants whose challenger is in force."""
    set_aside: int
    restorable: bool
    """Whether it was reset, and that can be taken back."""


class Archive(msgspec.Struct, frozen=True):
    """Where it is kept; ``opened`` raises DatabaseError while the database has not been read."""

    opened: Callable[[], sa.Engine]
    revision: Callable[[], int | None]
    wall: Callable[[], float]
    one_writer: threading.Lock
    me: str


class Learning:
    """One for the process; ``grading`` gives the grading once there is one."""

    def __init__(self, archive: Archive, grading: Callable[[], Grading | None], telemetry: Telemetry) -> None:
        self._archive = archive
        self._grading = grading
        self._telemetry = telemetry
        self._labels: dict[str, dict[int, Label]] = {}
        self._newest = 0
        self._quiet = 0  # steps since labels came
        self._unwritten: deque[Label] = deque(maxlen=MOST_LABELS)
        self._new: dict[str, int] = {}
        self._lessons = Lessons()
        self._followed: tuple[int | None, str] | None = None
        self._regret: dict[str, float] = {}
        telemetry.probe("switchgear_routing_regret", self._regrets)
        telemetry.probe("switchgear_routing_drift", self._drifts)

    def note(self, label: Label) -> None:
        """Take in a label; it counts from the next step on, here and in the other processes."""
        grading = self._grading()
        weights = grading.version if grading is not None else ""
        self._unwritten.append(msgspec.structs.replace(label, weights=weights))
        self._telemetry.count("switchgear_routing_labels_total", (label.route, label.source))

    async def step(self) -> None:
        """Write what is new, read what is there; who holds the lease learns where enough is.

        Raises DatabaseError or SQLAlchemyError; it is tried again.
        """
        engine = self._archive.opened()
        if self._unwritten or self._quiet % _LOOKS_EACH == 0:
            found = await asyncio.to_thread(self._exchange, engine)
            self._take(found)
            self._quiet = 0 if found else 1
        else:
            self._quiet += 1
        await self.follow()
        for route, new in list(self._new.items()):
            if new and (known := labels.regret(self._counted(route))) is not None:
                self._regret[route] = known
        grading = self._grading()
        if grading is None or not self._labels or not await asyncio.to_thread(self._leads, engine):
            return
        for route in [route for route, new in self._new.items() if new >= _RELEARN_AFTER]:
            self._new[route] = 0
            await asyncio.to_thread(self._learn, engine, grading, route)
            await self.follow()

    def _take(self, found: dict[int, Label | None]) -> None:
        """Add labels to those that are known, up to so many of a route."""
        for id_, label in found.items():
            if label is None:
                continue
            kept = self._labels.setdefault(label.route, {})
            if id_ not in kept:
                kept[id_] = label
                self._new[label.route] = self._new.get(label.route, 0) + 1
            if len(kept) > MOST_LABELS:
                del kept[next(iter(kept))]

    def follows(self) -> bool:
        """Whether the database may say something new."""
        return self._unfollowed() is not None

    async def follow(self) -> None:
        """Put in force what the database says, where that is new. Raises DatabaseError or SQLAlchemyError."""
        if (unfollowed := self._unfollowed()) is None:
            return
        grading, revision = unfollowed
        self._lessons = found = await asyncio.to_thread(lessons.read, self._archive.opened())
        curves, challengers = _usable(found, grading.version)
        grading.teach(curves, challengers)
        self._followed = revision, grading.version

    def _unfollowed(self) -> tuple[Grading, int] | None:
        """Give the grading and the database's revision, where they were not brought together yet."""
        grading, revision = self._grading(), self._archive.revision()
        if grading is None or revision is None or self._followed == (revision, grading.version):
            return None
        return grading, revision

    def learnt(self) -> list[Learnt]:
        """Tell what there is of each route."""
        return [self._told(route) for route in sorted({*self._labels, *self._lessons.resets})]

    def _told(self, route: str) -> Learnt:
        grading, counted = self._grading(), self._counted(route)
        known = self._lessons.by_name
        return Learnt(
            route=route,
            labels=len(counted),
            both=len(labels.known_both(counted)),
            regret=self._regret.get(route),
            calibrated=grading is not None and route in grading.curves,
            trials={
                one.tenant: msgspec.convert(one.trial, Trial)
                for (of, _), one in known.items()
                if of == route and one.trial is not None
            },
            in_force=[] if grading is None else [t for r, t in grading.challengers if r == route],
            set_aside=len(self._labels.get(route, {})) - len(counted),
            restorable=route in self._lessons.resets,
        )

    def _counted(self, route: str) -> list[Label]:
        """Give the labels of a route that are not set aside, in order."""
        from_id, kept = self._lessons.resets.get(route, 0), self._labels.get(route, {})
        return [kept[id_] for id_ in sorted(kept) if id_ > from_id]

    def _exchange(self, engine: sa.Engine) -> dict[int, Label | None]:
        if waiting := list(self._unwritten):
            lessons.add(engine, waiting)
            for _ in waiting:
                self._unwritten.popleft()
        found = lessons.labels_since(engine, self._newest)
        self._newest = max(found, default=self._newest)
        return found

    def _leads(self, engine: sa.Engine) -> bool:
        return fleet_rows.take_lease(engine, self._archive.me, self._archive.wall(), LEASE)

    def _learn(self, engine: sa.Engine, grading: Grading, route: str) -> None:
        """Work out what a route's labels teach, and put it into the database."""
        lessons.tidy(engine, route)
        usable = [one for one in self._counted(route) if one.weights == grading.version]
        curve = labels.calibrated(usable)
        taught = []
        if curve is not None:
            body = msgspec.json.encode(curve)
            taught.append(Lesson(route=route, in_force=True, weights=grading.version, body=body))
        for tenant in sorted({one.tenant for one in usable}):
            own = [one for one in usable if one.tenant == tenant and one.columns]
            if len(own) < labels.LEAST_FOR_TRIAL:
                continue
            trial, challenger = labels.tried(own)
            taught.append(
                Lesson(
                    route=route, tenant=tenant, in_force=challenger is not None, weights=grading.version,
                    body=challenger.packed() if challenger is not None else b"",
                    trial=msgspec.to_builtins(trial),
                )
            )  # fmt: skip
        if not taught:
            return
        archive = self._archive
        with archive.one_writer, changing(engine, ACTOR, archive.wall()) as change:
            if lessons.counts_from(change, route) != self._lessons.resets.get(route, 0):
                return  # reset meanwhile: what was worked out is of labels that do not count
            for one in taught:
                lessons.put(change, one)
                log.info("route %s, %s: %s (%s)", route, one.tenant or "quality", one.in_force, one.trial)
        self._followed = None

    def _regrets(self) -> list[tuple[tuple[str, ...], float]]:
        return [((route,), value) for route, value in self._regret.items()]

    def _drifts(self) -> list[tuple[tuple[str, ...], float]]:
        grading = self._grading()
        if grading is None:
            return []
        prior = grading.facts.score_quantiles
        return [((route,), labels.drift(recent, prior)) for route, recent in grading.recent().items()]


def _usable(found: Lessons, weights: str) -> tuple[dict[str, list[float]], dict[tuple[str, str], Feedback]]:
    """Give the curves by route and the challengers by route and tenant in force for these weights."""
    curves, challengers = {}, {}
    for (route, tenant), one in found.by_name.items():
        if not one.in_force or one.weights != weights:
            continue
        try:
            if tenant:
                challengers[route, tenant] = Feedback.unpacked(one.body)
            else:
                curves[route] = _decode_curve(one.body)
        except Exception as error:  # whatever it is: the other lessons hold
            log.warning("route %s, %s: an unreadable lesson: %s", route, tenant or "quality", error)
    return curves, challengers


def label_of(
    reading: Reading, *, ts: float, route: str, tenant: str, source: str, large_served: bool
) -> Label:
    """Give a label of a query without outcomes."""
    columns = b"" if reading.precise else np.asarray(reading.columns, np.float16).tobytes()
    return Label(
        ts=ts, route=route, tenant=tenant, source=source, score=reading.shipped, large_served=large_served,
        columns=columns,
    )  # fmt: skip
