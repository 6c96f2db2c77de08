"""An event for who may have to wait, and mostly has not."""

import asyncio


class Signal:
    """An event that is made only where somebody waits for it: most requests come whole."""

    __slots__ = ("_event", "_told")

    def __init__(self) -> None:
        self._told = False
        self._event: asyncio.Event | None = None

    def set(self) -> None:
        """See ``asyncio.Event.set``."""
        self._told = True
        if self._event is not None:
            self._event.set()

    def clear(self) -> None:
        """See ``asyncio.Event.clear``."""
        self._told = False
        if self._event is not None:
            self._event.clear()

    async def wait(self) -> None:
        """See ``asyncio.Event.wait``."""
        if not self._told:
            if self._event is None:
                self._event = asyncio.Event()
            await self._event.wait()
