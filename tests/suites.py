"""Small real suites, made when a test asks: true Pythia initialisation, the Hub's tensor names, the library's own files.

Whole files come from the safetensors library. Files that it would refuse to write (BF16 without torch, broken ones) are
put together by hand from the format's definition: 8 bytes little-endian header length, JSON header, data.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

DTYPE_NAMES = {np.dtype(np.float16): "F16", np.dtype(np.float32): "F32", np.dtype(np.float64): "F64"}
USED = (
    "attention.query_key_value.weight",
    "attention.dense.weight",
    "mlp.dense_h_to_4h.weight",
    "mlp.dense_4h_to_h.weight",
)


class NeoxTensors(dict):
    """Tensors by their Hub names, and in `config` the config.json that belongs to them."""

    def __init__(self, tensors: Mapping[str, np.ndarray], config: dict) -> None:
        super().__init__(tensors)
        self.config = config


def neox_config(blocks: int, width: int, heads: int, intermediate: int | None = None) -> dict:
    """The part of a Pythia model's config.json that says how its weights are joined."""
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "hidden_size": width,
        "intermediate_size": 4 * width if intermediate is None else intermediate,
        "model_type": "gpt_neox",
        "num_attention_heads": heads,
        "num_hidden_layers": blocks,
        "rotary_pct": 0.25,
        "use_parallel_residual": True,
    }


def neox_tensors(
    blocks: int,
    width: int,
    heads: int,
    seed: int,
    dtype: type = np.float16,
    intermediate: int | None = None,
    vocabulary: int = 101,
) -> NeoxTensors:
    """A GPT-NeoX model at its first step, initialised as Pythia was.

    Normal weights of standard deviation sqrt(2/(5 width)) (init_method small_init), those into the residual stream
    2/(blocks sqrt(width)) (output_layer_init_method wang_init); biases 0, layernorm weights 1. Drawn in float32, then cast.
    """
    hidden = 4 * width if intermediate is None else intermediate
    rng = np.random.default_rng(seed)
    small, wang = math.sqrt(2 / (5 * width)), 2 / blocks / math.sqrt(width)

    def normal(rows: int, columns: int, deviation: float) -> np.ndarray:
        return (rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(deviation)).astype(dtype)

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": np.ones(width, dtype), f"{name}.bias": np.zeros(width, dtype)}

    tensors = {"gpt_neox.embed_in.weight": normal(vocabulary, width, small)}
    for number in range(blocks):
        of = f"gpt_neox.layers.{number}."
        tensors |= norm(of + "input_layernorm") | norm(of + "post_attention_layernorm")
        for name, rows, columns, deviation in (
            ("attention.query_key_value", 3 * width, width, small),
            ("attention.dense", width, width, wang),
            ("mlp.dense_h_to_4h", hidden, width, small),
            ("mlp.dense_4h_to_h", width, hidden, wang),
        ):
            tensors[f"{of}{name}.weight"] = normal(rows, columns, deviation)
            tensors[f"{of}{name}.bias"] = np.zeros(rows, dtype)
    tensors |= norm("gpt_neox.final_layer_norm")
    tensors["embed_out.weight"] = normal(vocabulary, width, small)
    return NeoxTensors(tensors, neox_config(blocks, width, heads, intermediate))


def used_names(tensors: Iterable[str]) -> list[str]:
    """The tensors that the network is made of: four weight matrices a block."""
    return [name for name in tensors if name.endswith(USED)]


