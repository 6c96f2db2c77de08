"""``switchgear cache replay``: its contract, its errors, and what it keeps to on the shared streams."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.__main__ import main

STREAMS = Path("../shared/data/cache")
Row = dict[str, Any]


def stream(name: str, count: int) -> list[Row]:
    path = STREAMS / f"{name}_dev.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no shared stream {name}")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for _, line in zip(range(count), file, strict=False)]


def write(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def replay(folder: Path, rows: Sequence[Row], truth: Sequence[Row] | None = None, *more: str) -> list[Row]:
    bare = [{name: value for name, value in row.items() if name != "cls"} for row in rows]
    out = folder / "out.jsonl"
    questions = write(folder / "in.jsonl", bare)
    known = write(folder / "truth.jsonl", rows if truth is None else truth)
    arguments = ["--in", str(questions), "--truth", str(known), "--out", str(out), *more]
    assert main(["cache", "replay", *arguments]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def wrong(rows: Sequence[Row], decisions: Sequence[Row]) -> int:
    classes = {row["id"]: row["cls"] for row in rows}
    return sum(classes[one["id"]] != classes[one["served"]] for one in decisions if one["hit"])


def test_one_decision_a_question_in_order_and_served_from_the_past(tmp_path: Path) -> None:
    rows = stream("traps", 1500)
    decisions = replay(tmp_path, rows)
    place = {row["id"]: n for n, row in enumerate(rows)}
    assert [one["id"] for one in decisions] == [row["id"] for row in rows]
    assert sum(one["hit"] for one in decisions) > 100
    for n, one in enumerate(decisions):
        assert set(one) == {"id", "hit", "served", "audited", "score"}
        assert (one["served"] is not None) == one["hit"]
        assert not one["hit"] or place[one["served"]] < n
        assert one["hit"] or not one["audited"]
        assert 0 <= one["score"] <= 1


def test_the_truth_of_hits_that_nobody_audits_changes_nothing(tmp_path: Path) -> None:
    rows = stream("traps", 1500)
    first = replay(tmp_path, rows)
    hidden = {one["id"] for one in first if one["hit"] and not one["audited"]}
    scrambled = [{**row, "cls": f"other-{n}"} if row["id"] in hidden else row for n, row in enumerate(rows)]
    assert len(hidden) > 100
    assert replay(tmp_path, rows, scrambled) == first


def test_nothing_crosses_a_scope(tmp_path: Path) -> None:
    rows = stream("scoped", 1500)
    scopes = {row["id"]: row["scope"] for row in rows}
    hits = [one for one in replay(tmp_path, rows) if one["hit"]]
    assert len(hits) > 50
    assert all(scopes[one["id"]] == scopes[one["served"]] for one in hits)


def test_a_question_within_a_conversation_is_only_served_to_the_same_conversation(tmp_path: Path) -> None:
    rows = [
        {"id": f"{n}", "text": text, "context": context, "cls": f"{context}{text.lower()}"}
        for n, (text, context) in enumerate(
            [("And in Rome?", ["The weather in Paris?"]), ("And in Rome?", ["The mayor of Paris?"]),
             ("and in rome?", ["The weather in Paris?"]), ("And in Rome?", ["The weather in Paris?"])] * 200
        )
    ]  # fmt: skip
    decisions = replay(tmp_path, rows)
    assert [one["served"] for one in decisions[:4]] == [None, None, None, "0"]
    assert wrong(rows, decisions) == 0
    assert {one["served"] for one in decisions if one["hit"]} == {"0", "1", "2"}


def test_turns_that_follow_buy_no_errors_among_lone_questions(tmp_path: Path) -> None:
    lone = stream("traps", 1500)
    turns = [
        {"id": f"{row['id']}-{n}", "text": f"and number {n}?", "cls": row["id"], "context": [row["text"]]}
        for row in lone
        for n in range(2)
    ]
    mixed = [row for n, first in enumerate(lone) for row in (first, *turns[2 * n : 2 * n + 2])]
    first = {row["id"] for row in lone}
    alone, among = (
        [one for one in replay(tmp_path, rows) if one["hit"] and one["id"] in first] for rows in (lone, mixed)
    )
    assert 50 < len(among) < len(alone)
    assert wrong(mixed, among) <= 0.003 * len(mixed)


@pytest.mark.parametrize("name", ["traps", "hwu_slots", "zipf_high"])
def test_the_bound_holds_and_audits_keep_to_their_share(tmp_path: Path, name: str) -> None:
    rows = stream(name, 2500)
    decisions = replay(tmp_path, rows, None, "--error-bound", "0.01", "--seed", "3")
    liked = [one for one in decisions if one["hit"] and one["score"] < 1]
    assert wrong(rows, decisions) <= 0.01 * len(rows)
    assert sum(one["audited"] for one in decisions) <= 0.2 * len(liked) + 1
    assert sum(one["hit"] for one in decisions) > 50


def test_a_seed_is_a_whole_reproduction(tmp_path: Path) -> None:
    rows = stream("zipf_high", 800)
    assert replay(tmp_path, rows, None, "--seed", "7") == replay(tmp_path, rows, None, "--seed", "7")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "a"}', "line 2: Object missing required field `text`"),
        ("{", "line 2: Input data was truncated"),
    ],
)
def test_a_bad_line_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    questions = tmp_path / "in.jsonl"
    questions.write_text('{"id": "0", "text": "Who?", "cls": "c"}\n' + line + "\n")
    truth = write(tmp_path / "truth.jsonl", [{"id": "0", "cls": "c"}])
    arguments = ["--in", str(questions), "--truth", str(truth), "--out", str(tmp_path / "out")]
    assert main(["cache", "replay", *arguments]) == 1
    assert said in capsys.readouterr().err


def test_a_question_without_a_truth_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = write(tmp_path / "in.jsonl", [{"id": "q", "text": "Who?"}])
    truth = write(tmp_path / "truth.jsonl", [{"id": "0", "cls": "c"}])
    arguments = ["--in", str(questions), "--truth", str(truth), "--out", str(tmp_path / "out")]
    assert main(["cache", "replay", *arguments]) == 1
    assert "does not say what 'q' is the same as" in capsys.readouterr().err
