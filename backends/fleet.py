"""Desired + observed -> what to start and what to end.

Pure. A process that keeps crashing is started again after a growing pause; after `GIVE_UP_AFTER` quick
crashes its replica counts as failed and is tried slowly, as the cause (a full disk) may pass.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from backends.replica import Phase

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 30.0
GIVE_UP_AFTER = 5
SLOW_RETRY_S = 300.0
LASTED_S = 120.0
"""A run that was ready and lasted so long ends a series of crashes."""
EJECTED_RESTART_S = 120.0
"""A launched replica that stays ejected for so long hangs: it is started anew."""


class Desired(Struct, frozen=True, kw_only=True):
    id: str
    load_timeout_s: float = 900.0


class Observed(Struct, frozen=True, kw_only=True):
    """A replica whose process runs."""

    phase: Phase
    since_s: float
    launched: bool = True
    ending: bool = False
    """Its end is under way."""


class Crashes(Struct, frozen=True, kw_only=True):
    """A series of ends that nobody asked for."""

    count: int = 0
    last_s: float = 0.0


class Launch(Struct, frozen=True):
    id: str


class Stop(Struct, frozen=True):
    id: str
    reason: str


Command = Launch | Stop


def plan(
    desired: Sequence[Desired], running: Mapping[str, Observed], crashes: Mapping[str, Crashes], now_s: float
) -> list[Command]:
    """Ends first, then starts, each in the order declared."""
    wanted = {one.id: one for one in desired}
    commands: list[Command] = []
    for id_, seen in running.items():
        reason = "no longer wanted" if id_ not in wanted else _hangs(wanted[id_], seen, now_s)
        if reason and not seen.ending:
            commands.append(Stop(id_, reason))
    due = (id_ for id_ in wanted if now_s >= next_start_s(crashes.get(id_, Crashes())))
    return commands + [Launch(id_) for id_ in due if id_ not in running]


def crashed(before: Crashes, *, started_s: float, was_ready: bool, now_s: float) -> Crashes:
    """The series with one more end, or a new series where the run had lasted."""
    if was_ready and now_s - started_s >= LASTED_S:
        return Crashes(count=1, last_s=now_s)
    return Crashes(count=before.count + 1, last_s=now_s)


def gave_up(crashes: Crashes) -> bool:
    return crashes.count >= GIVE_UP_AFTER


def next_start_s(crashes: Crashes) -> float:
    """The earliest time of the next start; minus infinity where nothing crashed."""
    if crashes.count == 0:
        return float("-inf")
    if gave_up(crashes):
        return crashes.last_s + SLOW_RETRY_S
    return crashes.last_s + min(BACKOFF_FIRST_S * 2.0 ** (crashes.count - 1), BACKOFF_MAX_S)


def _hangs(desired: Desired, seen: Observed, now_s: float) -> str:
    """Why the running process should be started anew; "" where it is well."""
    if not seen.launched:
        return ""
    lasted_s = now_s - seen.since_s
    if seen.phase is Phase.LOADING and lasted_s >= desired.load_timeout_s:
        return f"not ready {lasted_s:.0f} s after its start"
    if seen.phase is Phase.EJECTED and lasted_s >= EJECTED_RESTART_S:
        return f"unwell for {lasted_s:.0f} s"
    return ""
