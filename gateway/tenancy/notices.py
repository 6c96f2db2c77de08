"""The loops that watch budgets and tell webhooks: SQL in the books' thread, calls beside the requests."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import sqlalchemy as sa

from gateway.outbound.webhooks import PostFailed
from gateway.state.periods import spans
from gateway.tenancy import deliveries, webhooks
from gateway.tenancy.books import Books
from gateway.tenancy.deliveries import Parcel, State
from gateway.tenancy.watch import Watch

log = logging.getLogger("switchgear.notices")

Result = tuple[Parcel, int | None, str]


class Post(Protocol):
    """Sends; see ``gateway.outbound.webhooks.post``."""

    def __call__(
        self, url: str, headers: Mapping[str, str], body: bytes, *, allow_private: bool
    ) -> Awaitable[int]: ...


class Notices:
    """Alerts and messages of one process; ``allow_private`` lets webhooks lead into our own network.

    Without a master secret nothing can be signed: messages wait.
    """

    def __init__(
        self,
        books: Books,
        watch: Watch,
        master: bytes | None,
        post: Post,
        wall: Callable[[], float],
        count: Callable[[str, tuple[str, ...]], None],
    ) -> None:
        self.allow_private = False
        self._books = books
        self._master = master
        self._post = post
        self._wall = wall
        self._count = count
        self._watch = watch
        self._tidied = ""

    async def watch(self) -> None:
        """Write alerts of what is newly crossed. Raises SQLAlchemyError."""
        await self._books.with_engine(self._look)

    def signs(self) -> bool:
        """Whether messages can be signed, and so sent."""
        return self._master is not None

    async def deliver(self) -> None:
        """Send what is due, once, and note what came of it. Raises SQLAlchemyError."""
        master = self._master
        if master is None:
            return
        parcels = await self._books.with_engine(lambda engine: deliveries.claim(engine, self._wall()))
        if parcels:
            results = await asyncio.gather(*(self._send(master, parcel) for parcel in parcels))
            for state in await self._books.with_engine(lambda engine: self._settle(engine, results)) or ():
                self._count("switchgear_webhook_attempts_total", (_OUTCOMES[state],))

    def _look(self, engine: sa.Engine) -> None:
        now_s = self._wall()
        self._watch.look(engine, now_s)
        today = spans(now_s)["day"].label
        if today != self._tidied:
            with engine.begin() as connection:
                deliveries.forget(connection, now_s)
            self._tidied = today

    async def _send(self, master: bytes, parcel: Parcel) -> Result:
        body = parcel.body.encode()
        secret = webhooks.secret(master, parcel.endpoint_id)
        headers = webhooks.signed(secret, parcel.id, int(self._wall()), body)
        try:
            status = await self._post(parcel.url, headers, body, allow_private=self.allow_private)
        except PostFailed as error:
            return parcel, None, str(error)
        if 300 <= status < 400:
            return parcel, status, "a redirect, which is not followed"
        return parcel, status, "" if status < 300 else "an error status"

    def _settle(self, engine: sa.Engine, results: list[Result]) -> list[State]:
        now_s = self._wall()
        with engine.begin() as connection:
            states = [deliveries.settle(connection, *result, now_s) for result in results]
        for (parcel, status, error), state in zip(results, states, strict=True):
            if state == "given_up":
                log.warning(
                    "message %s to webhook %s is given up after %d attempts: %s (%s)",
                    parcel.id, parcel.endpoint_id, parcel.attempts, error, status,
                )  # fmt: skip
        return states


_OUTCOMES: dict[State, str] = {"delivered": "delivered", "pending": "failed", "given_up": "given_up"}
