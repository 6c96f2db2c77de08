"""What each replica of a launched model is: its version, spot or on demand, its zone. Pure.

- Versions share the replicas as they share the traffic; each one in use has one at least.
- An on-demand floor stands before any spot replica is taken; what goes first is spot.
- Zones are filled evenly; of equals the one where the fewest machines were taken away.
"""

import math
from collections.abc import Mapping, Sequence

from msgspec import Struct


class Seat(Struct, frozen=True, kw_only=True):
    """One replica, before it is started."""

    version: str = ""
    spot: bool = False
    zone: str = ""


class Mix(Struct, frozen=True, kw_only=True):
    """What a model's replicas should be like."""

    spot: bool = False
    on_demand: int = 0
    """So many at least are not spot."""
    zones: Sequence[str] = ()


def shared_out(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """How many replicas each version has of `count`, which grows where versions in use are more.

    A share of 0 that is named is a version for some keys only: one replica.
    """
    if count == 0 or not shares:
        return {}
    found = {version: max(math.floor(share * count), 1) for version, share in shares.items()}
    by_rest = sorted(shares, key=lambda one: (found[one] - shares[one] * count, one))
    for version in by_rest * count:
        if sum(found.values()) >= count:
            break
        found[version] += 1
    for version in sorted(found, key=lambda one: found[one], reverse=True) * count:
        if sum(found.values()) <= count:
            break
        found[version] -= found[version] > 1
    return found


def next_seat(mix: Mix, version: str, taken: Sequence[Seat], reclaims: Mapping[str, int]) -> Seat:
    """The seat of one more replica beside those taken; `reclaims` counts machines taken away by zone."""
    firm = sum(not one.spot for one in taken)
    load = {zone: sum(one.zone == zone for one in taken) for zone in mix.zones}
    zone = min(mix.zones, key=lambda one: (load[one], reclaims.get(one, 0)), default="")
    return Seat(version=version, spot=mix.spot and firm >= mix.on_demand, zone=zone)


def may_go(mix: Mix, seat: Seat, taken: Sequence[Seat]) -> bool:
    """Whether taking this one away keeps the floor; the last resort where it does not is the caller's."""
    return seat.spot or not mix.spot or sum(not one.spot for one in taken) > mix.on_demand
