"""What lasts beyond the process: named attributes of an object as plain values, and back. Pure."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np


class Lasting:
    """Gives and takes the attributes that ``LASTS`` names; arrays as bytes."""

    LASTS: ClassVar[tuple[str, ...]] = ()

    def state(self) -> dict[str, Any]:
        """Give what lasts."""
        values = {name: getattr(self, name) for name in self.LASTS}
        return {name: _plain(one) for name, one in values.items()}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take what ``state`` gave. Raises KeyError or ValueError where it does not fit."""
        for name in self.LASTS:
            mine, value = getattr(self, name), state[name]
            if isinstance(mine, np.ndarray):
                value = np.frombuffer(value, mine.dtype).reshape(mine.shape).copy()
            setattr(self, name, value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return value.item() if isinstance(value, np.generic) else value
