"""What one would write with numpy on an afternoon: the whole tensors as float32, one histogram and one power at a time."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def count_columns(weights: np.ndarray) -> np.ndarray:
    """Edges per column and rounded distance of a weight matrix, int64 [columns, 151]."""
    with np.errstate(divide="ignore"):
        distances = 1 / np.abs(weights.T.astype(np.float64))
    counts = np.zeros((len(distances), 151), np.int64)
    for node, row in enumerate(distances):
        counted = row[(row > 1) & (row <= 150)]
        counts[node] = np.bincount(np.rint(counted).astype(int), minlength=151)
    return counts


def measure_one_sample(folder: Path, nodes_per_layer: int, q: np.ndarray) -> tuple[float, float]:
    """(alpha0, width) of one sample of a GPT-NeoX checkpoint, neurons drawn anew."""
    tensors = {name: value.astype(np.float32) for name, value in load_file(folder / "model.safetensors").items()}
    generator = np.random.default_rng(0)
    counts = []
    blocks = sum(name.endswith("attention.dense.weight") for name in tensors)
    for block in range(blocks):
        of = f"gpt_neox.layers.{block}."
        fused = tensors[of + "attention.query_key_value.weight"]
        width = fused.shape[1]

        def some(size):
            return np.sort(generator.choice(size, min(nodes_per_layer, size), replace=False))

        x, c, a, m, after = some(width), some(width), some(width), some(4 * width), some(width)
        qkv = np.concatenate([c, width + c, 2 * width + c])
        for matrix in (
            fused[np.ix_(qkv, x)],
            tensors[of + "attention.dense.weight"][np.ix_(a, c)],
            tensors[of + "mlp.dense_h_to_4h.weight"][np.ix_(m, a)],
            tensors[of + "mlp.dense_4h_to_h.weight"][np.ix_(after, m)],
        ):
            with np.errstate(divide="ignore"):
                distances = 1 / np.abs(matrix.T.astype(np.float64))
            for row in distances:
                row = np.rint(row[(row > 1) & (row <= 150)]).astype(int)
                if row.size > 10:
                    counts.append(np.bincount(row, minlength=151))
    counts = np.array(counts)
    radii = np.flatnonzero(counts.sum(axis=0))
    boxes = 1 + np.cumsum(counts, axis=1)[:, radii]
    p = boxes / boxes[:, -1:]
    log_p = np.log(p)
    z = np.array([(p**order).sum(axis=0) for order in q])
    m = np.array([(p**order * log_p).sum(axis=0) for order in q])
    x = np.log(radii / radii[-1])
    x -= x.mean()
    tau = np.log(z) @ x / (x @ x)
    alpha = (m / z) @ x / (x @ x)
    f = q * alpha - tau
    return float(alpha[f.argmax()]), float(np.ptp(alpha))
