"""Everything that repeats beside the requests: name, period in seconds, step."""

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from gateway import gauges, pages
from gateway.loops import Loop
from gateway.settings import Settings
from gateway.together import PERIOD_S

if TYPE_CHECKING:
    from gateway.app import House

PULSE_S = 1.0


def loops(house: "House", settings: Settings, wall: Callable[[], float]) -> tuple[Loop, ...]:
    """Give the loops of a gateway with these settings."""
    supervisor, books, notices = house.supervisor, house.books, house.notices

    async def scrape() -> None:
        await supervisor.scrape_once()
        house.dispatcher.observe(supervisor.loads)

    return (
        *_shared(house, settings, wall),
        Loop("reconcile", 0.5, supervisor.reconcile_once, due=lambda: not supervisor.at_rest),
        Loop("scaling", 1.0, house.scaler.look),
        Loop("probe", 1.0, supervisor.probe_once),
        Loop("scrape", 2.0, scrape),
        Loop("ledger", books.every_s, books.carry),
        Loop("keys", 1.0, books.refresh_keys, due=books.keys_due),
        Loop("rollouts", 1.0, house.follow_rollouts, due=house.rollouts_due),
        Loop("spot", 2.0, house.spot.look, due=house.spot.watches),
        Loop("expiry", 2.0, books.expire, due=books.expiry_due),
        Loop("standings", 60.0, books.note_standings),
        Loop("idempotency", 1.0, house.recordings.step, due=house.recordings.due),
        Loop("retention", 600.0, books.retain),
        Loop("proof", 300.0, books.prove),
        Loop("alerts", 5.0, notices.watch),
        Loop("pulse", PULSE_S, gauges.pulse(house.telemetry, PULSE_S)),
        Loop("webhooks", 1.0, notices.deliver, due=notices.signs),
        Loop("likeness", house.tier.period_s, house.tier.settle),
        Loop("audits", 1.0, house.tier.audit, due=house.tier.audit_due),
        Loop("shadows", 1.0, house.shadows.step, due=house.shadows.due),
        Loop("labels", 5.0, house.learning.step),
        Loop("lessons", 1.0, house.learning.follow, due=house.learning.follows),
        Loop("likeness-file", 60.0, house.tier.save),
        house.aftermath.loop,
        Loop("memory", 60.0, lambda: asyncio.to_thread(pages.trim)),
    )


def _shared(house: "House", settings: Settings, wall: Callable[[], float]) -> Iterator[Loop]:
    """Give the loops that one of several processes has."""
    if (shared := house.shared) is not None:
        yield Loop("limits", 0.5, lambda: shared.step(wall()))
        yield Loop("holds", 0.0, house.books.share)
    if (cluster := house.cluster) is not None:
        yield Loop("cluster", 1.0, cluster.follow)
        yield Loop("lease", 3.0, cluster.lease.step)
        yield Loop("workloads", 2.0, cluster.look)
    if (together := house.together) is not None:
        yield Loop("routing", PERIOD_S, together.step)
    if (news := house.news) is not None:
        yield Loop("cache-send", 0.05, news.send)
        yield Loop("cache-receive", 0.05, news.receive)
    if settings.fleet.apart:
        yield Loop("fleet", 0.5, house.apart.step)
    if house.link is not None:
        yield Loop("cache-redis", 1.0, house.tier.look)
    if house.metering is not None:
        yield house.metering.loop
    if house.has_siblings:
        yield Loop("tallies", 1.0, house.telemetry.publish)
