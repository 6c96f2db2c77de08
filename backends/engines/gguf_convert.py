"""Turn a GGUF file into a model directory that an engine serves: bf16 safetensors, config, tokenizer.

Runs in the engine's environment, by file path: `python gguf_convert.py SOURCE.gguf TARGET_DIRECTORY`.
Knows the architectures llama and qwen2 with byte-level BPE. The same file gives the same bytes.
Sources: the GGUF specification (ggml, docs/gguf.md); for tensor names and llama's rotary order llama.cpp's
`convert_hf_to_gguf.py`; for the tokenizers the `tokenizer.json` of the two upstream models.
Why not transformers' own loader: it keeps the weights packed and cannot save them, and it drops steps of the
tokenizers ("a  1" and decomposed accents became other tokens than the models were trained on). Why not
gguf's own reader: it takes 20 s for a vocabulary of 150 000.
"""

import json
import mmap
import re
import struct
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

# mypy runs in the gateway's environment, which has none of the engine's packages
import gguf  # type: ignore[import-not-found]
import numpy as np
import torch  # type: ignore[import-not-found]
from safetensors.torch import save_file  # type: ignore[import-not-found]
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
CONTROL, USER_DEFINED = 3, 4  # kinds of token: a marker that decoding drops, a marker that it keeps

Fields = dict[str, Any]


class Packed(NamedTuple):
    """A tensor as the file holds it: `data` has one row of quantised blocks per row of the tensor."""

    name: str
    kind: gguf.GGMLQuantizationType
    data: np.ndarray[Any, np.dtype[np.uint8]]


class Cursor:
    """Reads a GGUF's header, value by value."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def number(self, code: str) -> Any:
        return self.numbers(1, code)[0]

    def numbers(self, count: int, code: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{count}{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{count}{code}")
        return values

    def text(self) -> str:
        start = self.at + 8
        self.at = start + self.number("Q")
        return self.data[start : self.at].decode()

    def value(self, kind: int) -> Any:
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self.number(SCALARS[kind])
        inner, count = self.number("I"), self.number("Q")
        return (
            self.numbers(count, SCALARS[inner])
            if inner in SCALARS
            else [self.value(inner) for _ in range(count)]
        )


def main(source: Path, target: Path) -> None:
    """Write the model directory; the target exists and may hold the source."""
    fields, tensors = read(source)
    config = model_config(fields, tied=all(tensor.name != "output.weight" for tensor in tensors))
    save_file(weights(tensors, config), target / "model.safetensors", metadata={"format": "pt"})
    (target / "model.safetensors").chmod(0o644)  # safetensors makes it 0600; a server may run as another user
    write_json(target / "config.json", config)
    # A chat ends with its turn, or with the document.
    ends = [config["eos_token_id"], fields["tokenizer.ggml.tokens"].index("<|endoftext|>")]
    generation = {"eos_token_id": ends} | {name: config[name] for name in ("bos_token_id", "pad_token_id")}
    write_json(target / "generation_config.json", generation)
    write_tokenizer(target, fields)


def mapped(source: Path) -> mmap.mmap:
    with source.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def read(source: Path) -> tuple[Fields, list[Packed]]:
    """Give a GGUF's metadata and its tensors, whose data stay in the file."""
    cursor = Cursor(mapped(source))
    magic, edition, tensor_count, field_count = struct.unpack_from("<4sIQQ", cursor.data)
    if magic != b"GGUF" or edition not in (2, 3):
        raise SystemExit(f"{source.name} is not a GGUF file of version 2 or 3")
    cursor.at = struct.calcsize("<4sIQQ")
    fields = {cursor.text(): cursor.value(cursor.number("I")) for _ in range(field_count)}
    heads = [
        (cursor.text(), cursor.numbers(cursor.number("I"), "Q"), cursor.number("I"), cursor.number("Q"))
        for _ in range(tensor_count)
    ]
    alignment = fields.get("general.alignment", 32)
    start = -(-cursor.at // alignment) * alignment
    content = np.frombuffer(cursor.data, np.uint8)
    tensors = []
    for name, dimensions, number, offset in heads:
        kind = gguf.GGMLQuantizationType(number)
        shape = gguf.quant_shape_to_byte_shape(dimensions[::-1], kind)
        at = start + offset
        tensors.append(Packed(name, kind, content[at : at + int(np.prod(shape))].reshape(shape)))
    return fields, tensors


def model_config(fields: Fields, *, tied: bool) -> dict[str, Any]:
    """Give transformers' config.json for the GGUF's metadata."""
    kind = fields["general.architecture"]
    if kind not in ARCHITECTURES or fields["tokenizer.ggml.model"] != "gpt2":
        raise SystemExit(f"cannot convert {kind!r}: known are {sorted(ARCHITECTURES)} with byte-level BPE")

    def of(name: str) -> Any:
        return fields[f"{kind}.{name}"]

    return {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "torch_dtype": "bfloat16",
        "transformers_version": version(
            "transformers"
        ),  # without it transformers suspects a faulty tokenizer
        "hidden_act": "silu",
        "hidden_size": of("embedding_length"),
        "intermediate_size": of("feed_forward_length"),
        "num_hidden_layers": of("block_count"),
        "num_attention_heads": of("attention.head_count"),
        "num_key_value_heads": of("attention.head_count_kv"),
        "max_position_embeddings": of("context_length"),
        "rms_norm_eps": float(f"{of('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": of("rope.freq_base"),
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": tied,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def weights(tensors: list[Packed], config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Dequantise all tensors to bfloat16 under transformers' names."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    found = {}
    for tensor in tensors:
        values = torch.tensor(gguf.dequantize(tensor.data, tensor.kind), dtype=torch.bfloat16)
        stem, kind = tensor.name.rsplit(".", 1)
        block = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
        part = block[2] if block else stem
        if config["model_type"] == "llama" and part in heads:
            values = half_rotary(values, heads[part])
        name = f"model.layers.{block[1]}.{IN_BLOCK[part]}" if block else TOP[part]
        found[f"{name}.{kind}"] = values.contiguous()
    return found


def half_rotary(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Put back a llama's q or k rows: GGUF rotates neighbours, transformers the two halves of a head."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def write_tokenizer(target: Path, fields: Fields) -> None:
    """Write the tokenizer with its chat template."""
    texts, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE({text: i for i, text in enumerate(texts)}, merges))
    match fields["tokenizer.ggml.pre"]:
        case "smollm":
            steps = [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        case "qwen2":
            tokenizer.normalizer = normalizers.NFC()
            split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated")
            steps = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        case other:
            raise SystemExit(f"cannot convert the tokenizer {other!r}")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    marked = [
        (text, kind) for text, kind in zip(texts, kinds, strict=True) if kind in (CONTROL, USER_DEFINED)
    ]
    tokenizer.add_tokens(
        [AddedToken(text, normalized=False, special=kind == CONTROL) for text, kind in marked]
    )
    tokenizer.save(str(target / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": texts[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": texts[fields["tokenizer.ggml.eos_token_id"]],
        "pad_token": texts[fields["tokenizer.ggml.padding_token_id"]],
        "add_bos_token": fields["tokenizer.ggml.add_bos_token"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields[f"{fields['general.architecture']}.context_length"],
    }
    write_json(target / "tokenizer_config.json", config)
    (target / "chat_template.jinja").write_text(fields["tokenizer.chat_template"])


def write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
