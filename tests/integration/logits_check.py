"""Compare a prepared demo model with transformers' own reading of its GGUF. Runs in the engine's environment.

`python logits_check.py MODEL_DIRECTORY` prints the findings of `compare` as JSON.
"""

import importlib.util
import json
import shutil
import struct
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

# mypy runs in the gateway's environment, which has none of the engine's packages
import torch  # type: ignore[import-not-found]
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # type: ignore[import-not-found]

PROMPTS = ("The capital of France is", "def add(a, b):\n    return", "1, 2, 3, 4,  5,")
NEW_TOKENS = 16


def compare(directory: Path) -> dict[str, Any]:
    """Give whether the weights are the reference's rounded to bfloat16, and how the logits differ."""
    config = AutoConfig.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ours = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        without_vocabulary(directory / "source.gguf", Path(folder) / "source.gguf")
        reference = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file="source.gguf", config=config, dtype=torch.float32
        )
    expected = dict(reference.named_parameters())
    found = dict(ours.named_parameters())
    other = [
        n for n in expected if n not in found or not torch.equal(expected[n].bfloat16(), found[n].bfloat16())
    ]
    other += found.keys() - expected.keys()
    worst, agreement = 0.0, []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            text = ours.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)
            theirs, mine = reference(text).logits[0], ours(text).logits[0]
        worst = max(worst, ((theirs - mine).abs().max() / theirs.std()).item())
        # The reference's greedy continuation is the same text where it would choose each of its tokens.
        agreement.append((theirs[:-1].argmax(-1) == text[0, 1:])[ids.shape[1] - 1 :].tolist())
    return {"other_weights": other, "worst_difference_in_std": worst, "greedy_agreement": agreement}


def converter() -> ModuleType:
    """Load the converter by path: its folder on sys.path would shadow the standard library's `profile`."""
    file = Path(__file__).parents[2] / "backends" / "engines" / "gguf_convert.py"
    spec = importlib.util.spec_from_file_location("gguf_convert", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without_vocabulary(source: Path, target: Path) -> None:
    """Copy a GGUF without the tokenizer, on which transformers would spend most of a minute."""
    convert = converter()
    cursor = convert.Cursor(convert.mapped(source))
    head, edition, tensor_count, field_count = cursor.data[:4], *struct.unpack_from("<IQQ", cursor.data, 4)
    cursor.at = 24
    fields = []
    for _ in range(field_count):
        start = cursor.at
        name = cursor.text()
        cursor.value(cursor.number("I"))
        if not name.startswith("tokenizer."):
            fields.append(cursor.data[start : cursor.at])
    start = cursor.at
    for _ in range(tensor_count):
        cursor.text(), cursor.numbers(cursor.number("I"), "Q"), cursor.number("I"), cursor.number("Q")
    tensors = cursor.data[start : cursor.at]
    header = head + struct.pack("<IQQ", edition, tensor_count, len(fields)) + b"".join(fields) + tensors
    with target.open("wb") as out, source.open("rb") as content:
        out.write(header.ljust(-(-len(header) // 32) * 32, b"\0"))
        content.seek(-(-cursor.at // 32) * 32)
        shutil.copyfileobj(content, out, 1 << 20)


if __name__ == "__main__":
    print(json.dumps(compare(Path(sys.argv[1]))))
