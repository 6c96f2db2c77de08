"""Embeddings of many clients in one upstream call.

- While no call of a kind is under way, a request goes out at once and alone: an idle model adds no latency.
  What arrives meanwhile is gathered until a call ends or the batch is full, for ``batch_window_ms`` at most.
- Joined are requests that differ in nothing but their input: one model, one band, the same other members.
- One bad input must not fail the others: where the joined call is refused (4xx), everybody is asked alone.
- Usage is shared out by the size of the inputs; the shares add up to what the upstream counted.
- Who leaves is left out; when nobody is left the upstream call is aborted.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Raw

from backends.clients.base import ReplyTimeout
from gateway.attempts import Attempts
from gateway.errors import ApiError, UpstreamRefused, translate
from gateway.openai.answers import WholeReceiver
from gateway.openai.events import StreamBroken
from gateway.settings import ModelSettings
from gateway.trip import Call, Deliver

MAX_INPUTS = 128
MAX_INPUT_BYTES = 512 * 1024
ANSWER_LIMIT_BYTES = 64 * 1024 * 1024

Fields = dict[str, Raw]
Kind = tuple[object, ...]

_fields = msgspec.json.Decoder(Fields).decode
_list = msgspec.json.Decoder(list[Raw]).decode
_rows = msgspec.json.Decoder(list[Fields]).decode
_encode = msgspec.json.Encoder().encode


class Usage(msgspec.Struct):
    """What an embedding call used."""

    prompt_tokens: int = 0


class Member(msgspec.Struct, eq=False):
    """One client's request in a batch; its answer is None where it must be asked alone."""

    call: Call
    inputs: list[Raw]
    size_bytes: int
    joined_s: float
    answer: asyncio.Future[bytes | None]


class Batch(msgspec.Struct, eq=False):
    """Requests that wait for each other, then for one answer."""

    kind: Kind
    fields: Fields
    members: list[Member] = []
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether nothing more should join."""
        inputs = sum(len(member.inputs) for member in self.members)
        return inputs >= MAX_INPUTS or sum(one.size_bytes for one in self.members) >= MAX_INPUT_BYTES


class Batching:
    """Attempts, for models with a window with their embeddings joined; the same ``run``."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self.now = attempts.now
        self.reads_prefix = attempts.reads_prefix
        self._windows_s: dict[str, float] = {}
        self._flying: Counter[Kind] = Counter()
        self._gathering: dict[Kind, Batch] = {}

    def configure(self, models: Iterable[ModelSettings]) -> None:
        """Set the models' windows."""
        self._windows_s = {
            one.name: one.batch_window_ms / 1000 for one in models if one.batch_window_ms is not None
        }

    async def run(self, call: Call, deliver: Deliver) -> None:
        """Deliver the answer; see ``Attempts.run``."""
        window_s = self._windows_s.get(call.model) if self._windows_s else None
        if window_s is None:
            await self._attempts.run(call, deliver)
        else:
            await self._gathered(call, deliver, window_s)

    async def _gathered(self, call: Call, deliver: Deliver, window_s: float) -> None:
        fields = _fields(call.body)
        common, inputs = joinable(fields)
        kind = (call.model, call.band, *common)
        if len(inputs) >= MAX_INPUTS or not inputs:
            await self._attempts.run(call, deliver)
        elif not self._flying[kind]:
            self._flying[kind] += 1
            try:
                await self._attempts.run(call, deliver)
            finally:
                self._landed(kind)
        else:
            size_bytes = sum(len(bytes(one)) for one in inputs)
            answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
            member = Member(call, inputs, size_bytes, self.now(), answer)
            await self._together(member, self._join(member, kind, fields, window_s), deliver)

    def _join(self, member: Member, kind: Kind, fields: Fields, window_s: float) -> Batch:
        batch = self._gathering.get(kind)
        if batch is None:
            batch = self._gathering[kind] = Batch(kind, fields, members=[])
            batch.timer = asyncio.get_running_loop().call_later(window_s, self._depart, batch)
        batch.members.append(member)
        if batch.full:
            self._depart(batch)
        return batch

    async def _together(self, member: Member, batch: Batch, deliver: Deliver) -> None:
        """Wait for the batch's answer and deliver this member's part."""
        call = member.call
        left_s = call.deadline_s - self.now()
        try:
            async with asyncio.timeout(left_s if left_s < 1e9 else None):
                answer = await member.answer
        except TimeoutError:
            raise ReplyTimeout("the request's own time is over") from None
        finally:
            batch.members.remove(member)
            if not batch.members:
                self._give_up(batch)
        if answer is None:
            await self._attempts.run(call, deliver)
            return
        call.receiver.begin()
        call.receiver.feed(answer)
        await deliver(call.receiver.finish())

    def _depart(self, batch: Batch) -> None:
        """Send what is gathered."""
        if self._gathering.get(batch.kind) is batch:
            del self._gathering[batch.kind]
        if batch.timer is not None:
            batch.timer.cancel()
        if batch.members and batch.task is None:
            self._flying[batch.kind] += 1
            batch.task = asyncio.create_task(self._fly(batch))

    def _give_up(self, batch: Batch) -> None:
        """Nobody waits any more."""
        if batch.task is not None:
            batch.task.cancel()
        else:
            self._depart(batch)

    def _landed(self, kind: Kind) -> None:
        self._flying[kind] -= 1
        if not self._flying[kind]:
            del self._flying[kind]
        waiting = self._gathering.get(kind)
        if waiting is not None:
            self._depart(waiting)

    async def _fly(self, batch: Batch) -> None:
        """Make the one call and hand out its answer, or its failure."""
        members = list(batch.members)
        call = joined(batch.fields, members, self.now())
        pieces: list[bytes] = []

        async def deliver(piece: bytes) -> bool:
            pieces.append(piece)
            return True

        try:
            await self._attempts.run(call, deliver)
            answers: Sequence[bytes | None] = split(b"".join(pieces), members)
        except (UpstreamRefused, StreamBroken):
            answers = [None] * len(members)
        except Exception as error:
            for member in members:
                if not member.answer.done():
                    member.answer.set_exception(_copy(error))
            return
        finally:
            self._landed(batch.kind)
        for member, answer in zip(members, answers, strict=True):
            if answer is not None:
                trip, own = call.trip, member.call.trip
                own.tried.extend(trip.tried)
                own.tries.extend(trip.tries)
                own.upstream_s = trip.upstream_s
                own.queue_s = self.now() - member.joined_s - trip.upstream_s
            if not member.answer.done():
                member.answer.set_result(answer)


