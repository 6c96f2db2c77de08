"""The bench of the pair: tasks that are the same every time, graders that are exact, figures that add up."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.pair import coding
from bench.pair.__main__ import DOCS, RESULTS, docs_with
from bench.pair.asking import ways
from bench.pair.confined import passes
from bench.pair.facts import FACTS
from bench.pair.grading import right
from bench.pair.tasks import OF_EACH, Task, tasks
from bench.pair.weighing import interval, ordered, table, weighed


def test_the_tasks_are_the_same_every_time_and_none_is_there_twice() -> None:
    found = tasks()
    assert Counter(one.kind for one in found) == dict.fromkeys(
        ("arithmetic", "json", "code", "facts"), OF_EACH
    )
    assert len({one.prompt for one in found}) == len({one.id for one in found}) == 4 * OF_EACH
    assert found == tasks()
    assert len(FACTS) == OF_EACH


def said_right(task: Task) -> str:
    """An answer that is right, as a model may say it."""
    if task.kind == "arithmetic":
        return f"The answer is {task.right:,}."
    if task.kind == "json":
        return f"```json\n{json.dumps(task.right)}\n```"
    return f"It is {task.right[0]}."


@pytest.mark.parametrize("kind", ["arithmetic", "json", "facts"])
def test_a_right_answer_is_right_and_another_one_is_wrong(kind: str) -> None:
    for task in tasks():
        if task.kind == kind:
            assert right(task, said_right(task)), task
            assert not any(right(task, one) for one in ("", "I do not know.", "{}", "-123456.5", '{"a": ')), (
                task
            )


@pytest.mark.parametrize(
    ("kind", "accepted", "answer", "is_right"),
    [
        ("arithmetic", 1250, "1,250", True),
        ("arithmetic", 12, "12.0", True),
        ("arithmetic", 12, "3 * 4 = 12", True),
        ("arithmetic", 12, "12 and then 13", False),
        ("arithmetic", -5, "-5", True),
        ("json", {"age": 60}, 'Sure: {"age": "60"} as asked', True),
        ("json", {"city": "Oslo"}, '{"city": " oslo "}', True),
        ("json", {"age": 60}, '{"age": 60, "name": "x"}', False),
        ("json", {"age": 60}, '{"age": 61}', False),
        ("json", {"age": 60}, "[60]", False),
        ("facts", ["Au"], "Au", True),
        ("facts", ["Au"], "The symbol is au", False),
        ("facts", ["Paris"], "PARIS!", True),
        ("facts", ["Rome"], "Jerome", False),
    ],
)
def test_the_rules_are_exact(kind: Any, accepted: Any, answer: str, is_right: bool) -> None:
    assert right(Task("x", kind, "?", accepted, 8), answer) is is_right


def test_code_is_taken_out_of_its_fence_and_run() -> None:
    task = next(one for one in tasks() if one.id == "code-0")
    words = task.prompt.partition("a + b + ")[2]
    body = f"def add(a, b):\n    return a + b + {words.partition('.')[0]}\n"
    for answer in (body, f"```python\n{body}```\nThat adds.", f"Here:\n```\n{body}"):
        assert right(task, answer)
    assert not right(task, body.replace("return", "print"))


@pytest.mark.parametrize("number", range(len(coding.PROBLEMS)))
def test_the_calls_of_a_code_task_hold_for_a_right_program_only(number: int) -> None:
    """By a table of the calls themselves: what is compared is what the task says."""
    (task,) = [one for one in tasks() if one.id == f"code-{number}"]
    name, calls = task.right["name"], task.right["calls"]
    rows = {repr(tuple(arguments)): result for arguments, result in calls}
    code = f"rows = {rows!r}\ndef {name}(*arguments):\n    return rows[repr(arguments)]\n"
    assert passes(code, name, calls)
    assert not passes(code.replace("return rows[repr(arguments)]", "return 'no'"), name, calls)


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "return 'x' * 10**11",
        "return open('/etc/passwd').read()",
        "open('made', 'w')",
        "import socket; socket.socket()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true'); return 1",
        "import os; os.fork(); return 1",
        "raise SystemExit(0)",
        "import os; os._exit(0)",
        "return object()",
        "print('[1]'); return None",
    ],
)
def test_a_program_that_misbehaves_is_wrong_and_harms_nothing(body: str, tmp_path: Path) -> None:
    before = set(os.listdir())
    assert not passes(f"def f():\n    {body}\n", "f", [[[], 1]])
    assert set(os.listdir()) == before
    assert passes("def f():\n    print('[2]')\n    return 1\n", "f", [[[], 1]])


def test_a_share_is_drawn_exactly_and_for_all_the_same() -> None:
    found = tasks(10)
    drawn = [{way.name: way for way in ways(found, 0.3, 1)}["random"].tiers for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert Counter(drawn[0].values()) == {"large": 12, "small": 28}


def test_the_figures_add_up() -> None:
    found, draw = tasks(20), np.random.default_rng(0)
    small = {one.id: [int(number % 4 == 0), 1e-6, 1.0, 0] for number, one in enumerate(found)}
    large = {one.id: [int(number % 2 == 0), 4e-6, 3.0, 1] for number, one in enumerate(found)}
    chosen = {one.id: bool(draw.uniform() < 0.3) for one in found}
    routed = {id_: (large if up else small)[id_] for id_, up in chosen.items()}
    rows = {"small": small, "large": large, "routed": routed, "random": routed, "cascade": routed}
    scores = {one.id: large[one.id][0] - small[one.id][0] for one in found}
    told = weighed(found, {"rows": rows, "scores": scores, "logprobs": dict.fromkeys(scores, -1.0)})
    ways_ = told["ways"]
    assert ways_["small"]["quality"][0] == pytest.approx(0.25)
    assert ways_["large"]["over_random"][0] == pytest.approx(0.0)
    assert ways_["routed"]["share"] == pytest.approx(np.mean(list(chosen.values())))
    spent, paid = ways_["cascade"]["spent_usd"][0], ways_["cascade"]["cost_usd"][0]
    assert spent - paid == pytest.approx(ways_["routed"]["share"] * 1e-6)
    assert told["order"]["oracle"][0] == pytest.approx(told["order"]["score"][0])
    assert told["order"]["kind"][0] <= told["order"]["oracle"][0]
    lines = table(told).splitlines()
    assert [line.count("|") for line in lines[:7]] == [10] * 7
    low, high = interval(np.arange(100.0), "p50")[1:]
    assert low < 49.5 < high


def test_an_order_by_chance_reaches_half_and_the_best_one_most() -> None:
    draw = np.random.default_rng(1)
    gain = (draw.uniform(size=400) < 0.3).astype(float)
    found = ordered(gain, ["code"] * 400, {"score": np.zeros(400)})
    assert found["score"][0] == pytest.approx(0.5, abs=1e-9)  # nothing to tell them apart
    assert found["oracle"][0] == pytest.approx(1 - gain.mean() / 2, abs=0.01)


def test_the_docs_show_the_results_that_are_kept() -> None:
    text, kept = DOCS.read_text(), json.loads(RESULTS.read_text())
    assert docs_with(text, kept) == text, "run: python -m bench.pair --weigh --docs"
    with pytest.raises(AssertionError, match="no mark where the pair begins"):
        docs_with("nothing", kept)
