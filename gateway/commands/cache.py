"""``switchgear cache replay``: questions with known answers through the semantic cache's own judge."""

import argparse
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from gateway.commands.base import CommandError


class Answered(msgspec.Struct, frozen=True):
    """A line of the truth: questions with the same `cls` may be given the same answer."""

    id: str
    cls: str


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    replay = actions.add_parser("replay", help="say what would have been served, question by question")
    replay.add_argument(
        "--in", dest="questions", metavar="FILE", type=Path, required=True,
        help='the questions in order, JSONL or JSONL.gz: {"id", "text", "scope"?, "context"?}',
    )  # fmt: skip
    replay.add_argument(
        "--truth", metavar="FILE", type=Path, required=True, help='what each is the same as: {"id", "cls"}'
    )
    replay.add_argument(
        "--out", metavar="FILE", type=Path, required=True,
        help='the decisions, JSONL: {"id", "hit", "served", "audited", "score"}',
    )  # fmt: skip
    replay.add_argument(
        "--error-bound", metavar="X", type=_share, default=0.01, help="wrong hits / all queries, default 0.01"
    )
    replay.add_argument(
        "--precision-bound", metavar="X", type=_share, default=1.0,
        help="wrong hits / hits; not bounded by default",
    )  # fmt: skip
    replay.add_argument(
        "--seed", metavar="N", type=int, default=1, help="of the drawing of audits, default 1"
    )
    replay.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> int:
    from routing.embedding import StaticEmbedder
    from semantic_cache.judge import Judge
    from semantic_cache.learner import Learner
    from semantic_cache.ledger import Bounds
    from semantic_cache.prior import PRIOR
    from semantic_cache.replay import Question, replay

    classes = {line.id: line.cls for line in _lines(options.truth, Answered)}
    questions = list(_lines(options.questions, Question))
    unknown = next((question.id for question in questions if question.id not in classes), None)
    if unknown is not None:
        raise CommandError(f"{options.truth} does not say what {unknown!r} is the same as; add its line")
    embedder = StaticEmbedder.load()
    bounds = Bounds(error=options.error_bound, precision=options.precision_bound)
    judge = Judge(bounds, Learner(PRIOR), embedder.dimensions)
    decisions = replay(
        questions, lambda one, other: classes[one] == classes[other], judge, embedder.embed, options.seed
    )
    encode = msgspec.json.Encoder().encode
    try:
        with options.out.open("wb") as out:
            for decision in decisions:
                out.write(encode(decision) + b"\n")
    except OSError as error:
        raise CommandError(f"{options.out} cannot be written: {error.strerror}") from None
    return 0


def _lines(path: Path, kind: type[Any]) -> Iterator[Any]:
    """Give the lines of a file; raises CommandError with the line's number and the field."""
    decode = msgspec.json.Decoder(kind).decode
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                number += 1
                if line.strip():
                    yield decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{path}, line {number}: {error}") from None
    except (OSError, EOFError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from None


def _share(text: str) -> float:
    """Read a share above 0 and at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be above 0 and at most 1")
    return value