def joinable(fields: Fields) -> tuple[Kind, list[Raw]]:
    """Give what requests must have in common to be joined, and the inputs; none that cannot be joined."""
    given = fields.get("input", Raw(b"null"))
    inputs, ids = [given], False
    if bytes(given).startswith(b"["):
        inputs = _list(given)
        ids = bool(inputs) and not bytes(inputs[0]).startswith(b'"')
        if ids and not bytes(inputs[0]).startswith(b"["):
            inputs = [given]  # one prompt as token ids
    rest = sorted((name, bytes(raw)) for name, raw in fields.items() if name not in ("input", "user"))
    return (ids, *rest), inputs


def joined(fields: Fields, members: Sequence[Member], now_s: float) -> Call:
    """Make one call of several; the first one's name stands for all."""
    first = members[0].call
    inputs = [one for member in members for one in member.inputs]
    body = {**fields, "input": Raw(_encode(inputs))}
    body.pop("user", None)
    tokens = sum(member.call.query.prompt_tokens for member in members)
    return Call(
        model=first.model,
        path=first.path,
        body=_encode(body),
        headers=first.headers,
        receiver=WholeReceiver(first.model, limit_bytes=ANSWER_LIMIT_BYTES),
        query=msgspec.structs.replace(first.query, prompt_tokens=tokens),
        band=first.band,
        deadline_s=max(member.call.deadline_s for member in members),
        first_byte_s=first.first_byte_s,
        idle_s=first.idle_s,
        max_attempts=first.max_attempts,
        trace=first.trace,
    )


def split(body: bytes, members: Sequence[Member]) -> list[bytes]:
    """Give each member's part of an answer; raises StreamBroken where it has not one row for each input."""
    whole = _fields(body)
    try:
        rows = _rows(whole["data"])
        order = [int(bytes(row["index"])) for row in rows]
        usage = _fields(whole["usage"]) if "usage" in whole else {}
        tokens = msgspec.json.decode(whole["usage"], type=Usage).prompt_tokens if usage else 0
    except (KeyError, ValueError, msgspec.DecodeError) as error:
        raise StreamBroken(f"the answer has no rows and usage as asked ({error})") from None
    if sorted(order) != list(range(sum(len(member.inputs) for member in members))):
        raise StreamBroken("the answer has not one row for each input")
    rows = [row for _, row in sorted(zip(order, rows, strict=True), key=lambda pair: pair[0])]
    answers, start = [], 0
    for member, share in zip(members, shares(tokens, [one.size_bytes for one in members]), strict=True):
        own = rows[start : start + len(member.inputs)]
        start += len(own)
        part: dict[str, object] = {
            **whole,
            "data": [{**row, "index": index} for index, row in enumerate(own)],
        }
        if usage:
            part["usage"] = {**usage, "prompt_tokens": share, "total_tokens": share}
        answers.append(_encode(part))
    return answers


def shares(total: int, sizes: Sequence[int]) -> list[int]:
    """Share out a total by size, in whole numbers that add up to it (largest remainder)."""
    whole = sum(sizes)
    parts = [total * size // whole for size in sizes]
    by_rest = sorted(range(len(sizes)), key=lambda n: total * sizes[n] % whole, reverse=True)
    for number in by_rest[: total - sum(parts)]:
        parts[number] += 1
    return parts


def _copy(error: Exception) -> Exception:
    """Give an error of its own to each client: it may be given headers on its way."""
    api = translate(error)
    if isinstance(error, ApiError) or api.code != "internal_error":
        return type(api)(api.message, param=api.param, retry_after_s=api.retry_after_s)
    return error
