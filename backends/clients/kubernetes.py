"""Speaks to a Kubernetes API server: a few verbs, lists in pages, watches as lines of JSON.

Own, because it is the six calls below: the generated client brings 48 MB of modules and 41 MB of memory to
every gateway process. Every call has a time limit; the token is read anew for each: the kubelet replaces it.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PAGE = 500
SILENT = -1
OPENED = "OPENED"
Object = dict[str, Any]


class KubeError(OSError):
    """The API server refused, or did not answer (status 0); the text says what was asked and what it said.

    SILENT is the status of a watch that began and then told nothing, not even its end.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Patience(Struct, frozen=True):
    """How long the API server may take."""

    timeout_s: float = 10.0
    """Until an answer is whole, or a watch has begun."""
    watch_s: int = 60
    """A watch ends after this long and goes on where it was: so long may a dead connection stay unnoticed."""


class KubeApi:
    """One API server. Every method raises KubeError."""

    def __init__(
        self,
        url: str,
        token: Path | None = None,
        authority: Path | None = None,
        patience: Patience = Patience(),  # noqa: B008 - it is frozen
    ) -> None:
        """Connect at the first call; raises OSError for a certificate that cannot be read."""
        self._url, self._token, self._patience = url.rstrip("/"), token, patience
        self._ssl = ssl.create_default_context(cafile=authority) if authority is not None else True
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def of_pod(cls, environ: Mapping[str, str], patience: Patience) -> "KubeApi":
        """Give the API server of the cluster that this process is a pod of; raises KubeError outside."""
        host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise KubeError(0, "this is no pod of a cluster; name its API server in [kubernetes] api")
        name = f"[{host}]" if ":" in host else host
        return cls(f"https://{name}:{port}", ACCOUNT / "token", ACCOUNT / "ca.crt", patience)

    async def call(
        self, method: str, path: str, body: Object | None = None, query: Mapping[str, str] | None = None
    ) -> Object:
        """Ask once; gives the JSON object that came. A PATCH is a merge."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = None if body is None else msgspec.json.encode(body)
        timeout = aiohttp.ClientTimeout(total=self._patience.timeout_s)
        async with self._asked(method, path, data, kind, query or {}, timeout) as reply:
            found: Object = msgspec.json.decode(await reply.read())
            return found

    async def listed(self, path: str, selector: str = "") -> tuple[list[Object], str]:
        """Give all objects of a collection, and the version to watch it from."""
        items: list[Object] = []
        query = {"limit": str(PAGE), **({"labelSelector": selector} if selector else {})}
        while True:
            page = await self.call("GET", path, query=query)
            items += page.get("items") or []
            if not page["metadata"].get("continue"):
                return items, page["metadata"]["resourceVersion"]
            query["continue"] = page["metadata"]["continue"]

    async def watch(
        self, path: str, version: str, selector: str = ""
    ) -> AsyncGenerator[tuple[str, Object], None]:
        """Yield OPENED once the server agreed, then what changes after a version, until it ends the stream.

        A 410 wants a new list.
        """
        patience = self._patience
        query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(patience.watch_s)}
        query |= {"resourceVersion": version, **({"labelSelector": selector} if selector else {})}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=patience.watch_s + patience.timeout_s)
        async with self._asked("GET", path, None, "application/json", query, timeout) as reply:
            yield OPENED, {}
            rest = b""
            while piece := await _heard(reply, path):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event = msgspec.json.decode(line)
                    if event["type"] == "ERROR":
                        said = event["object"]
                        raise KubeError(int(said.get("code", 0)), f"watch {path}: {said.get('message')}")
                    yield event["type"], event["object"]

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def _asked(
        self, method: str, path: str, data: bytes | None, kind: str, query: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:  # fmt: skip
        """Give a reply that is well; everything that may go wrong becomes a KubeError."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        try:
            headers = {"content-type": kind, "accept": "application/json", **self._authorization()}
            async with (
                asyncio.timeout(self._patience.timeout_s) as begins,
                self._session.request(
                    method,
                    self._url + path,
                    data=data,
                    headers=headers,
                    params=query,
                    timeout=timeout,
                    ssl=self._ssl,
                ) as reply,
            ):
                if reply.status >= 400:
                    raise KubeError(reply.status, f"{method} {path}: {reply.status} {await _said(reply)}")
                begins.reschedule(None)
                yield reply
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, KeyError) as error:
            raise KubeError(0, f"{method} {path}: {type(error).__name__} {error}".strip()) from None

    def _authorization(self) -> dict[str, str]:
        if self._token is None:
            return {}
        try:
            return {"authorization": f"Bearer {self._token.read_text(encoding='ascii').strip()}"}
        except OSError as error:
            raise KubeError(0, f"the token {self._token} cannot be read: {error.strerror}") from None


async def _heard(reply: aiohttp.ClientResponse, path: str) -> bytes:
    """Give what comes next of a watch; nothing at its end."""
    try:
        return await reply.content.readany()
    except TimeoutError:
        raise KubeError(SILENT, f"watch {path}: silent beyond its end") from None


async def _said(reply: aiohttp.ClientResponse) -> str:
    """Give the message of a refusal, in short."""
    text = (await reply.content.read(4096)).decode(errors="replace")
    try:
        return str(msgspec.json.decode(text)["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return text[:200]
