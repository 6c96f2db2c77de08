"""One POST to an address that a customer named, and the guard that keeps it away from our own network.

Names are resolved once, by the connection itself, and only public addresses of the result are used: a name
that changes its mind between a check and the connection gains nothing. Redirects are not followed, proxies of
the environment not used, and of the answer only the status is read.
"""

import ipaddress
import socket
from collections.abc import Mapping

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.outbound.addresses import PRIVATE, private_literal, public

TIMEOUT_S = 10.0


class PostFailed(Exception):
    """No answer; the text says why, in our own words."""


async def post(url: str, headers: Mapping[str, str], body: bytes, *, allow_private: bool) -> int:
    """Send and give the status of the answer, a redirect's too. Raises PostFailed."""
    if not allow_private and private_literal(url):
        raise PostFailed(PRIVATE)
    resolver = aiohttp.ThreadedResolver()
    connector = aiohttp.TCPConnector(
        resolver=resolver if allow_private else _PublicOnly(resolver), force_close=True, use_dns_cache=False
    )
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as reply,
        ):
            return reply.status
    except _NotPublic:
        raise PostFailed(PRIVATE) from None
    except TimeoutError:
        raise PostFailed(f"no answer within {TIMEOUT_S:.0f} s") from None
    except aiohttp.ClientConnectorCertificateError:
        raise PostFailed("the certificate is not valid") from None
    except aiohttp.ClientConnectorDNSError:
        raise PostFailed("the name cannot be resolved") from None
    except aiohttp.ClientConnectorError:
        raise PostFailed("the connection failed") from None
    except ValueError:  # aiohttp's own, for a URL; it wants names of letters and addresses of four numbers
        raise PostFailed("the address cannot be called") from None
    except (aiohttp.ClientError, OSError):
        raise PostFailed("the answer is not HTTP, or broke off") from None


class _NotPublic(Exception):
    """Nothing public among the addresses of a name."""


class _PublicOnly(AbstractResolver):
    """Gives the public addresses of a name."""

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        kept = [one for one in found if public(ipaddress.ip_address(one["host"].partition("%")[0]))]
        if not kept:
            raise _NotPublic
        return kept

    async def close(self) -> None:
        await self._inner.close()
