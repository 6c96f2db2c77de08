"""A server that says exactly the bytes it is told to, in the same event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable


class Peer:
    """One request that came in whole, and the way to answer it; ``connection`` counts from 0."""

    def __init__(
        self, connection: int, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connection, self.request = connection, request
        self._reader, self._writer = reader, writer

    async def say(self, *pieces: bytes) -> None:
        """Write the pieces, a turn of the loop between them."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            await asyncio.sleep(0)

    async def answer(self, body: bytes = b"ok", *headers: bytes) -> None:
        """Write a good answer."""
        head = b"".join([b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n" % len(body), *headers, b"\r\n"])
        await self.say(head + body)

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()

    def reset(self) -> None:
        """Reset the connection."""
        self._writer.transport.abort()

    async def left(self) -> None:
        """Wait until the other side has closed."""
        with contextlib.suppress(OSError):
            while await self._reader.read(65536):
                pass


@contextlib.asynccontextmanager
async def peer(behave: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve in the block; gives the URL. ``behave`` is called for each request."""
    writers: list[asyncio.StreamWriter] = []
    tasks: list[asyncio.Task[None] | None] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(writers)
        writers.append(writer)
        tasks.append(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                await behave(Peer(number, head + await reader.readexactly(length), reader, writer))
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*filter(None, tasks))
