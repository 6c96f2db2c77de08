"""``switchgear bench``: what a policy or a scaling rule would do to traffic, on simulated replicas."""

import argparse
import statistics
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import msgspec

from backends import scaling_trials, spot_trials
from gateway.commands.base import CommandError
from routing import traces
from routing.policies import POLICIES
from routing.simulator import Fleet, Result, simulate

COLUMNS = (
    ("ttft_p50_s", "TTFT p50 s", "{:.2f}"),
    ("ttft_p99_s", "p99 s", "{:.2f}"),
    ("total_p50_s", "total p50 s", "{:.2f}"),
    ("total_p99_s", "p99 s", "{:.2f}"),
    ("requests_per_s", "requests/s", "{:.2f}"),
    ("output_tokens_per_s", "tokens/s", "{:.0f}"),
    ("prefix_hits", "prefix hits", "{:.0%}"),
    ("fairness", "fairness", "{:.3f}"),
    ("refused", "refused", "{:.0f}"),
)

SCALING_COLUMNS = (
    ("requests", "requests", "{:.0f}"),
    ("violations", "over SLO", "{:.2%}"),
    ("p99_wait_s", "wait p99 s", "{:.1f}"),
    ("replica_hours", "replica-h", "{:.2f}"),
    ("starts", "starts", "{:.1f}"),
)


SPOT_COLUMNS = (
    ("cost", "cost", "{:.0%}"),
    ("reclaimed", "reclaimed", "{:.1f}"),
    ("moved", "moved", "{:.1f}"),
    ("lost", "lost", "{:.2f}"),
)


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    schedule = actions.add_parser("schedule", help="compare the policies that choose a replica")
    schedule.add_argument("--trace", type=Path, metavar="F", help="JSON lines; default: the bundled kinds")
    schedule.add_argument("--seed", type=int, default=1, help="of the first bundled trace")
    schedule.add_argument(
        "--seeds", type=int, default=5, help="traces of each kind (figures are their means)"
    )
    schedule.add_argument("--requests", type=int, default=400, help="requests of a bundled trace")
    schedule.add_argument("--replicas", type=int, default=4)
    schedule.add_argument("--policies", default=",".join(POLICIES), help="by comma; default all")
    schedule.add_argument("--json", action="store_true", help="print JSON")
    schedule.set_defaults(run=_schedule)
    autoscale = actions.add_parser("autoscale", help="compare rules that set the number of replicas")
    autoscale.add_argument(
        "--trace", type=Path, metavar="F", help="requests per second, a number a line; default: bundled kinds"
    )
    autoscale.add_argument("--seed", type=int, default=1, help="of the first trace")
    autoscale.add_argument("--seeds", type=int, default=3, help="runs of each kind (figures are their means)")
    autoscale.add_argument(
        "--unseen", action="store_true", help="kinds of load that no setting was chosen on, instead"
    )
    autoscale.add_argument("--seconds", type=int, default=5400, help="length of a bundled trace")
    autoscale.add_argument("--json", action="store_true", help="print JSON")
    autoscale.set_defaults(run=_autoscale)
    spot = actions.add_parser("spot", help="what spot replicas save, and what becomes of streams")
    spot.add_argument(
        "--trace", type=Path, metavar="F", help="a line a minute: the chance of a reclaim in each of 3 zones"
    )
    spot.add_argument("--seed", type=int, default=1, help="of the first trace")
    spot.add_argument("--seeds", type=int, default=20, help="runs (figures are their means)")
    spot.add_argument("--minutes", type=int, default=2880, help="length of a bundled trace")
    spot.add_argument("--json", action="store_true", help="print JSON")
    spot.set_defaults(run=_spot)


def _schedule(options: argparse.Namespace) -> int:
    policies = options.policies.split(",")
    for name in policies:
        if name not in POLICIES:
            raise CommandError(f"--policies: unknown policy {name!r}; known are {', '.join(POLICIES)}")
    if min(options.seeds, options.requests, options.replicas) < 1:
        raise CommandError("--seeds, --requests and --replicas must be 1 or more")
    fleet = Fleet(speeds=(1.0,) * options.replicas)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, some in _traces(options, fleet):
        found[name] = {}
        for policy in policies:
            results = [simulate(trace, policy, fleet, options.seed) for trace in some]
            found[name][policy] = _means(results)
        if not options.json:
            print(_table(name, found[name]), flush=True)
    if options.json:
        print(msgspec.json.encode(found).decode())
    return 0


