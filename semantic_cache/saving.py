"""The semantic tier on disk: one file of frames, each a length and a message; see ``SemanticCache.frames``.

Written whole, beside the old one, and put in its place; read as far as it is sound. A file of another
version, or of another embedding, is not read: its numbers would mean nothing here.
"""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from semantic_cache.stores.base import Alias, Entry

_VERSION = 2


class Head(msgspec.Struct, frozen=True, tag=True):
    """The first frame."""

    version: int
    embedding: str


class Answer(msgspec.Struct, frozen=True, tag=True):
    """A kept answer."""

    key: bytes
    entry: Entry


class Text(msgspec.Struct, frozen=True, tag=True):
    """A text that leads to one."""

    scope: bytes
    id: str
    answer: str
    text: str
    vector: bytes
    owner: str
    worth: float
    stored_s: float
    expires_s: float
    label: int = 0  # in the graph of its scope

    @classmethod
    def of(cls, scope: bytes, alias: Alias, label: int = 0, *, plain: bool = False) -> "Text":
        """Pack an alias; `plain`: without its vector."""
        fields = msgspec.structs.asdict(alias)
        vector = b"" if plain else alias.vector.tobytes()
        return cls(scope=scope, label=label, **{**fields, "vector": vector})

    def alias(self, vector: bytes | None = None) -> Alias:
        """Unpack it; `vector` where it was left out."""
        fields = msgspec.structs.asdict(self)
        del fields["scope"], fields["label"]
        return Alias(**{**fields, "vector": np.frombuffer(vector or self.vector, np.float32)})


class Linked(msgspec.Struct, frozen=True, tag=True):
    """The graph over the texts of a scope, behind all of them."""

    scope: bytes
    graph: bytes


class Learned(msgspec.Struct, frozen=True, tag=True):
    """What the judge of a route has learned."""

    route: str
    state: dict[str, Any]


class OwnFile:
    """A file that one process of its directory writes: the first that asked, until it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def mine(self) -> bool:
        """Tell whether this process is the one. Raises OSError."""
        if self._lock is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._lock = lock
        return True


Frame = Head | Answer | Text | Linked | Learned
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode


def head(embedding: str) -> Head:
    """Give the first frame of what was kept by an embedding of this name."""
    return Head(_VERSION, embedding)


def packed(frame: Frame) -> bytes:
    """Write a frame."""
    message = _encode(frame)
    return len(message).to_bytes(4, "big") + message


def write(path: Path, frames: list[bytes]) -> None:
    """Put a file in place. Raises OSError; the old one stays then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.writelines(frames)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def read(path: Path) -> Iterator[Frame]:
    """Give the frames of a file up to the first that is broken; none where there is no file."""
    try:
        data = memoryview(path.read_bytes())
    except OSError:
        return
    at = 0
    while at + 4 <= len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            return
        try:
            frame = _decode(data[at + 4 : end])
        except msgspec.DecodeError:
            return
        yield frame
        at = end
