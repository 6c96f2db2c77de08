"""python -m bench.caches --data FOLDER: GPTCache's and LiteLLM's semantic caches beside this one.

All see the first questions of the same streams, in order, an answer being kept where none was served; the
folder's ``score.py`` judges them. The peers run in environments of their own, which are made here, and search
by the vectors of one sentence-transformers model; LiteLLM on a Redis of its own. Further rows are what any
cache does that gives the nearest text's answer from a cosine on, by the same vectors: GPTCache does so from
2t - 1 on, where t is its threshold, LiteLLM within its scopes. This cache starts with weights that were
learned on the other streams only. Decisions are kept below ``.cache``: what was run is not run again.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.contenders import LITELLM_VERSION, ROOT, installed
from bench.peers.stream import Row, prompt_of
from bench.prior import comparisons, fit
from bench.processes import redis_server
from routing.embedding import StaticEmbedder
from semantic_cache.judge import Judge
from semantic_cache.learner import Learner
from semantic_cache.ledger import Bounds
from semantic_cache.replay import Question, replay

PASSWORD = "bench"  # LiteLLM insists on one
PEERS = ROOT / "bench" / "peers"
GPTCACHE = ("gptcache==0.1.44", "faiss-cpu==1.15.1", "sqlalchemy>=2,<3")
ENVIRON = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OMP_NUM_THREADS": "1", "HOME": str(ROOT / ".cache")}
LITELLM = (f"litellm=={LITELLM_VERSION}", "redisvl==0.28.0")


class Ran(msgspec.Struct, frozen=True):
    """A row of the table; ``decide`` writes the decisions on a stream to a file."""

    name: str
    decide: Callable[[str, Path], None]


class Streams:
    """The streams, cut to their first questions, and what was made of them."""

    def __init__(self, data: Path, queries: int, work: Path) -> None:
        self.work, self.data = work, work / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.rows: dict[str, list[Row]] = {}
        for path in sorted(data.glob("*.jsonl.gz")):
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                rows = sorted(map(json.loads, lines), key=lambda row: row["t"])
            name = path.name.removesuffix(".jsonl.gz")
            self.rows[name] = rows[:queries]
            with gzip.open(self.data / path.name, "wt", encoding="utf-8") as out:
                out.writelines(json.dumps(row) + "\n" for row in self.rows[name])
            (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows[name]))
        self._evidence: dict[str, Any] = {}
        self._vectors: dict[str, Any] = {}
        self.width = 0

    def embed(self, model: Path, python: Path) -> None:
        """Make the vectors of all texts by a sentence-transformers model, where they are not there yet."""
        every = [row for rows in self.rows.values() for row in rows]
        texts = sorted({str(row["text"]) for row in every} | {prompt_of(row) for row in every})
        told = self.work / "texts.json"
        if (self.work / "vectors.npy").exists() and json.loads(told.read_text()) == texts:
            return
        told.write_text(json.dumps(texts))
        print(f"bench: embedding {len(texts)} texts", file=sys.stderr)
        command = [
            str(python),
            str(PEERS / "embed.py"),
            str(model),
            str(told),
            str(self.work / "vectors.npy"),
        ]
        subprocess.run(command, check=True)

    def vectors(self) -> dict[str, Any]:
        """Give the peers' vectors by text."""
        if not self._vectors:
            vectors = np.load(self.work / "vectors.npy")
            self.width = vectors.shape[1]
            self._vectors = dict(
                zip(json.loads((self.work / "texts.json").read_text()), vectors, strict=True)
            )
        return self._vectors

    def weights_without(self, name: str) -> Any:
        """Give the verifier's start as the other streams teach it."""
        if not self._evidence:
            embedder = StaticEmbedder.load()
            self._evidence = {one: comparisons(rows, embedder) for one, rows in self.rows.items()}
        return fit([found for one, found in self._evidence.items() if one != name])


def own(streams: Streams, error: float, precision: float) -> Callable[[str, Path], None]:
    """Give what decides by this project's judge."""
    embedder = StaticEmbedder.load()

    def decide(name: str, out: Path) -> None:
        rows = streams.rows[name]
        classes = {row["id"]: row["cls"] for row in rows}
        learner = Learner(streams.weights_without(name))
        judge = Judge(Bounds(error=error, precision=precision), learner, embedder.dimensions)
        questions = [msgspec.json.decode(json.dumps(row), type=Question) for row in rows]
        decided = replay(questions, lambda a, b: classes[a] == classes[b], judge, embedder.embed, 1)
        out.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in decided))

    return decide