def _spot(options: argparse.Namespace) -> int:
    if options.seeds < 1 or options.minutes < 60:
        raise CommandError("--seeds must be 1 or more, --minutes 60 or more")
    names = list(spot_trials.SpotTrial.__struct_fields__)
    rows: dict[str, dict[str, float]] = {}
    for policy, mix in spot_trials.POLICIES.items():
        seeds = range(options.seed, options.seed + options.seeds)
        runs = [spot_trials.run(_market(options, seed), mix, seed) for seed in seeds]
        rows[policy] = {name: statistics.mean(float(getattr(one, name)) for one in runs) for name in names}
    print(msgspec.json.encode(rows).decode() if options.json else _table("reclaims", rows, SPOT_COLUMNS))
    return 0


def _market(options: argparse.Namespace, seed: int) -> spot_trials.Reclaims:
    """Give the trace of a file, or a bundled one by seed."""
    if options.trace is None:
        return spot_trials.reclaims(options.minutes, seed)
    try:
        lines = options.trace.read_text(encoding="utf-8").splitlines()
        rows = [[float(one) for one in line.split()] for line in lines if line.strip()]
    except OSError as error:
        raise CommandError(f"{options.trace}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CommandError(f"{options.trace}: {error}; give three chances a line, one of each zone") from None
    if not rows or any(len(row) != 3 or not all(0 <= one <= 1 for one in row) for row in rows):
        raise CommandError(f"{options.trace}: give three chances from 0 to 1 a line, a line a minute")
    return rows


def _autoscale(options: argparse.Namespace) -> int:
    if options.seeds < 1 or options.seconds < 60:
        raise CommandError("--seeds must be 1 or more, --seconds 60 or more")
    names = list(scaling_trials.Trial.__struct_fields__)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, rates in _rates(options):
        found[kind] = {}
        for rule, make in scaling_trials.RULES.items():
            runs = [scaling_trials.run(rates(seed), make(), seed) for seed in _seeds(options)]
            found[kind][rule] = {
                name: statistics.mean(float(getattr(one, name)) for one in runs) for name in names
            }
    found["all"] = {
        rule: {name: statistics.mean(kind[rule][name] for kind in found.values()) for name in names}
        for rule in scaling_trials.RULES
    }
    if options.json:
        print(msgspec.json.encode(found).decode())
        return 0
    for kind, rows in found.items():
        print(_table(kind, rows, SCALING_COLUMNS))
    return 0


def _seeds(options: argparse.Namespace) -> range:
    return range(options.seed, options.seed + options.seeds)


def _rates(options: argparse.Namespace) -> Iterable[tuple[str, Callable[[int], list[float]]]]:
    """Give each trace's name and its rates by seed."""
    if options.trace is None:
        make = scaling_trials.unseen if options.unseen else scaling_trials.rates
        for kind in scaling_trials.UNSEEN if options.unseen else scaling_trials.KINDS:
            yield kind, partial(make, kind, options.seconds)
        return
    try:
        lines = options.trace.read_text(encoding="utf-8").split()
        rates = [min(max(float(line), 0.0), 100.0) for line in lines]
    except OSError as error:
        raise CommandError(f"{options.trace}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CommandError(f"{options.trace}: {error}; give requests per second, a number a line") from None
    if not rates:
        raise CommandError(f"{options.trace}: it is empty; give requests per second, a number a line")
    yield options.trace.name, lambda _seed: rates


def _traces(options: argparse.Namespace, fleet: Fleet) -> Iterable[tuple[str, list[list[traces.Request]]]]:
    if options.trace is not None:
        try:
            yield options.trace.name, [traces.parse(options.trace.read_bytes())]
        except OSError as error:
            raise CommandError(f"{options.trace}: cannot be read: {error.strerror}") from None
        except traces.TraceError as error:
            raise CommandError(f"{options.trace}: {error}") from None
        return
    for name, kind in traces.KINDS.items():
        seeds = range(options.seed, options.seed + options.seeds)
        yield name, [traces.generate(kind, fleet.rate(kind), options.requests, seed) for seed in seeds]


def _means(results: list[Result]) -> dict[str, float]:
    names = Result.__struct_fields__
    return {name: statistics.mean(float(getattr(one, name)) for one in results) for name in names}


def _table(
    name: str, rows: Mapping[str, Mapping[str, float]], columns: tuple[tuple[str, str, str], ...] = COLUMNS
) -> str:
    width = max(len(policy) for policy in rows)
    lines = [f"\n{name}", " " * width + "".join(f"{title:>13}" for _, title, _ in columns)]
    for policy, row in rows.items():
        values = "".join(f"{form.format(row[field]):>13}" for field, _, form in columns)
        lines.append(f"{policy:<{width}}{values}")
    return "\n".join(lines)
