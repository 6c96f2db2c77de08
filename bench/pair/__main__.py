"""``python -m bench.pair``: the pair of `make up` on tasks with exact answers, in every way; prints a table.

It starts the appliance with the demo's models, asks every task of the small model, of the large one, of the
route `auto`, of a tier at random, and of a cascade, and writes what each answer was worth to pair.json.
Code of the models is run in a confined child. ``--weigh`` prints the table of that file again.
"""

import argparse
import asyncio
import datetime
import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from bench.pair.appliance import ROOT, keys_for, running
from bench.pair.asking import Asked, ask_all, ways
from bench.pair.grading import right
from bench.pair.tasks import OF_EACH, SEED, Task, tasks
from bench.pair.weighing import SHARE, table, weighed

RESULTS = ROOT / "bench" / "pair.json"
DOCS = ROOT / "docs" / "routing.md"
BEGIN, END = "<!-- pair: written by python -m bench.pair --docs -->\n", "<!-- end of pair -->\n"


def main() -> None:
    """Ask, weigh, print."""
    parser = argparse.ArgumentParser(prog="bench.pair", description=__doc__)
    parser.add_argument("--models", type=Path, default=ROOT / ".switchgear" / "models")
    parser.add_argument("--engine", type=Path, default=ROOT / ".engine")
    parser.add_argument("--of-each", type=int, default=OF_EACH, help="tasks of each kind")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--answers", type=Path, default=ROOT / ".cache" / "pair-answers.json")
    parser.add_argument("--grade", action="store_true", help="ask nothing: grade what is in --answers")
    parser.add_argument("--weigh", action="store_true", help="grade nothing: print the table of --out")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/routing.md too")
    options = parser.parse_args()
    if not options.weigh:
        asked = tasks(options.of_each)
        if not options.grade:
            _ask(options, asked)
        kept_answers = msgspec.json.decode(options.answers.read_bytes(), type=dict[str, dict[str, Asked]])
        options.out.write_text(_kept(asked, kept_answers))
    kept = json.loads(options.out.read_text())
    print(shown(kept))
    if options.docs:
        DOCS.write_text(docs_with(DOCS.read_text(), kept))


def shown(kept: dict[str, Any]) -> str:
    """Give the table of what is kept, and where it is from."""
    done = [one for one in tasks() if one.id in kept["scores"]]
    told = table(weighed(done, kept))
    return f"{told}\n\n{len(done)} tasks, taken on {kept['taken']}: {kept['machine']}."


def docs_with(text: str, kept: dict[str, Any]) -> str:
    """Give a text with what is kept between its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, "the text has no mark where the pair begins"
    assert end, "the text has no mark where the pair ends"
    return f"{before}{begin}{shown(kept)}\n{end}{after}"


def _ask(options: argparse.Namespace, asked: list[Task]) -> None:
    """Ask, and keep the answers after each round."""
    all_ways = ways(asked, SHARE, SEED)
    keys = keys_for(one.name for one in all_ways)
    random.Random(SEED + 1).shuffle(asked)  # of another seed than the tiers at random

    async def play(url: str) -> None:
        async for answers in ask_all(url, keys, all_ways, asked):
            options.answers.write_bytes(msgspec.json.encode(answers))

    with (
        tempfile.TemporaryDirectory(prefix="pair-") as folder,
        running(options.models, options.engine, Path(folder), keys) as url,
    ):
        asyncio.run(play(url))


def _kept(asked: list[Task], answers: dict[str, dict[str, Asked]]) -> str:
    """Give what is kept of the answers of the tasks that were asked in every way: numbers, a task a line."""
    asked = [one for one in asked if all(one.id in found for found in answers.values())]
    rows: dict[str, dict[str, list[Any]]] = {
        way: {
            task.id: [
                int(right(task, found[task.id].text)),
                round(found[task.id].cost_usd, 12),
                round(found[task.id].latency_s, 3),
                int(found[task.id].model == "large"),
            ]
            for task in asked
        }
        for way, found in answers.items()
    }
    told: dict[str, Any] = {
        "taken": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, 15-minute load average {os.getloadavg()[2]:.0f} at the end",
        "rows": rows,
        "scores": {one.id: answers["routed"][one.id].score for one in asked},
        "reasons": {one.id: answers["cascade"][one.id].reason for one in asked},
        "logprobs": {one.id: round(answers["small"][one.id].logprob or 0.0, 4) for one in asked},
    }
    return json.dumps(told, indent=None, separators=(",", ":")).replace('],"', '],\n"') + "\n"


if __name__ == "__main__":
    main()
