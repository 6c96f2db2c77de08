"""What it costs to divide one fleet into cells: ``python -m bench.cells``. Computed, nothing is measured.

- Replicas: each cell needs so many that a request waits with a probability of at most ``WAITS`` (Erlang C,
  a slot is a server); smaller cells waste more. A cell that fails is borne by the others.
- Global limits of ``LIMIT_RPM``: with fixed shares, what a tenant can use whose traffic comes to one cell;
  with cells that tell each other what they used, what may pass too much until all have heard.
"""

import math

SLOTS = 64
HELD_S = 4.0
WAITS = 0.01
REPLICA_USD_PER_HOUR = 2.5
LIMIT_RPM = 600


def waiting(offered: float, servers: int) -> float:
    """Erlang C: the probability that a request finds all slots taken."""
    if servers <= offered:
        return 1.0
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


def replicas(requests_per_s: float) -> int:
    """The least number of replicas for the load."""
    offered = requests_per_s * HELD_S
    count = max(1, math.ceil(offered / SLOTS))
    while waiting(offered, count * SLOTS) > WAITS:
        count += 1
    return count


def fleet(requests_per_s: float, cells: int, *, one_may_fail: bool) -> int:
    """Replicas of all cells together."""
    bearing = cells - 1 if one_may_fail else cells
    return cells * replicas(requests_per_s / bearing)


def main() -> None:
    print(
        "| requests/s | cells | replicas | USD/h | and one cell may fail | USD/h |\n|---|---|---|---|---|---|"
    )
    for load in (50.0, 200.0, 1000.0):
        for cells in (1, 2, 3, 6, 12):
            plain = fleet(load, cells, one_may_fail=False)
            safe = fleet(load, cells, one_may_fail=True) if cells > 1 else None
            row = [f"{load:.0f}", str(cells), str(plain), f"{plain * REPLICA_USD_PER_HOUR:.1f}"]
            row += ["–", "–"] if safe is None else [str(safe), f"{safe * REPLICA_USD_PER_HOUR:.1f}"]
            print(f"| {' | '.join(row)} |")
    print("\n| cells | fixed shares: one cell can use | told every 1 s: too many at most | every 10 s |")
    print("|---|---|---|---|")
    for cells in (2, 3, 6):
        over = [f"{(cells - 1) * LIMIT_RPM / 60 * sync_s:.0f}" for sync_s in (1.0, 10.0)]
        print(f"| {cells} | {LIMIT_RPM / cells:.0f} | {' | '.join(over)} |")


if __name__ == "__main__":
    main()
