"""Checkpoints of real models' shapes with random weights of Pythia's initialisation, made on the spot."""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

# blocks, width, heads (NeuroMFA, Table 1)
SHAPES = {
    "tiny": (2, 64, 4),
    "deep": (36, 512, 8),
    "70m": (6, 512, 8),
    "160m": (12, 768, 12),
    "410m": (24, 1024, 16),
    "1.4b": (24, 2048, 16),
    "2.8b": (32, 2560, 32),
    "6.9b": (32, 4096, 32),
}


def write_checkpoint(folder: Path, shape: str, seed: int = 0, vocabulary: int = 512) -> Path:
    """An fp16 GPT-NeoX checkpoint in `folder`; the vocabulary is small, since embeddings are not read."""
    blocks, width, _ = SHAPES[shape]
    generator = np.random.default_rng(seed)

    def normal(rows: int, columns: int, deviation: float) -> np.ndarray:
        return (generator.standard_normal((rows, columns), dtype=np.float32) * deviation).astype(np.float16)

    small, residual = (2 / (5 * width)) ** 0.5, 2 / blocks / width**0.5
    tensors = {
        "gpt_neox.embed_in.weight": normal(vocabulary, width, small),
        "embed_out.weight": normal(vocabulary, width, small),
    }
    for block in range(blocks):
        name = f"gpt_neox.layers.{block}."
        tensors[name + "attention.query_key_value.weight"] = normal(3 * width, width, small)
        tensors[name + "attention.dense.weight"] = normal(width, width, residual)
        tensors[name + "mlp.dense_h_to_4h.weight"] = normal(4 * width, width, small)
        tensors[name + "mlp.dense_4h_to_h.weight"] = normal(width, 4 * width, residual)
    _write_config(folder, shape)
    save_file(tensors, folder / "model.safetensors")
    return folder


def used_shapes(shape: str) -> dict[str, tuple[int, int]]:
    """The matrices that a network is made of, as the file names them."""
    blocks, width, _ = SHAPES[shape]
    return {
        f"gpt_neox.layers.{block}.{name}.weight": size
        for block in range(blocks)
        for name, size in {
            "attention.query_key_value": (3 * width, width),
            "attention.dense": (width, width),
            "mlp.dense_h_to_4h": (4 * width, width),
            "mlp.dense_4h_to_h": (width, 4 * width),
        }.items()
    }


def write_empty_checkpoint(folder: Path, shape: str) -> Path:
    """An fp16 checkpoint whose weights are all zero: whatever its size, it takes no room on disk."""
    _write_config(folder, shape)
    header, stop = {}, 0
    for name, size in sorted(used_shapes(shape).items()):
        start, stop = stop, stop + 2 * size[0] * size[1]
        header[name] = {"dtype": "F16", "shape": size, "data_offsets": [start, stop]}
    raw = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + stop)
    return folder


def _write_config(folder: Path, shape: str) -> None:
    blocks, width, heads = SHAPES[shape]
    config = {
        "model_type": "gpt_neox", "num_hidden_layers": blocks, "hidden_size": width, "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":  # python -m benchmarks.shapes SHAPE FOLDER
    write_checkpoint(Path(sys.argv[2]), sys.argv[1])
