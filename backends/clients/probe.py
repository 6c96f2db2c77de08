"""Probes that go by the same clients as the requests."""

import asyncio
from collections.abc import Mapping

from backends.clients.base import ClientError, ConnectFailed, InferenceClient, Outgoing, ReplyTimeout
from backends.probing import ProbeReply

BODY_LIMIT_BYTES = 4 * 1024 * 1024


class ClientProbe:
    """Asks by the same clients as the requests; see ``backends.probing.Probe``."""

    def __init__(self, client: InferenceClient) -> None:
        self._client = client

    async def __call__(
        self, url: str, headers: Mapping[str, str], timeout_s: float, body: bytes | None = None
    ) -> ProbeReply:
        pairs = [(name.encode(), value.encode()) for name, value in headers.items() if name != "content-type"]
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        request = Outgoing(
            url, body or b"", pairs, method="GET" if body is None else "POST", deadline_s=deadline_s
        )
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self._client.send(request)
                try:
                    return ProbeReply(reply.status, await reply.read_all(BODY_LIMIT_BYTES))
                finally:
                    reply.close()
        except ConnectFailed as error:
            raise ConnectionRefusedError(str(error)) from None
        except ReplyTimeout as error:
            raise TimeoutError(str(error)) from None
        except ClientError as error:
            raise OSError(str(error)) from None
