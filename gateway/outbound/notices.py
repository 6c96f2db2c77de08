"""The clouds' notices that a spot machine is about to be taken away, asked of its metadata service.

| cloud | asked | means a notice |
|---|---|---|
| aws | a session token, then `spot/instance-action` | 200 with `time`; 404: none |
| gcp | `instance/preempted` | `TRUE`; the machine stays for 30 s |
| azure | `scheduledevents` | an event of type `Preempt`, with `NotBefore` |

The service answers on a link-local address of the machine itself; `base_url` is for tests and proxies.
"""

import datetime
import email.utils
from collections.abc import Mapping
from typing import Any, Literal

import aiohttp
import msgspec

Cloud = Literal["aws", "gcp", "azure"]

BASES: Mapping[str, str] = {
    "aws": "http://169.254.169.254",
    "gcp": "http://metadata.google.internal",
    "azure": "http://169.254.169.254",
}
TIMEOUT_S = 2.0
GCP_NOTICE_S = 30.0


class NoMetadata(Exception):
    """The metadata service does not answer, or not as it should; the text says why."""


async def notice_s(cloud: Cloud, now_s: float, base_url: str | None = None) -> float | None:
    """Give how long this machine stays; None while nobody wants it back. Raises NoMetadata.

    ``now_s`` in seconds since the epoch.
    """
    base = base_url or BASES[cloud]
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            at_s = await ASK[cloud](session, base, now_s)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        said = str(error) or type(error).__name__
        raise NoMetadata(f"the metadata service of {cloud} does not answer: {said}") from None
    except (ValueError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise NoMetadata(f"the metadata service of {cloud} answers strangely: {error}") from None
    return None if at_s is None else max(at_s - now_s, 0.0)


async def _aws(session: aiohttp.ClientSession, base: str, _now_s: float) -> float | None:
    wish = {"x-aws-ec2-metadata-token-ttl-seconds": "300"}
    async with session.put(f"{base}/latest/api/token", headers=wish) as reply:
        reply.raise_for_status()
        token = await reply.text()
    headers = {"x-aws-ec2-metadata-token": token}
    async with session.get(f"{base}/latest/meta-data/spot/instance-action", headers=headers) as reply:
        if reply.status == 404:
            return None
        reply.raise_for_status()
        told: Any = msgspec.json.decode(await reply.read())
    return datetime.datetime.fromisoformat(told["time"]).timestamp()


async def _gcp(session: aiohttp.ClientSession, base: str, now_s: float) -> float | None:
    url = f"{base}/computeMetadata/v1/instance/preempted"
    async with session.get(url, headers={"metadata-flavor": "Google"}) as reply:
        reply.raise_for_status()
        return now_s + GCP_NOTICE_S if (await reply.text()).strip().upper() == "TRUE" else None


async def _azure(session: aiohttp.ClientSession, base: str, now_s: float) -> float | None:
    url = f"{base}/metadata/scheduledevents?api-version=2020-07-01"
    async with session.get(url, headers={"metadata": "true"}) as reply:
        reply.raise_for_status()
        events: Any = msgspec.json.decode(await reply.read())["Events"]
    times = [one.get("NotBefore") for one in events if one["EventType"] == "Preempt"]
    if not times:
        return None
    dated = [email.utils.parsedate_to_datetime(one).timestamp() if one else now_s for one in times]
    return min(dated)


ASK = {"aws": _aws, "gcp": _gcp, "azure": _azure}
