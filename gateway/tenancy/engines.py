"""Holds the ledger against the engines' own token counters.

An engine works on more tokens than are billed: losers of a hedge, answers that nobody waited for, its own
warm-up, other clients. It never works on fewer: billed tokens that no engine knows of are a fault. Counted
are rows that one replica alone served since its engine started, by the usage that the engine told.
"""

from collections.abc import Mapping

import msgspec
import sqlalchemy as sa

from backends.load import TokenCount
from gateway.tables import ledger


class EngineCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of one replica: as its engine counted them, and as the ledger has them."""

    replica: str
    since_s: float
    engine_prompt_tokens: int
    ledger_prompt_tokens: int
    engine_completion_tokens: int
    ledger_completion_tokens: int

    @property
    def well(self) -> bool:
        """Whether the engine knows of everything that is billed."""
        return (
            self.ledger_prompt_tokens <= self.engine_prompt_tokens
            and self.ledger_completion_tokens <= self.engine_completion_tokens
        )


def against_engines(engine: sa.Engine, counts: Mapping[str, TokenCount]) -> list[EngineCheck]:
    """Hold the ledger against what the engines of some replicas counted. Raises SQLAlchemyError."""
    with engine.connect() as connection:
        return [_check(connection, replica, count) for replica, count in sorted(counts.items())]


def _check(connection: sa.Connection, replica: str, count: TokenCount) -> EngineCheck:
    sums = (sa.func.sum(ledger.c.prompt_tokens), sa.func.sum(ledger.c.completion_tokens))
    row = connection.execute(
        sa.select(*sums).where(
            ledger.c.ts >= count.since_s,
            ledger.c.replicas == replica,
            ledger.c.source == "upstream",
            ledger.c.estimated.is_(False),
        )
    ).one()
    return EngineCheck(
        replica=replica,
        since_s=count.since_s,
        engine_prompt_tokens=count.prompt_tokens,
        ledger_prompt_tokens=int(row[0] or 0),
        engine_completion_tokens=count.generated_tokens,
        ledger_completion_tokens=int(row[1] or 0),
    )
