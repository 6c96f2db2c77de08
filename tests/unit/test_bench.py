"""The bench's report and profile: README and results in step, samples counted for the right step."""

import json

import pytest

from bench import report
from bench.contenders import contenders
from bench.profile import shares

RESULTS = {
    "taken": "2026-11-22",
    "machine": "a machine",
    "versions": {"python": "3.11"},
    "repeat": "make bench",
    "rows": {
        "direct": {"requests_per_s": 30000.0, "failures": 0.0},
        "nginx, plain proxy": {"missing": "no nginx found: apt install nginx"},
        "own": {"requests_per_s": 3000.4, "start_s": 1.234, "failures": 2.0},
    },
}


def test_the_readme_shows_the_results_that_are_kept() -> None:
    results = json.loads(report.RESULTS.read_text())
    readme = report.README.read_text()
    assert report.readme_with(readme, results) == readme, "run: make bench ARGS=--readme"


def test_the_results_that_are_kept_have_the_rows_of_the_bench() -> None:
    kept = json.loads(report.RESULTS.read_text())["rows"]
    assert {one.name for one in contenders() if "LiteLLM" not in one.name} <= set(kept)
    assert all("missing" in row or not row["failures"] for row in kept.values())


def test_a_row_that_could_not_run_says_what_to_do() -> None:
    lines = report.table(RESULTS).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    assert "apt install nginx" in lines[3]
    assert "(2 requests failed)" in lines[4]
    assert "| 3,000 |" in lines[4]
    assert "| 1.23 |" in lines[4]


def test_only_what_stands_between_the_marks_is_written() -> None:
    text = f"before\n{report.BEGIN}old\n{report.END}after\n"
    written = report.readme_with(text, RESULTS)
    assert written.startswith(f"before\n{report.BEGIN}| | CPU")
    assert written.endswith(f"\n{report.END}after\n")
    assert report.readme_with(written, RESULTS) == written
    with pytest.raises(AssertionError, match="no mark where the bench begins"):
        report.readme_with("nothing", RESULTS)


def test_a_sample_counts_for_its_innermost_known_step() -> None:
    stacks = [
        "main (/x/a.py:1);Pipeline.infer (/y/gateway/pipeline.py:9);choose (/y/gateway/choosing.py:3) 7",
        "main (/x/a.py:1);Pipeline.infer (/y/gateway/pipeline.py:9) 2",
        "run (/x/site-packages/uvicorn/server.py:1) 3",
        "main (/x/a.py:1) 4",
        "run (/x/thread.py:1);_worker (/usr/lib/concurrent/futures/thread.py:81) 99",
    ]
    found = shares("\n".join(stacks))
    assert found == {"classify": 7, "pipeline itself": 2, "HTTP server": 3, "the loop and all else": 4}
