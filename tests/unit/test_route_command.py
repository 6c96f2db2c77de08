"""``switchgear route``: files in and out, the share held over a sorted stream, labels, and bad rows."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.__main__ import main
from routing.feedback import LEAST_LABELS
from routing.training.measure import apgr

DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "routing"
EASY = "Thanks, talk to you later!"
HARD = "How many ways are there to seat 7 couples at a table so that no couple sits together? Prove it."


def written(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def outcomes(dataset: str) -> list[dict[str, Any]]:
    """Rows of one dataset in the form of calibrate's file."""
    with gzip.open(DATA / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["dataset"] == dataset and row["primary_pair"]]
    names = {"id": "id", "prompt": "prompt", "weak_score": "small_score", "strong_score": "large_score"}
    return [{new: row[old] for old, new in names.items()} for row in rows]


def test_prompts_and_conversations_are_scored_alike(tmp_path: Path) -> None:
    rows = [
        {"id": "easy", "prompt": EASY},
        {"id": 2, "messages": [{"role": "system", "content": HARD}, {"role": "user", "content": EASY}]},
        {"id": "hard", "prompt": HARD},
        {"id": "empty", "prompt": ""},
        {"id": "parts", "messages": [{"role": "user", "content": [{"type": "text", "text": HARD}]}]},
    ]
    out = tmp_path / "out.jsonl"
    assert main(["route", "score", "--in", written(tmp_path / "in.jsonl", rows), "--out", str(out)]) == 0
    scores = {row["id"]: row["score"] for row in read(out)}
    assert list(scores) == ["easy", 2, "hard", "empty", "parts"]
    assert scores["easy"] == scores[2] < scores["hard"] == scores["parts"]
    assert all(0.0 <= score <= 1.0 for score in scores.values())


@pytest.mark.parametrize("share", ["0.2", "0.5"])
def test_replay_holds_the_share_over_a_stream_sorted_by_dataset(tmp_path: Path, share: str) -> None:
    rows = [row for dataset in ("ulab_gsm8k", "mmlu", "ulab_trivia_qa") for row in outcomes(dataset)[:2500]]
    source, out = written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert main(["route", "replay", "--in", source, "--out", str(out), "--large-share", share]) == 0
    found = read(out)
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert set(found[0]) == {"id", "score", "threshold", "tier"}
    large = np.array([row["tier"] == "large" for row in found])
    windows = np.convolve(large, np.ones(2000), "valid") / 2000
    assert np.abs(windows - float(share)).max() <= 0.01


def test_replay_sends_up_what_cannot_be_read_as_a_route_does(tmp_path: Path) -> None:
    """Every fifth prompt is of an unknown script, or empty: with a share for all of those, those go up."""
    odd = ["日本語の質問です", "", "\ud800\udfff binary \udc00" + "\x00\x02" * 50]
    prompts = [odd[n // 5 % 2] if n % 5 == 0 else f"Thanks, see you on day {n}!" for n in range(1000)]
    rows = [{"id": n, "prompt": prompt} for n, prompt in enumerate([*prompts, odd[2]])]
    source, out = written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert main(["route", "replay", "--in", source, "--out", str(out), "--large-share", "0.2"]) == 0
    found = read(out)
    assert len(found) == len(rows)
    assert all(0.0 <= row["score"] <= 1.0 for row in found)
    large = [row["id"] for row in found[500:1000] if row["tier"] == "large"]
    assert sum(id_ % 5 == 0 for id_ in large) > 0.9 * len(large)


def test_replay_for_a_quality_sends_more_for_more(tmp_path: Path) -> None:
    source, shares = written(tmp_path / "in.jsonl", outcomes("mmlu")[:600]), []
    for quality in ("0.85", "0.9", "0.97"):
        out = tmp_path / quality
        assert main(["route", "replay", "--in", source, "--out", str(out), "--quality", quality]) == 0
        shares.append(np.mean([row["tier"] == "large" for row in read(out)]))
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]


def test_calibrate_reports_threshold_share_and_quality_with_its_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path / "in.jsonl", outcomes("mmlu")[:800])
    found = []
    for goal in (["--quality", "0.9"], ["--large-share", "0.25"]):
        assert main(["route", "calibrate", "--in", source, *goal]) == 0
        found.append(json.loads(capsys.readouterr().out))
    quality, share = found
    assert quality["quality"] >= 0.9
    assert share["share"] == pytest.approx(0.25, abs=0.01)
    for one in found:
        assert one["ci"][0] <= one["quality"] <= one["ci"][1]
        assert 0.0 <= one["threshold"] <= 1.0