def write_config(folder: Path, config: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def write_checkpoint(
    folder: Path, tensors: Mapping[str, np.ndarray], config: dict | None = None, shards: int = 1
) -> Path:
    """config.json and the weights in `folder`, which is returned. config: that of `NeoxTensors` where none is given.

    With more than one shard, model-0000i-of-0000n.safetensors and their index, tensors dealt out in turn.
    """
    write_config(folder, tensors.config if config is None else config)
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(tensors)}
    for shard in sorted(set(weight_map.values())):
        part = {name: array for name, array in tensors.items() if weight_map[name] == shard}
        save_file(part, folder / shard, metadata={"format": "pt"})
    total = sum(array.nbytes for array in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_suite(folder: Path, steps: Iterable[int], seed: int = 0, shards: int = 1, **kwargs) -> Path:
    """One revision folder a step, step0, step1, ...: each other weights of the same model. kwargs: of `neox_tensors`."""
    for step in steps:
        write_checkpoint(folder / f"step{step}", neox_tensors(seed=seed + step, **kwargs), shards=shards)
    return folder


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Finite floats as bfloat16 bits, uint16: float32's upper half, rounded half to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits, uint16, as the float32 they stand for, through the format's definition and not by reinterpretation."""
    sign = np.where(bits >> 15, -1.0, 1.0)
    exponent, fraction = (bits >> 7 & 0xFF).astype(np.int64), (bits & 0x7F) / 128.0
    normal = np.ldexp(1.0 + fraction, np.clip(exponent, 1, 254) - 127)
    return (sign * np.where(exponent == 0, np.ldexp(fraction, -126), normal)).astype(np.float32)


def write_bf16(folder: Path, tensors: Mapping[str, np.ndarray], config: dict | None = None) -> Path:
    """A checkpoint of BF16 weights, which numpy and so the library's writer lack."""
    write_config(folder, tensors.config if config is None else config)
    bits = {name: to_bf16(array) for name, array in tensors.items()}
    content = safetensors_bytes({name: ("BF16", array.shape, array.tobytes()) for name, array in bits.items()})
    (folder / "model.safetensors").write_bytes(content)
    return folder


FLOATS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}


def written(folder, tensors, dtype):
    """The checkpoint in `folder` with weights of this type, and the weights as they are stored, float64."""
    if dtype == "BF16":
        stored = {name: from_bf16(to_bf16(array)).astype(np.float64) for name, array in tensors.items()}
        return write_bf16(folder, tensors), stored
    typed = {name: np.ascontiguousarray(array, dtype=FLOATS[dtype]) for name, array in tensors.items()}
    stored = {name: array.astype(np.float64) for name, array in typed.items()}
    return write_checkpoint(folder, typed, tensors.config), stored


def safetensors_bytes(
    entries: Mapping[str, tuple[str, Iterable[int], bytes]], multiple: int = 8, metadata: dict | None = None
) -> bytes:
    """A safetensors file of (dtype, shape, content) by name, in this order, without gaps.

    multiple: the header is filled with spaces until the data starts at a multiple of it; 8 is what the library does, and
    an odd start with multiple=1 is as valid.
    """
    header, start = {} if metadata is None else {"__metadata__": metadata}, 0
    for name, (dtype, shape, content) in entries.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + len(content)]}
        start += len(content)
    raw = json.dumps(header).encode()
    return with_header(raw + b" " * (-len(raw) % multiple), b"".join(entry[2] for entry in entries.values()))


def with_header(header: bytes | dict | list, data: bytes = b"") -> bytes:
    """A file of this header, valid or not, and this data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """A float array as `safetensors_bytes` takes it."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    return DTYPE_NAMES[array.dtype], array.shape, little.tobytes()


def offsets_of(content: bytes) -> dict[str, tuple[int, int]]:
    """Where each tensor's bytes lie in a safetensors file, counted from its first byte."""
    base = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:base])
    header.pop("__metadata__", None)
    return {name: (base + about["data_offsets"][0], base + about["data_offsets"][1]) for name, about in header.items()}


def copy_weights(suite: Path, of: str, to: str) -> None:
    """The weights of one step, or its last shard, in another."""
    file = sorted((suite / of).glob("*.safetensors"))[-1].name
    shutil.copy(suite / of / file, suite / to / file)


def copied_clause(suite: Path, of: str) -> str:
    """What the audit says of it, of suites in one file or in three shards."""
    if (suite / of / "model.safetensors").exists():
        return f"the same weights as {of}"
    return f"model-00003-of-00003.safetensors (of 3 shards) is that of {of}"
