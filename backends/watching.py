"""A collection of the API server, kept up to date: listed once, then watched.

What is known stays while the server is away, slow, or takes a permission back: old addresses are better than
none, and a dead one is found out by probes and requests. A watch that ends goes on where it was; one that is
too old (410), or that told nothing, not even its end, begins with a new list. ``failure`` says why what is
known may be old: from a failed step until the server is heard again.
"""

from collections.abc import Callable

from backends.clients.kubernetes import OPENED, SILENT, KubeApi, KubeError, Object

GONE = 410


class Watched:
    def __init__(self, api: KubeApi, path: str, heard: Callable[[], None], selector: str = "") -> None:
        """`heard()` is called after each change; it must not block."""
        self.items: dict[tuple[str, str], Object] = {}
        self._api, self._path, self._selector, self._heard = api, path, selector, heard
        self.failure: KubeError | None = None
        self._version = ""

    async def step(self) -> None:
        """Follow the collection until the server ends the watch. Raises KubeError."""
        try:
            await self._follow()
        except KubeError as error:
            if error.status in (GONE, SILENT):
                self._version = ""
            if error.status != GONE:
                self.failure = error
                raise
        else:
            self.failure = None

    async def _follow(self) -> None:
        if not self._version:
            await self._list()
        async for kind, one in self._api.watch(self._path, self._version, self._selector):
            if kind != OPENED:
                self.failure = None
                self._take(kind, one)
            elif self.failure is not None and self.failure.status != SILENT:
                self.failure = None  # it answers again; one that was silent must say something

    async def _list(self) -> None:
        items, version = await self._api.listed(self._path, self._selector)
        self.items = {_name(one): one for one in items}
        self._version = version
        self._heard()

    def _take(self, kind: str, one: Object) -> None:
        self._version = one["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return
        if kind == "DELETED":
            self.items.pop(_name(one), None)
        else:
            self.items[_name(one)] = one
        self._heard()


def _name(one: Object) -> tuple[str, str]:
    return one["metadata"].get("namespace", ""), one["metadata"]["name"]
