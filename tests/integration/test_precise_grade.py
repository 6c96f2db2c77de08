"""The precise grade with the real encoder in the engine's environment, beside the fast grade."""

import gzip
import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from gateway.scoring import Scorer, ScoringError

DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "routing"


def prompts(count: int) -> list[str]:
    with gzip.open(DATA / "val.jsonl.gz", "rt", encoding="utf-8") as file:
        return [str(json.loads(line)["prompt"])[:600] for line in islice(file, 4 * count)][::4]


def test_both_grades_order_queries_nearly_alike(engine_python: Path, demo_home: Path) -> None:
    texts = prompts(60)
    precise = Scorer.precise(engine_python.parents[1], demo_home / "models" / "embed").scores(texts)
    fast = Scorer.fast().scores(texts)
    assert ((precise >= 0.0) & (precise <= 1.0)).all()
    assert np.corrcoef(fast, precise)[0, 1] > 0.9
    assert not np.allclose(fast, precise, atol=1e-3)


def test_a_broken_encoder_is_an_error_with_its_reason(
    engine_python: Path, demo_home: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo_home / "models" / "embed", tmp_path / "embed")
    (tmp_path / "embed" / "model.safetensors").write_bytes(b"not weights")
    scorer = Scorer.precise(engine_python.parents[1], tmp_path / "embed")
    with pytest.raises(ScoringError, match=r"the encoder failed: .*\w"):
        scorer.scores(["hello"])
