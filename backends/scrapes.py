"""What the engines tell of themselves: their metrics, read now and then, as load and as figures."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from backends import probing
from backends.load import Figures, ReplicaLoad, read_figures, read_load

MUTE_S = 60.0
"""Until a replica without metrics is asked for them again."""


class Scrapes:
    """`loads` and `figures` are replaced, never changed in place."""

    def __init__(self, probe: probing.Probe, now: Callable[[], float]) -> None:
        self._probe, self._now = probe, now
        self.loads: Mapping[str, ReplicaLoad] = {}
        self.figures: Mapping[str, Figures] = {}
        self._mute_until_s: dict[str, float] = {}

    async def once(self, targets: Mapping[str, probing.Target], timeout_s: float) -> None:
        """Read them all; who gives none keeps its peace for a while."""
        now_s = self._now()
        ids = [id_ for id_ in targets if now_s >= self._mute_until_s.get(id_, now_s)]
        texts = await asyncio.gather(
            *(probing.ask_metrics(self._probe, targets[id_], timeout_s) for id_ in ids)
        )
        self._mute(id_ for id_, text in zip(ids, texts, strict=True) if text == "")
        read = {id_: text for id_, text in zip(ids, texts, strict=True) if text}
        self.loads = {
            id_: read_load(text, names)
            for id_, text in read.items()
            if (names := targets[id_].engine.load_metrics) is not None
        }
        self.figures = {id_: read_figures(text, targets[id_].engine.figures) for id_, text in read.items()}

    def _mute(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            self._mute_until_s[id_] = self._now() + MUTE_S
