"""What both peers are given and give back; it runs in their environments, on numpy alone.

A run is one JSON object on the command line: ``questions`` (JSONL in order), ``texts`` (a JSON list), its
``vectors`` (.npy), ``threshold``, ``out`` (JSONL of decisions), ``folder`` and ``port`` (of Redis).
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Row = dict[str, Any]


def prompt_of(row: Row) -> str:
    """Give the words of a request as a cache reads them that takes all messages for one text."""
    scope = row.get("scope") or {}
    return str(scope.get("system") or "") + str(row["text"])


class Run:
    """One stream at one threshold."""

    def __init__(self) -> None:
        given = json.loads(sys.argv[1])
        self.threshold: float = given["threshold"]
        self.folder: str = given["folder"]
        self.port: int = given["port"]
        self._out = Path(given["out"])
        with Path(given["questions"]).open(encoding="utf-8") as lines:
            self.rows: list[Row] = [json.loads(line) for line in lines]
        texts = json.loads(Path(given["texts"]).read_text(encoding="utf-8"))
        vectors: Vectors = np.load(given["vectors"], mmap_mode="r")
        self.vector_of: dict[str, Vectors] = dict(zip(texts, vectors, strict=True))

    def decide(self, ask: Callable[[Row], str | None], keep: Callable[[Row], None]) -> None:
        """Ask for each question in turn; what is not served is kept, its answer being its id."""

        def decisions() -> Iterator[str]:
            for row in self.rows:
                served = ask(row)
                if served is None:
                    keep(row)
                yield json.dumps({"id": row["id"], "hit": served is not None, "served": served}) + "\n"

        with self._out.open("w", encoding="utf-8") as out:
            out.writelines(decisions())
