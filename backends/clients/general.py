"""The client for TLS and for strange servers: aiohttp behind the same seam."""

import asyncio
import contextlib

import aiohttp
from yarl import URL

from backends.clients.base import (
    ConnectFailed,
    ConnectionBroken,
    Outgoing,
    Pulse,
    ReplyTimeout,
    ReplyTooLarge,
    Taker,
    Withdrawn,
)
from backends.clients.plain import CONNECTIONS_PER_ORIGIN


class GeneralReply:
    """An aiohttp response as a ``Reply``."""

    def __init__(
        self, response: aiohttp.ClientResponse, request: Outgoing, opened: "set[GeneralReply]"
    ) -> None:
        self._response = response
        self._opened = opened
        opened.add(self)
        self._deadline_s = request.deadline_s
        self._idle_s = request.idle_s
        self._pulse = Pulse() if request.events else None
        self._quiet_until: float | None = _until(request.first_byte_s, request.deadline_s)
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}

    @property
    def ended(self) -> bool:
        """See ``Reply.ended``."""
        return self._response.content.at_eof()

    async def read(self) -> bytes:
        """Wait for the next bytes; see ``Reply.read``."""
        if self._quiet_until is None:
            self._quiet_until = _until(self._idle_s, self._deadline_s)
        try:
            async with asyncio.timeout_at(self._quiet_until):
                data = await self._response.content.readany()
        except TimeoutError:
            raise ReplyTimeout("no byte in time within the answer") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionBroken(str(error) or type(error).__name__) from None
        if data and (self._pulse is None or self._pulse.beats(data)):
            self._quiet_until = None  # counted from the next read on: who lags is not the server
        return data

    def offer(self, taker: Taker) -> None:
        """See ``Reply.offer``; never done here."""

    async def read_all(self, limit_bytes: int) -> bytes:
        """Give the whole body; see ``Reply.read_all``."""
        pieces: list[bytes] = []
        total_bytes = 0
        while data := await self.read():
            total_bytes += len(data)
            if total_bytes > limit_bytes:
                raise ReplyTooLarge(f"a body over {limit_bytes} bytes")
            pieces.append(data)
        return b"".join(pieces)

    def close(self) -> None:
        """Give the connection back, or close it where the body is not complete."""
        self._opened.discard(self)
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    def withdraw(self, server: str) -> None:
        """End the answer where it is this server's; whoever reads is told so.

        aiohttp wakes nobody when it closes a connection by itself: a reader would wait out its time.
        """
        if str(self._response.url.origin()) == server and self._response.connection is not None:
            self._response.content.set_exception(Withdrawn("its machine is taken away"))
            self._response.connection.close()


class GeneralClient:
    """One aiohttp session; belongs to the event loop in which it was made."""

    def __init__(self) -> None:
        self._opened: set[GeneralReply] = set()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS_PER_ORIGIN),
            auto_decompress=True,
        )

    async def send(self, request: Outgoing) -> GeneralReply:
        """Send and wait for the head; see ``InferenceClient.send``."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        headers.setdefault("content-type", "application/json")
        try:
            async with asyncio.timeout_at(_until(request.first_byte_s, request.deadline_s)):
                response = await self._session.request(
                    request.method,
                    request.url,
                    data=request.body or None,
                    headers=headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=request.connect_s),
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise ConnectFailed(str(error)) from None
        except TimeoutError:
            raise ReplyTimeout("no byte in time before the answer") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionBroken(str(error) or type(error).__name__) from None
        return GeneralReply(response, request, self._opened)

    def withdraw(self, url: str) -> None:
        """Break every answer of the server of the url; see ``InferenceClient.withdraw``."""
        server = str(URL(url).origin())
        for reply in list(self._opened):
            reply.withdraw(server)

    async def close(self) -> None:
        """Close the session."""
        with contextlib.suppress(aiohttp.ClientError):
            await self._session.close()


def _until(silence_s: float, deadline_s: float) -> float:
    return min(asyncio.get_running_loop().time() + silence_s, deadline_s)
