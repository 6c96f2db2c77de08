"""One request to one replica: what is sent, and what a status other than 200 means.

A client's own mistake is the client's to hear, and blames nobody; any other refusal may be one replica's.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from backends.clients.base import ClientError, InferenceClient, Outgoing, Reply
from backends.replica import Replica
from gateway.errors import ApiError, Overloaded, RateLimited, UpstreamFailed, translate
from gateway.judging import Judge
from gateway.openai.events import StreamBroken
from gateway.trip import Call, Try, UpstreamError

ERROR_BODY_LIMIT_BYTES = 256 * 1024
CLIENTS_OWN = (400, 409, 413, 422)
END_GRACE_S = 0.2


class Asking:
    """Sends by a client, with each replica's own credential."""

    def __init__(self, client: InferenceClient, judge: Judge, credentials: Mapping[str, bytes]) -> None:
        self._client = client
        self._judge = judge
        self._credentials = credentials

    async def send(self, call: Call, this: Try, replica: Replica) -> Reply:
        """Send; gives a reply with status 200. Raises UpstreamRefused or UpstreamError for any other."""
        reply = await self.ask(call, replica, replica.url + call.path, call.body)
        return reply if reply.status == 200 else await self.judged(call, this, reply)

    async def ask(self, call: Call, replica: Replica, url: str, body: bytes) -> Reply:
        """Send anything; gives a reply with any status."""
        headers = call.headers
        if call.trace is not None:
            headers = [*headers, *call.trace.headers(len(call.trip.tries))]
        credential = self._credentials.get(replica.id)
        if credential is not None:
            headers = [*headers, (b"authorization", credential)]
        return await self._client.send(
            Outgoing(
                url,
                body,
                headers,
                connect_s=call.connect_s,
                first_byte_s=call.first_byte_s,
                idle_s=call.idle_s,
                deadline_s=call.deadline_s,
                events=call.trail is not None,
            )
        )

    async def judged(self, call: Call, this: Try, reply: Reply) -> Reply:
        """Read a refusal and raise it: UpstreamRefused or UpstreamError."""
        try:
            body = await reply.read_all(ERROR_BODY_LIMIT_BYTES)
        except ClientError:
            body = b""  # the status says enough
        finally:
            reply.close()
        if reply.status in CLIENTS_OWN:
            self._judge.refused(call, this)
            raise UpstreamError(reply.status, body, reply.headers).refusal
        raise UpstreamError(reply.status, body, reply.headers)


def final(error: Exception, why: str = "") -> ApiError:
    """Give the client's view of the last failure, once own retries are used up."""
    if isinstance(error, UpstreamError):
        refusal = error.refusal
        if error.status == 429:
            return RateLimited(refusal.message, retry_after_s=refusal.retry_after_s)
        if error.status == 503:
            return Overloaded(refusal.message, retry_after_s=refusal.retry_after_s)
        if error.status in (401, 403, 404):
            return UpstreamFailed(
                f"The model's server does not serve this gateway (status {error.status}); "
                "check the replica's url, upstream_model and api_key_env."
            )
        return UpstreamFailed(f"The model's server failed with status {error.status}.{why}")
    if isinstance(error, StreamBroken):
        return UpstreamFailed(f"The model's server failed: {error}.{why}")
    final = translate(error)
    final.message += why
    return final


async def reach_end(reply: Reply) -> None:
    """Wait a moment for the end behind ``[DONE]``, so that the connection can be used again.

    The answer is whole already: nothing that goes wrong here matters, and the client's own ``[DONE]`` comes
    after this, so that a client which leaves upon it finds nothing left to abort.
    """
    if reply.ended:  # as nearly always: it came with the last words
        return
    with suppress(ClientError, TimeoutError):
        async with asyncio.timeout(END_GRACE_S):
            while await reply.read():
                pass
