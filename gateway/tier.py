"""The semantic tier of one process: switched on and off by the settings, and what is done for it in turns."""

from collections.abc import Callable, Iterable

from gateway.batching import Batching
from gateway.kept import Kept
from gateway.likeness import Keep, Likeness
from gateway.settings import CacheSettings, ModelSettings
from gateway.telemetry import Telemetry

LEARNS_S = 0.5
HEARS_S = 0.1  # what other gateways tell
RESTS_S = 1.0


class Tier:
    """What it knows stays while the process lives, also while it is switched off."""

    def __init__(
        self,
        batching: Batching,
        telemetry: Telemetry,
        draw: Callable[[], float],
        keep: Keep,
        kept: Kept,
    ) -> None:
        self._parts = batching, telemetry, draw, keep
        self._kept = kept
        self._likeness: Likeness | None = None

    def adopt(self, cache: CacheSettings, models: Iterable[ModelSettings]) -> None:
        """Switch it on or off."""
        if cache.semantic is None or not cache.exact_ttl_s:
            self._kept.likeness = None
            return
        if self._likeness is None:
            self._likeness = Likeness(*self._parts)
        self._likeness.adopt(cache.semantic, models)
        self._kept.likeness = self._likeness

    def period_s(self) -> float:
        """How often it is to ``settle``: while it is off there is nothing to learn, alone nothing to hear."""
        if self._kept.likeness is None:
            return RESTS_S
        return LEARNS_S if self._kept.tell is None else HEARS_S

    async def settle(self) -> None:
        """Learn from what was answered, and hear complaints of other gateways."""
        await self._kept.hear()
        if self._likeness is not None:
            await self._likeness.settle()

    async def look(self) -> None:
        """See whether the texts in Redis are there."""
        if self._likeness is not None:
            await self._likeness.look()

    async def save(self) -> None:
        """Keep on disk what is known."""
        if self._likeness is not None:
            await self._likeness.save()

    async def load(self, now_s: float) -> None:
        """Begin with what was kept."""
        if self._likeness is not None:
            await self._likeness.load(now_s)

    def audit_due(self) -> bool:
        """Whether any audit waits."""
        return self._likeness is not None and self._likeness.audit_due()

    async def audit(self) -> None:
        """Run the audits that wait."""
        if self._likeness is not None:
            await self._likeness.audit_once()
