"""Which share of a model's traffic each of its versions has: the file's, until somebody shifts it.

What was shifted stands in SQL, one row a model with the shares before it: a rollback is one step, and a
second one takes it back. Every gateway on the database follows within seconds; while the database is away the
shares stay as they are. A row that names other versions than the file does not count.
"""

from collections.abc import Mapping

import msgspec
import sqlalchemy as sa

from gateway.settings import ModelSettings
from gateway.tables import rollouts
from gateway.tenancy.access import EVERYTHING
from gateway.tenancy.changes import Change

Shares = Mapping[str, float]
TOLERANCE = 1e-6


class WrongShares(ValueError):
    """The shares cannot be put in force; the text says why."""


class Rollout(msgspec.Struct, frozen=True):
    """The shares of one model, and those before; None before the first shift."""

    shares: Shares
    previous: Shares | None = None


class Rollouts:
    """What is in force in this process."""

    def __init__(self) -> None:
        self._shifted: Mapping[str, Rollout] = {}

    def adopt(self, shifted: Mapping[str, Rollout]) -> bool:
        """Take what the database says; tells whether it is new."""
        new, self._shifted = shifted != self._shifted, shifted
        return new

    def of(self, model: ModelSettings) -> Rollout:
        """Give the shares in force; none for a model without versions."""
        shifted, known = self._shifted.get(model.name), {one.name for one in model.versions}
        if shifted is not None and set(shifted.shares) == known:
            return shifted
        return Rollout({one.name: one.share for one in model.versions})

    def in_use(self, model: ModelSettings) -> dict[str, float]:
        """Give the versions that have any traffic, and their shares; "" is a model's without versions."""
        if not model.versions:
            return {"": 1.0}
        shares, for_keys = self.of(model).shares, {one.name for one in model.versions if one.keys}
        return {name: share for name, share in shares.items() if share or name in for_keys}


def checked(model: ModelSettings, shares: Shares) -> Shares:
    """Give the shares with a 0 for each version left out. Raises WrongShares."""
    known = [one.name for one in model.versions]
    if not known:
        raise WrongShares(f"the model {model.name!r} has no versions; add [[models.versions]]")
    for name, share in shares.items():
        if name not in known:
            raise WrongShares(f"{name!r} is no version of {model.name!r}; it has {', '.join(known)}")
        if not 0 <= share <= 1:
            raise WrongShares(f"the share of {name!r} must be between 0 and 1")
    if abs(sum(shares.values()) - 1.0) > TOLERANCE:
        raise WrongShares("the shares must add up to 1")
    return {name: shares.get(name, 0.0) for name in known}


def read(engine: sa.Engine) -> dict[str, Rollout]:
    """Give what was shifted, by model. Raises SQLAlchemyError."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(rollouts.c.model, rollouts.c.shares, rollouts.c.previous))
        return {model: Rollout(shares, previous) for model, shares, previous in rows}


def shift(change: Change, model: ModelSettings, before: Shares, after: Shares) -> None:
    """Put shares in force, and keep those before. Raises SQLAlchemyError."""
    connection = change.connection
    connection.execute(sa.delete(rollouts).where(rollouts.c.model == model.name))
    row = {"model": model.name, "shares": dict(after), "previous": dict(before), "changed_s": change.now_s}
    connection.execute(sa.insert(rollouts).values(**row))
    change.record("models.versions", (EVERYTHING, model.name), dict(before), dict(after))
