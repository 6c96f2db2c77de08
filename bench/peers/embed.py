"""Run by the engine environment's Python: ``embed.py MODEL TEXTS OUT``; both peers search by these vectors.

TEXTS is a JSON list; OUT becomes an array (n, d) of float32 unit rows, in the order of the texts.
"""

import json
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    """Embed all of them."""
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]  # not in .venv

    model, texts, out = sys.argv[1:]
    embedder = SentenceTransformer(model, device="cpu")
    found = json.loads(Path(texts).read_text(encoding="utf-8"))
    np.save(out, embedder.encode(found, batch_size=64, normalize_embeddings=True).astype(np.float32))


if __name__ == "__main__":
    main()
