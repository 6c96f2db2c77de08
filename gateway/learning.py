"""Labels of live traffic: taken in, kept in a file, and put to use in the grading.

Rules: a label holds numbers, never a text. The file is append-only lines; every process of the state
directory appends, and reads what the others appended. What labels teach is worked out in a thread. A
challenger for a tenant is in force while it beats the shipped order on labels that it was not fitted on; who
resets a route keeps its labels but nothing learnt from them, until the next process or reset.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np

from gateway.choosing import Reading
from gateway.grading import Grading
from gateway.telemetry import Telemetry
from routing import labels
from routing.labels import Label, Trial

log = logging.getLogger("switchgear.routing")

MOST_LABELS = 5_000  # of a route
_RELEARN_AFTER = 25  # new labels
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Label).decode


class Learnt(msgspec.Struct, frozen=True, kw_only=True):
    """What a route's labels tell; ``trials`` by tenant."""

    route: str
    labels: int
    both: int
    regret: float | None
    calibrated: bool
    trials: dict[str, Trial]
    in_force: list[str]
    """The tenants whose challenger is in force."""


class Learning:
    """One for the process; ``grading`` gives the grading once there is one."""

    def __init__(self, path: Path, grading: Callable[[], Grading | None], telemetry: Telemetry) -> None:
        self._path = path
        self._grading = grading
        self._telemetry = telemetry
        self._labels: dict[str, deque[Label]] = {}
        self._unwritten: list[bytes] = []
        self._at_bytes = 0
        self._new: dict[str, int] = {}
        self._reset: set[str] = set()
        self._trials: dict[str, dict[str, Trial]] = {}
        self._regret: dict[str, float] = {}
        telemetry.probe("switchgear_routing_regret", self._regrets)
        telemetry.probe("switchgear_routing_drift", self._drifts)

    def note(self, label: Label) -> None:
        """Take in a label; it counts from the next step on, here and in the other processes."""
        self._unwritten.append(_encode(label) + b"\n")
        self._telemetry.count("switchgear_routing_labels_total", (label.route, label.source))

    async def step(self) -> None:
        """Write what is new, read what is there, learn where enough is. Raises OSError; it is tried again."""
        await asyncio.to_thread(self._write)
        for label in await asyncio.to_thread(self._read):
            kept = self._labels.setdefault(label.route, deque(maxlen=MOST_LABELS))
            kept.append(label)
            self._new[label.route] = self._new.get(label.route, 0) + 1
        for route, new in list(self._new.items()):
            if new and (known := labels.regret(self._labels[route])) is not None:
                self._regret[route] = known
            if new >= _RELEARN_AFTER and route not in self._reset:
                self._new[route] = 0
                await self._learn(route)

    def learnt(self) -> list[Learnt]:
        """Tell what there is of each route."""
        grading = self._grading()
        return [
            Learnt(
                route=route,
                labels=len(kept),
                both=len(labels.known_both(kept)),
                regret=self._regret.get(route),
                calibrated=grading is not None and route in grading.curves,
                trials=self._trials.get(route, {}),
                in_force=[] if grading is None else [t for r, t in grading.challengers if r == route],
            )
            for route, kept in self._labels.items()
        ]

    def reset(self, route: str) -> bool:
        """Go back to what is shipped; tells whether there was anything to go back from."""
        grading = self._grading()
        if grading is None or route not in self._labels:
            return False
        self._reset.add(route)
        grading.curves.pop(route, None)
        for key in [one for one in grading.challengers if one[0] == route]:
            del grading.challengers[key]
        grading.recalibrate(route)
        log.info("route %s: what was learnt is reset", route)
        return True

    async def _learn(self, route: str) -> None:
        grading = self._grading()
        if grading is None:
            return
        kept = list(self._labels[route])
        curve = await asyncio.to_thread(labels.calibrated, kept)
        if curve is not None:
            grading.curves[route] = curve
            grading.recalibrate(route)
        for tenant in sorted({one.tenant for one in kept}):
            own = [one for one in kept if one.tenant == tenant and one.columns]
            if len(own) < labels.LEAST_FOR_TRIAL:
                continue
            trial, challenger = await asyncio.to_thread(labels.tried, own)
            self._trials.setdefault(route, {})[tenant] = trial
            was = (route, tenant) in grading.challengers
            if challenger is not None:
                grading.challengers[route, tenant] = challenger
            else:
                grading.challengers.pop((route, tenant), None)
            if was != (challenger is not None):
                log.info("route %s, tenant %s: challenger %s (APGR %.3f, shipped %.3f, %d labels)", route,
                         tenant, "in force" if challenger else "withdrawn", trial.challenger, trial.shipped,
                         trial.labels)  # fmt: skip

    def _write(self) -> None:
        lines, self._unwritten = self._unwritten, []
        if not lines:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(b"".join(lines))
        except OSError:
            self._unwritten = lines + self._unwritten
            raise

    def _read(self) -> Iterable[Label]:
        """Give what was appended since the last time; a half-written line waits, a broken one is left out."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._at_bytes)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at_bytes += len(whole)
        found = []
        for line in whole.splitlines():
            try:
                found.append(_decode(line))
            except msgspec.DecodeError:
                log.warning("%s: a line is not a label; it is left out", self._path)
        return found

    def _regrets(self) -> list[tuple[tuple[str, ...], float]]:
        return [((route,), value) for route, value in self._regret.items()]

    def _drifts(self) -> list[tuple[tuple[str, ...], float]]:
        grading = self._grading()
        if grading is None:
            return []
        prior = grading.facts.score_quantiles
        return [((route,), labels.drift(recent, prior)) for route, recent in grading.recent().items()]


def label_of(
    reading: Reading, *, ts: float, route: str, tenant: str, source: str, large_served: bool
) -> Label:
    """Give a label of a query without outcomes."""
    columns = b"" if reading.precise else np.asarray(reading.columns, np.float16).tobytes()
    return Label(
        ts=ts, route=route, tenant=tenant, source=source, score=reading.shipped, large_served=large_served,
        columns=columns,
    )  # fmt: skip
