"""Small checkpoints, and ways to damage them."""

import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from suites import neox_tensors, safetensors_bytes, used_names, write_checkpoint

SHAPE = {"blocks": 1, "width": 16, "heads": 2}
GOOD = (0, 1, 8)
MEASURE = ("--nodes-per-layer", "12", "--samples", "3")
FUSED = "gpt_neox.layers.0.attention.query_key_value.weight"
DENSE = "gpt_neox.layers.0.attention.dense.weight"
ROW_KEYS = [
    "revision", "step", "status", "message", "method", "alpha0", "alpha0_std", "width", "width_std", "emergence", "nodes",
    "edges", "warning", "baseline",
]  # fmt: skip


def tensors_with(**changes):
    tensors = neox_tensors(seed=99, **SHAPE)
    tensors.update(changes)
    return tensors


def with_value(value: float):
    tensors = neox_tensors(seed=99, **SHAPE)
    tensors[DENSE][3, 5] = value
    return tensors


def without_config(folder: Path) -> None:
    write_checkpoint(folder, neox_tensors(seed=99, **SHAPE))
    (folder / "config.json").unlink()


def with_config(folder: Path, content: str) -> None:
    write_checkpoint(folder, neox_tensors(seed=99, **SHAPE))
    (folder / "config.json").write_text(content)


def without_weights(folder: Path) -> None:
    write_checkpoint(folder, neox_tensors(seed=99, **SHAPE))
    (folder / "model.safetensors").unlink()


def without_a_shard(folder: Path) -> None:
    write_checkpoint(folder, neox_tensors(seed=99, **SHAPE), shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()


def with_bytes(folder: Path, change) -> None:
    write_checkpoint(folder, neox_tensors(seed=99, **SHAPE))
    file = folder / "model.safetensors"
    file.write_bytes(change(file.read_bytes()))


def without_a_tensor(folder: Path) -> None:
    tensors = neox_tensors(seed=99, **SHAPE)
    del tensors[DENSE]
    write_checkpoint(folder, tensors)


def with_integers(folder: Path) -> None:
    """Weights of a used matrix as I8, as quantised files have them."""
    tensors = neox_tensors(seed=99, **SHAPE)
    entries = {name: ("F16", array.shape, array.tobytes()) for name, array in tensors.items()}
    entries[DENSE] = ("I8", (16, 16), bytes(256))
    write_checkpoint(folder, tensors)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(entries))


def zeroed(step: int, names=None):
    tensors = neox_tensors(seed=step, **SHAPE)
    for name in used_names(tensors) if names is None else names:
        tensors[name][...] = 0
    return tensors


# kind: (how it is made, status, what the message must say)
BAD = {
    "config absent": (without_config, "missing", "config.json is absent"),
    "config not JSON": (lambda folder: with_config(folder, "{'a': 1}"), "corrupt", "config.json: not JSON"),
    "config no object": (lambda folder: with_config(folder, "[]"), "corrupt", "config.json: not a JSON object"),
    "type unknown": (lambda folder: with_config(folder, '{"model_type": "bloom"}'), "unsupported", "'bloom'.*gpt_neox"),
    "type absent": (lambda folder: with_config(folder, "{}"), "unsupported", "model_type"),
    "sizes absent": (
        lambda folder: with_config(folder, '{"model_type": "gpt_neox"}'),
        "corrupt",
        "config.json: num_hidden_layers is None",
    ),
    "weights absent": (without_weights, "missing", "no model.safetensors"),
    "shard absent": (without_a_shard, "missing", "model-00002-of-00002.safetensors is absent"),
    "tensor absent": (without_a_tensor, "corrupt", re.escape(f"tensor {DENSE} is absent")),
    "tensor of wrong shape": (
        lambda folder: write_checkpoint(folder, tensors_with(**{DENSE: np.zeros((16, 17), np.float16)})),
        "corrupt",
        re.escape(f"tensor {DENSE} has shape [16, 17]"),
    ),
    "tensor of integers": (with_integers, "unsupported", re.escape(f"tensor {DENSE} is of type I8")),
    "truncated": (lambda folder: with_bytes(folder, lambda raw: raw[:-100]), "corrupt", "model.safetensors: truncated"),
    "truncated header": (lambda folder: with_bytes(folder, lambda raw: raw[:40]), "corrupt", "truncated"),
    "empty": (lambda folder: with_bytes(folder, lambda raw: b""), "corrupt", "0 bytes are too few"),
    "garbage": (lambda folder: with_bytes(folder, lambda raw: b"<!doctype html>" * 99), "corrupt", "not a safetensors file"),
    "NaN": (lambda folder: write_checkpoint(folder, with_value(math.nan)), "nonfinite", f"{re.escape(DENSE)}.*row 3.*column 5"),
    "infinity": (lambda folder: write_checkpoint(folder, with_value(-math.inf)), "nonfinite", f"{re.escape(DENSE)}.*row 3"),
}  # fmt: skip


def with_empty_profile(path):
    """A colour profile of no bytes behind the pixels of a PNG file, of which PIL raises IndexError."""
    content, kind = path.read_bytes(), b"iCCP"
    chunk = struct.pack(">I", 0) + kind + struct.pack(">I", zlib.crc32(kind))
    end = content.rindex(b"IEND") - 4
    path.write_bytes(content[:end] + chunk + content[end:])
    return path
