"""What labels of one's own traffic add to the score: a small regression about the shipped one.

Pure. The labels' gain is fitted by the shipped score and by all columns, held back by a penalty: towards a
slope of the score that is believed before any label is seen, and towards none of the columns. The penalty is
the one of PENALTIES whose predictions of left-out labels err least. Where labels tell nothing, the shipped
order remains; without that belief their noise turned it round now and then.
"""

import io
from typing import Self

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
LEAST_LABELS = 20
_TRUST = 0.2  # the correlation of the shipped score with the gain that is believed beforehand
_ROOM = 0.125  # of its slope about that
_KEPT = ("mean", "spread", "level", "unit", "slopes", "ranks")


class Feedback:
    """Scores by the shipped score and what labels add to it."""

    def __init__(self, columns: NDArray[np.float32], scores: Doubles, gain: Doubles) -> None:
        """Fit `gain` (n,) of n labelled queries with `columns` (n, c) and shipped `scores` (n,).

        Raises ValueError under LEAST_LABELS labels.
        """
        if len(gain) < LEAST_LABELS:
            raise ValueError(f"feedback needs at least {LEAST_LABELS} labelled queries, not {len(gain)}")
        self._mean, self._spread = columns.mean(axis=0), columns.std(axis=0) + 1e-6
        self._spread *= np.sqrt(columns.shape[1])  # all columns together weigh like one
        self._level, self._unit = float(scores.mean()), float(scores.std()) + 1e-6
        x = self._expand(columns, scores)
        believed, room = np.zeros(x.shape[1]), np.ones(x.shape[1])
        believed[0], room[0] = _TRUST * gain.std() / 2.0, _ROOM
        centred = x - x.mean(axis=0)
        y = gain - gain.mean() - centred @ believed
        left, values, right = np.linalg.svd(centred * room, full_matrices=False)
        fits = [self._fit(left, values, y, penalty * len(y)) for penalty in PENALTIES]
        errors = [error for error, _ in fits]
        self._slopes: Doubles = believed + room * (right.T @ fits[int(np.argmin(errors))][1])
        self._ranks = np.sort(x @ self._slopes)

    @staticmethod
    def _fit(left: Doubles, values: Doubles, y: Doubles, penalty: float) -> tuple[float, Doubles]:
        """Give the mean squared error of left-out predictions, and the slopes along the axes."""
        shrunk = values**2 / (values**2 + penalty)
        rest = y - left @ (shrunk * (left.T @ y))
        leverage = (left**2) @ shrunk + 1 / len(y)
        error = float(np.mean((rest / np.maximum(1e-3, 1 - leverage)) ** 2))
        return error, values / (values**2 + penalty) * (left.T @ y)

    def packed(self) -> bytes:
        """Give what was learnt as bytes, for ``unpacked``."""
        file = io.BytesIO()
        kept = {name: getattr(self, f"_{name}") for name in _KEPT}
        np.savez(file, allow_pickle=False, **kept)
        return file.getvalue()

    @classmethod
    def unpacked(cls, data: bytes) -> Self:
        """Give what was packed. Raises ValueError or KeyError where it is something else."""
        found = cls.__new__(cls)
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            for name in _KEPT:
                values = file[name]
                setattr(found, f"_{name}", values if values.ndim else float(values))
        return found

    def _expand(self, columns: NDArray[np.float32], scores: Doubles) -> Doubles:
        base = 2.0 * (scores - self._level) / self._unit
        return np.column_stack([base, (columns - self._mean) / self._spread])

    def score(self, columns: NDArray[np.float32], scores: Doubles) -> Doubles:
        """Give scores in [0, 1], (m,): the rank among the labelled queries, between them by nearness."""
        raw = self._expand(columns, scores) @ self._slopes
        reach = self._ranks[-1] - self._ranks[0] + 1e-9
        knots = np.concatenate([[self._ranks[0] - reach], self._ranks, [self._ranks[-1] + reach]])
        return np.interp(raw, knots + np.arange(len(knots)) * 1e-12, np.linspace(0.0, 1.0, len(knots)))
