"""Checkpoints of real models' shapes with random weights of Pythia's initialisation, made on the spot."""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

# blocks, width, heads (paper A, Table 1)
SHAPES = {
    "tiny": (2, 64, 4),
    "deep": (36, 512, 8),
    "70m": (6, 512, 8),
    "160m": (12, 768, 12),
    "410m": (24, 1024, 16),
    "1.4b": (24, 2048, 16),
}


def write_checkpoint(folder: Path, shape: str, seed: int = 0, vocabulary: int = 512) -> Path:
    """An fp16 GPT-NeoX checkpoint in `folder`; the vocabulary is small, since embeddings are not read."""
    blocks, width, heads = SHAPES[shape]
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
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    config = {
        "model_type": "gpt_neox", "num_hidden_layers": blocks, "hidden_size": width, "num_attention_heads": heads,
        "intermediate_size": 4 * width, "vocab_size": vocabulary,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


if __name__ == "__main__":  # python -m benchmarks.shapes SHAPE FOLDER
    write_checkpoint(Path(sys.argv[2]), sys.argv[1])