def static(streams: Streams, threshold: float) -> Callable[[str, Path], None]:
    """Give what serves the nearest text by the peers' vectors from a cosine on, whatever the scope."""

    def decide(name: str, out: Path) -> None:
        vector_of = streams.vectors()
        kept, rows = list[str](), np.zeros((len(streams.rows[name]), streams.width), np.float32)
        lines = []
        for row in streams.rows[name]:
            vector = vector_of[str(row["text"])]
            cosines = rows[: len(kept)] @ vector
            at = int(cosines.argmax()) if kept else -1
            served = kept[at] if kept and cosines[at] >= threshold else None
            if served is None:
                rows[len(kept)] = vector
                kept.append(row["id"])
            lines.append(json.dumps({"id": row["id"], "hit": served is not None, "served": served}) + "\n")
        out.write_text("".join(lines))

    return decide


def peer(streams: Streams, home: Path, script: str, threshold: float) -> Callable[[str, Path], None]:
    """Give what decides by a peer's own code; each stream begins with nothing kept."""

    def decide(name: str, out: Path) -> None:
        with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder), PASSWORD) as (port, _):
            run = {
                "questions": str(streams.work / f"{name}.jsonl"), "texts": str(streams.work / "texts.json"),
                "vectors": str(streams.work / "vectors.npy"), "threshold": threshold, "out": str(out),
                "folder": folder, "port": port,
            }  # fmt: skip
            command = [str(home / "bin" / "python"), str(PEERS / script), json.dumps(run)]
            subprocess.run(command, check=True, env=ENVIRON)

    return decide


def scored(scorer: Path, streams: Streams, decisions: Path) -> dict[str, Any]:
    """Give what the scorer says of a stream."""
    told = decisions.with_suffix(".score")
    command = [sys.executable, str(scorer), str(decisions), "--data", str(streams.data), "--boot", "0"]
    subprocess.run([*command, "--json", str(told)], check=True, stdout=subprocess.DEVNULL)
    (found,) = json.loads(told.read_text()).values()
    return dict(found)


def table(streams: Streams, runs: Sequence[Ran], scorer: Path) -> Iterator[str]:
    """Give the lines of the table as they are known."""
    names = list(streams.rows)
    short = [name.removesuffix("_dev").replace("_", " ") for name in names]
    yield "| oshare, err in % | " + " | ".join(short) + " | mean oshare | worst err |"
    yield "|---" * (len(names) + 3) + "|"
    for run in runs:
        found = []
        for name in names:
            out = streams.work / f"{name}-{run.name.replace(' ', '-').replace('/', '-')}.decisions"
            if not out.exists():
                print(f"bench: {run.name} on {name}", file=sys.stderr)
                fresh = out.with_suffix(".new")
                run.decide(name, fresh)
                fresh.replace(out)
            found.append(scored(scorer, streams, out))
        cells = [f"{100 * (one['oshare'] or 0):.1f}, {100 * one['err']:.2f}" for one in found]
        plain = [one["oshare"] or 0 for one, name in zip(found, names, strict=True) if "traps" not in name]
        worst = max(one["err"] for one in found)
        yield f"| {run.name} | {' | '.join(cells)} | {100 * np.mean(plain):.1f} | {100 * worst:.1f} |"


def main() -> None:
    """Print the table; the mean is over the streams that are no traps."""
    parser = argparse.ArgumentParser(prog="python -m bench.caches", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder with *.jsonl.gz and score.py")
    parser.add_argument("--queries", type=int, default=4_000, help="of each stream, default 4000")
    parser.add_argument("--model", type=Path, default=ROOT / ".cache/home/models/embed", help="for the peers")
    parser.add_argument("--engine", type=Path, default=ROOT / ".engine/bin/python", help="what embeds by it")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    options = parser.parse_args()
    streams = Streams(options.data, options.queries, ROOT / ".cache" / f"bench-caches-{options.queries}")
    runs = [Ran(f"switchgear, {bound:.1%}", own(streams, bound, 1.0)) for bound in (0.005, 0.01, 0.02)]
    runs.append(Ran("switchgear, 1.0% and wrong/hits 5%", own(streams, 0.01, 0.05)))
    for script, name, packages, thresholds in (
        ("gptcache_run.py", "GPTCache", GPTCACHE, (0.8, 0.975, 0.995)),
        ("litellm_run.py", "LiteLLM", LITELLM, (0.8, 0.95, 0.99)),
    ):
        home = ROOT / ".cache" / f"bench-cache-{name.lower()}"
        runs += [Ran(f"{name} {one:g}", peer(streams, home, script, one)) for one in thresholds]
        wanted = any(options.only in run.name and name in run.name for run in runs)
        if wanted and not installed(home, packages):
            raise SystemExit(f"bench: {name} could not be installed; pip's message is above")
    runs += [Ran(f"any static cosine {one:g}", static(streams, one)) for one in (0.6, 0.8, 0.95, 0.99)]
    runs = [run for run in runs if options.only in run.name]
    if any(not run.name.startswith("switchgear") for run in runs):
        streams.embed(options.model, options.engine)
    for line in table(streams, runs, options.data / "score.py"):
        print(line, flush=True)


if __name__ == "__main__":
    main()
