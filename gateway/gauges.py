"""What is read off the parts of the house when somebody looks at the metrics, and how busy the process is.

Nothing here is on the way of a request.
"""

import importlib.metadata
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from backends.load import Spread
from backends.replica import Phase, Replica
from backends.supervisor import Supervisor
from gateway.dispatcher import Dispatcher
from gateway.errors import CODES
from gateway.state.money import Purse
from gateway.telemetry import Labels, Telemetry
from gateway.telemetry import Spread as Shown
from gateway.tenancy.keys import KeyTable

if TYPE_CHECKING:
    from gateway.app import House

Values = Iterable[tuple[Labels, float]]

WEEK_S = 7 * 86400.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def of_house(house: "House", wall: Callable[[], float]) -> None:
    """Show all that is read off the parts of a gateway."""
    telemetry, store = house.telemetry, house.store
    of_requests(telemetry, house.dispatcher)
    of_fleet(telemetry, house.supervisor)
    of_money(telemetry, house.purses, house.keys, wall)
    of_process(telemetry, [loop.name for loop in house.process.loops])
    telemetry.probe("switchgear_shared_calls", lambda: [((), float(len(house.coalescing.flights)))])
    telemetry.probe("switchgear_shared_readers", lambda: [((), float(house.coalescing.readers))])
    telemetry.probe("switchgear_ledger_gap_nanousd", lambda: known(house.books.gap_nanousd))
    telemetry.probe("switchgear_cache_entries", lambda: [((), float(len(store)))])
    saved = house.pipeline.shelf.kept.saved_tokens
    telemetry.probe(
        "switchgear_cache_saved_tokens", lambda: [((tier,), float(n)) for tier, n in saved.items()]
    )
    spared = house.pipeline.shelf.kept.saved_s
    telemetry.probe("switchgear_cache_saved_seconds", lambda: [((tier,), s) for tier, s in spared.items()])
    if (news := house.news) is not None:
        telemetry.probe("switchgear_cache_lost_news", lambda: [((), float(news.lost))])
    if (link := house.link) is not None:
        telemetry.probe("switchgear_cache_redis_lost", lambda: [((), float(link.lost))])
    telemetry.probe("switchgear_cache_bytes", lambda: [((), float(store.size_bytes))])


def of_requests(telemetry: Telemetry, dispatcher: Dispatcher) -> None:
    """Show what waits and what runs."""
    telemetry.probe("switchgear_queue_depth", lambda: by_model(dispatcher.depth()))
    telemetry.probe("switchgear_running", lambda: by_model(dispatcher.running()))


def of_fleet(telemetry: Telemetry, supervisor: Supervisor) -> None:
    """Show the replicas, and what their engines say of themselves."""

    def engines(name: str) -> Iterable[tuple[Labels, float | Shown]]:
        ours = name.removeprefix("switchgear_engine_")
        for id_, figures in supervisor.figures.items():
            replica, figure = supervisor.replicas.get(id_), figures.get(ours)
            if replica is not None and figure is not None:
                shown = (figure.buckets, figure.total) if isinstance(figure, Spread) else figure
                yield (replica.model, id_), shown

    telemetry.engines = engines
    telemetry.probe("switchgear_replicas", lambda: phases(supervisor.replicas))
    telemetry.probe("switchgear_replicas_wanted", lambda: _wanted(supervisor))
    telemetry.probe("switchgear_replica_start_step_seconds", lambda: _steps(supervisor))


def of_money(
    telemetry: Telemetry, purses: Mapping[str, Purse], keys: KeyTable, wall: Callable[[], float]
) -> None:
    """Show what is reserved now, and how many keys will soon be of no use."""
    telemetry.probe("switchgear_reserved_nanousd", lambda: [((), float(_reserved(purses)))])

    def expiring() -> Values:
        now_s = wall()
        soon = [one for one in list(keys.keys()) if one.expires_s and now_s < one.expires_s < now_s + WEEK_S]
        return [((), float(len(soon)))]

    telemetry.probe("switchgear_keys_expiring", expiring)


def of_process(telemetry: Telemetry, loops: Iterable[str]) -> None:
    """Show which version this is, its memory, and a zero of what is seldom and must be noticed.

    Prometheus takes a counter's first value for its beginning: one that begins with 1 has not risen.
    """
    for code in CODES:
        telemetry.count("switchgear_refusals_total", (code,), 0.0)
    for name in loops:
        telemetry.count("switchgear_loop_failures_total", (name,), 0.0)
    for outcome in ("delivered", "failed", "given_up"):
        telemetry.count("switchgear_webhook_attempts_total", (outcome,), 0.0)
    version = importlib.metadata.version("switchgear")
    telemetry.probe("switchgear_build_info", lambda: [((version,), 1.0)])
    telemetry.probe("switchgear_memory_bytes", lambda: [((), _resident_bytes())])


def pulse(telemetry: Telemetry, period_s: float) -> Callable[[], Awaitable[None]]:
    """Give the step of a loop that notes how late it comes, and the CPU time since the last step."""
    due_s, spent_s = 0.0, time.process_time()

    async def step() -> None:
        nonlocal due_s, spent_s
        now_s, now_spent_s = time.monotonic(), time.process_time()
        if due_s:
            telemetry.observe("switchgear_loop_lag_seconds", (), max(0.0, now_s - due_s))
        telemetry.count("switchgear_cpu_seconds_total", (), now_spent_s - spent_s)
        due_s, spent_s = time.monotonic() + period_s, now_spent_s

    return step


def started(telemetry: Telemetry, before: Replica, after: Replica) -> None:
    """Count a replica that has become ready, and how long it took."""
    if after.phase is Phase.READY and before.phase in (Phase.LOADING, Phase.WAITING):
        telemetry.count("switchgear_replica_starts_total", (after.model, after.id))
        if after.launched:
            telemetry.observe(
                "switchgear_replica_start_seconds", (after.model,), max(0.0, after.since_s - before.since_s)
            )


def known(amount: int | None) -> Values:
    """Give an amount, or nothing while nobody knows it."""
    return [] if amount is None else [((), float(amount))]


def by_model(counts: Mapping[str, int]) -> Values:
    """Give counts of models."""
    return [((model,), float(count)) for model, count in counts.items()]


def phases(replicas: Mapping[str, Replica]) -> Values:
    """Count replicas by model and phase."""
    return _counted((one.model, str(one.phase)) for one in replicas.values())


def _steps(supervisor: Supervisor) -> Values:
    return [
        ((one.model, one.id, step.step), step.seconds)
        for one in supervisor.replicas.values()
        for step in supervisor.steps(one.id)
    ]


def _wanted(supervisor: Supervisor) -> Values:
    return _counted((one.model, "yes" if one.spot else "no") for one in supervisor.replicas.values())


def _counted(labels: Iterable[Labels]) -> Values:
    counts: dict[Labels, float] = {}
    for one in labels:
        counts[one] = counts.get(one, 0.0) + 1.0
    return counts.items()


def _reserved(purses: Mapping[str, Purse]) -> int:
    """Add up reservations; one that several levels hold (key, project, organisation) counts once."""
    levels: dict[str, int] = {}
    for name, purse in purses.items():
        level = name.partition(":")[0]
        levels[level] = levels.get(level, 0) + purse.reserved
    return max(levels.values(), default=0)


def _resident_bytes() -> float:
    return float(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES)
