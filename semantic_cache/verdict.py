"""What a judge comes to. Pure."""

import math
from typing import Literal

import msgspec

from semantic_cache.near import Known
from semantic_cache.verify import Evidence

Repeat = Literal["serve", "check", "ask"]
"""Of an exact repeat: give the kept answer; give it, and ask beside; ask."""


class Verdict(msgspec.Struct, frozen=True):
    """What to do with a query. `score` is the log odds that `entry`'s answer is right."""

    serve: bool
    audit: bool
    score: float
    answer: str
    entry: Known | None
    cosine: float = 0.0
    examined: tuple[tuple[str, Evidence], ...] = ()

    @property
    def told(self) -> str:
        """The verdict in a word: ``audited`` is a hit that is asked upstream again."""
        if not self.serve:
            return "refused" if self.entry is not None else "nothing_near"
        return "audited" if self.audit else "served"


UNDECIDED = Verdict(False, False, -math.inf, "", None)
