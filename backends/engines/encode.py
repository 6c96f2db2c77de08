"""Vectors of texts from a sentence-transformers model: JSON strings by line in, float32 rows out.

Run by path in the engine's environment (`python -P encode.py MODEL`); imports nothing of this project. A text
that is longer than the model reads is cut to its beginning.
"""

import json
import sys
from typing import Any

BATCH_TEXTS = 64


def main() -> None:
    """Read all of stdin, then write (n, d) little-endian float32 unit rows to stdout."""
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]  # engine's only

    texts = [json.loads(line) for line in sys.stdin.buffer]
    model: Any = SentenceTransformer(sys.argv[1], device="cpu")
    vectors = model.encode(
        texts,
        batch_size=BATCH_TEXTS,
        convert_to_numpy=True,
        normalize_embeddings=True,
        show_progress_bar=False,
    )
    sys.stdout.buffer.write(vectors.astype("<f4").tobytes())


if __name__ == "__main__":
    main()
