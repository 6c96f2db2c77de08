"""``switchgear route``: score queries offline, replay a stream, calibrate on labels, what if.

All files are JSONL, one object a line; "-" is stdin or stdout. No configuration and no network is needed.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from gateway.commands.base import CommandError
from gateway.scoring import Scorer, ScoringError
from routing import complexity
from routing.complexity import ShareController
from routing.embedding import load_facts
from routing.forecast import Known, forecast, picture

Outcome = Annotated[float, Meta(ge=0, le=1)]
# Half of a character beyond the first 65,536 without the other half: what binary data becomes in JSON.
_HALF = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


class Row(msgspec.Struct):
    """One line of a file; `id` and one of `prompt` and `messages`, and the outcomes where they are needed."""

    id: str | int
    prompt: str | None = None
    messages: list[Any] | None = None
    small_score: Outcome | None = None
    large_score: Outcome | None = None


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    score = actions.add_parser("score", help="score queries: higher gains more from the large model")
    score.add_argument("--feedback", metavar="F", help="labelled queries of your traffic, as for calibrate")
    score.set_defaults(run=_score)
    replay = actions.add_parser("replay", help="route queries in order, as live traffic")
    replay.set_defaults(run=_replay)
    calibrate = actions.add_parser(
        "calibrate", help="find the threshold for a goal on queries with small_score and large_score"
    )
    calibrate.set_defaults(run=_calibrate)
    what_if = actions.add_parser(
        "what-if", help="share, quality and cost that an objective would give, with the curve"
    )
    what_if.add_argument("--picture", metavar="F", help="also draw the curve, as SVG")
    what_if.add_argument(
        "--costs", type=_costs, metavar="X,Y", help="USD of a request of each tier, cheapest first"
    )
    what_if.set_defaults(run=_what_if)
    for action in (score, replay, calibrate, what_if):
        action.add_argument("--in", dest="source", metavar="F", required=True, help="JSONL to read")
        action.add_argument("--grade", choices=("fast", "precise"), default="fast")
        action.add_argument("--engine", metavar="DIR", type=Path, default=Path(".engine"),
                            help="the engine's environment, for precise (default: %(default)s)")  # fmt: skip
        action.add_argument("--encoder", metavar="DIR", type=Path,
                            default=Path(".switchgear/models/embed"),
                            help="the embedding model, for precise (default: %(default)s)")  # fmt: skip
    for action in (score, replay, what_if):
        action.add_argument("--out", metavar="F", required=True, help="JSONL to write")
    for action in (replay, calibrate, what_if):
        goal = action.add_mutually_exclusive_group(required=True)
        goal.add_argument(
            "--large-share", type=_share, metavar="X", help="share of queries for the large model"
        )
        goal.add_argument("--quality", type=_share, metavar="X", help="share of the large model's quality")
        if action is what_if:
            goal.add_argument("--cost", type=_cost, metavar="USD", help="cost of a request, in the mean")


def _score(options: argparse.Namespace) -> int:
    with _scorer(options) as scorer, _writer(options.out) as out:
        if options.feedback is not None:
            labelled = list(_rows(options.feedback))
            small, large = _outcomes(labelled, options.feedback)
            scorer.learn([_text(row) for row in labelled], large - small)
        for rows, scores in _scored(options.source, scorer):
            for row, score in zip(rows, scores, strict=True):
                _write(out, {"id": row.id, "score": round(float(score), 6)})
    return 0


def _replay(options: argparse.Namespace) -> int:
    facts = load_facts()
    share = options.large_share
    if share is None:
        share = complexity.share_for_quality(facts.quality_by_share, options.quality)
    controller = ShareController.start(share, facts.score_quantiles)
    with _scorer(options) as scorer, _writer(options.out) as out:
        for rows in _batches(options.source, scorer):
            found = scorer.needs([_text(row) for row in rows])
            for row, score, needed in zip(rows, *found, strict=True):
                choice = controller.decide(float(needed))
                tier = "large" if choice.above else "small"
                threshold = round(choice.threshold, 6)
                _write(
                    out, {"id": row.id, "score": round(float(score), 6), "threshold": threshold, "tier": tier}
                )
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    rows, scores = [], []
    with _scorer(options) as scorer:
        for some, values in _scored(options.source, scorer):
            rows += some
            scores += values.tolist()
    small, large = _outcomes(rows, options.source)
    goal = (
        {"quality": options.quality} if options.large_share is None else {"large_share": options.large_share}
    )
    found = complexity.calibrate(scores, small.tolist(), large.tolist(), **goal)
    _write(sys.stdout.buffer, msgspec.to_builtins(found))
    return 0


def _what_if(options: argparse.Namespace) -> int:
    rows, scores = [], []
    with _scorer(options) as scorer:
        for some, values in _scored(options.source, scorer):
            rows += some
            scores += values.tolist()
    if not rows:
        raise CommandError(f"{options.source}: holds no rows")
    labelled = all(row.small_score is not None and row.large_score is not None for row in rows)
    aims = {
        "large_share": options.large_share,
        "quality": options.quality,
        "cost_per_request_usd": options.cost,
    }
    aim = next((name, value) for name, value in aims.items() if value is not None)
    facts = load_facts()
    try:
        found = forecast(
            aim,
            np.array(scores),
            _outcomes(rows, options.source) if labelled else None,
            Known(facts.quality_by_share, facts.quality_spread),
            options.costs,
        )
    except ValueError as error:
        raise CommandError(f"--cost: {error}; give them with --costs") from None
    with _writer(options.out) as out:
        _write(out, msgspec.to_builtins(found))
    if options.picture is not None:
        with _writer(options.picture) as out:
            out.write(picture(found).encode())
    return 0


@contextmanager
def _scorer(options: argparse.Namespace) -> Iterator[Scorer]:
    try:
        scorer = (
            Scorer.precise(options.engine, options.encoder) if options.grade == "precise" else Scorer.fast()
        )
        yield scorer
    except ScoringError as error:
        raise CommandError(str(error)) from None


def _scored(source: str, scorer: Scorer) -> Iterator[tuple[list[Row], NDArray[np.float64]]]:
    for rows in _batches(source, scorer):
        yield rows, scorer.scores([_text(row) for row in rows])


def _batches(source: str, scorer: Scorer) -> Iterator[list[Row]]:
    rows = _rows(source)
    while some := list(islice(rows, scorer.batch)):
        yield some


def _text(row: Row) -> str:
    return complexity.query_text(row.prompt if row.messages is None else row.messages)


def _rows(source: str) -> Iterator[Row]:
    """Yield the rows of a file. Raises CommandError that names the file, the line and the field."""
    decode = msgspec.json.Decoder(Row).decode
    with _opened(source, "rb", sys.stdin.buffer) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = decode(_HALF.sub(rb"\\ufffd", line) if b"\\u" in line else line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise CommandError(f"{source}, line {number}: {error}") from None
            if (row.prompt is None) == (row.messages is None):
                raise CommandError(f"{source}, line {number}: give either `prompt` or `messages`")
            yield row


def _outcomes(rows: Sequence[Row], source: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    for number, row in enumerate(rows, 1):
        if row.small_score is None or row.large_score is None:
            raise CommandError(
                f"{source}, row {number} ({row.id}): `small_score` and `large_score` are needed"
            )
    if not rows:
        raise CommandError(f"{source}: holds no rows")
    return np.array([row.small_score for row in rows]), np.array([row.large_score for row in rows])


@contextmanager
def _writer(target: str) -> Iterator[IO[bytes]]:
    with _opened(target, "wb", sys.stdout.buffer) as file:
        yield file


@contextmanager
def _opened(path: str, mode: str, standard: IO[bytes]) -> Iterator[IO[bytes]]:
    if path == "-":
        yield standard
        return
    try:
        file = open(path, mode)  # noqa: SIM115 - closed below; only the opening is what may fail here
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    with file:
        yield file


def _write(out: IO[bytes], row: object) -> None:
    out.write(msgspec.json.encode(row) + b"\n")


def _costs(text: str) -> list[float]:
    try:
        values = [_cost(one) for one in text.split(",")]
    except ValueError:
        values = []
    if len(values) < 2 or values != sorted(values):
        raise argparse.ArgumentTypeError(f"{text} is not two or more costs, cheapest first")
    return values


def _cost(text: str) -> float:
    value = float(text)
    if not (isfinite(value) and value >= 0.0):
        raise argparse.ArgumentTypeError(f"{text} is not a cost of 0 or more")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} does not lie in [0, 1]")
    return value