def test_labels_of_a_domain_lift_its_order(tmp_path: Path) -> None:
    """Labels of half of a domain whose gain has another pattern, measured on the other half."""
    rows: list[dict[str, Any]] = [
        {
            "id": number,
            "prompt": f"{'Translate' if number % 2 else 'Summarise'} part {number} of the leaflet on bees.",
            "small_score": number % 2,
            "large_score": 1,
        }
        for number in range(200)
    ]
    source, out = written(tmp_path / "in.jsonl", rows[100:]), tmp_path / "out.jsonl"
    labels = written(tmp_path / "labels.jsonl", rows[:100])
    assert main(["route", "score", "--in", source, "--out", str(out), "--feedback", labels]) == 0
    scores = np.array([row["score"] for row in read(out)])
    gain = np.array([1.0 - row["small_score"] for row in rows[100:]])
    assert apgr(scores, gain) > 0.7
    assert ((scores >= 0.0) & (scores <= 1.0)).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1"),
        ('{"prompt": "x"}', "line 1: Object missing required field `id`"),
        ('{"id": "a"}', "line 1: give either `prompt` or `messages`"),
        ('{"id": "a", "prompt": "x", "messages": []}', "line 1: give either"),
        ('{"id": "a", "prompt": 7}', "line 1: Expected `str | null`, got `int` - at `$.prompt`"),
        ('\n{"id": "a", "prompt": "x"}\n[]', "line 3"),
        ('{"id": "a", "prompt": "\xff', "line 1"),
        (
            '{"id": "a", "prompt": "x", "small_score": 2}',
            "line 1: Expected `float` <= 1.0 - at `$.small_score`",
        ),
    ],
)
def test_a_bad_row_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(text.encode("latin-1"))
    assert main(["route", "score", "--in", str(source), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"switchgear: {source}, ")
    assert message in error


@pytest.mark.parametrize(
    ("cost", "costs", "message"),
    [
        ("nan", "0.1,0.2", "--cost: nan is not a cost of 0 or more"),
        ("-1", "0.1,0.2", "--cost: -1 is not a cost of 0 or more"),
        ("0.1", "nan,nan", "--costs: nan is not a cost of 0 or more"),
        ("0.1", "0.2,0.1", "--costs: 0.2,0.1 is not two or more costs, cheapest first"),
        ("0.1", "a,b", "--costs: a,b is not two or more costs, cheapest first"),
    ],
)
def test_a_cost_is_a_number_of_0_or_more(
    capsys: pytest.CaptureFixture[str], cost: str, costs: str, message: str
) -> None:
    with pytest.raises(SystemExit):
        main(["route", "what-if", "--in", "-", "--out", "-", f"--cost={cost}", f"--costs={costs}"])
    assert message in capsys.readouterr().err


def test_what_is_missing_is_named_with_its_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = written(tmp_path / "in.jsonl", [{"id": 1, "prompt": "x"}]), str(tmp_path / "out.jsonl")
    calls = {
        "absent.jsonl: No such file": ["score", "--in", str(tmp_path / "absent.jsonl"), "--out", out],
        "out.jsonl: No such file": ["score", "--in", source, "--out", str(tmp_path / "no" / "out.jsonl")],
        "`small_score` and `large_score` are needed": ["calibrate", "--in", source, "--quality", "0.9"],
        "`make up` builds the engine's environment": [
            "score", "--in", source, "--out", out, "--grade", "precise", "--engine", str(tmp_path),
        ],
    }  # fmt: skip
    for message, call in calls.items():
        assert main(["route", *call]) == 1
        assert message in capsys.readouterr().err
    few = [{"id": 1, "prompt": "x", "small_score": 0, "large_score": 1}]
    labels = written(tmp_path / "labels.jsonl", few)
    assert main(["route", "score", "--in", source, "--out", out, "--feedback", labels]) == 1
    assert f"at least {LEAST_LABELS} labelled queries, not 1" in capsys.readouterr().err
