"""HTTP clients towards replicas: the only importers of one."""

from collections.abc import Awaitable

from backends.clients.base import InferenceClient, Outgoing, Reply
from backends.clients.plain import PlainClient


class Clients:
    """Sends each request by the client that suits its scheme."""

    def __init__(self) -> None:
        self._plain = PlainClient()
        self._general: InferenceClient | None = None

    def send(self, request: Outgoing) -> Awaitable[Reply]:
        """Send and wait for the head of the answer; see ``InferenceClient.send``."""
        if request.url.startswith("http:"):
            return self._plain.send(request)
        if self._general is None:
            from backends.clients.general import GeneralClient  # a third of a second, seldom needed

            self._general = GeneralClient()
        return self._general.send(request)

    def withdraw(self, url: str) -> None:
        """End every exchange with the server of the url; see ``InferenceClient.withdraw``."""
        self._plain.withdraw(url)
        if self._general is not None:
            self._general.withdraw(url)

    async def close(self) -> None:
        """Close every connection."""
        await self._plain.close()
        if self._general is not None:
            await self._general.close()


__all__ = ["Clients", "InferenceClient", "Outgoing", "Reply"]
