"""Statistics of weights from their definitions, in numpy: an oracle that shares nothing with the package."""

import math

import numpy as np

SIGNED = {"q01": 1, "q05": 5, "q25": 25, "q50": 50, "q75": 75, "q95": 95, "q99": 99}
MAGNITUDES = {"abs_q05": 5, "abs_q50": 50, "abs_q95": 95, "abs_q99": 99, "abs_max": 100}


def statistics(weights) -> dict[str, float]:
    """Of all numbers of an array, which are neither all 0 nor all alike."""
    w = np.asarray(weights, np.float64).ravel()
    size, n = np.abs(w), w.size
    deviations = w - w.mean()
    rms = math.sqrt((w**2).mean())
    return {
        "weights": n,
        "norm": np.linalg.norm(w),
        "rms": rms,
        "mean": w.mean(),
        "std": w.std(),
        "kurtosis": (deviations**4).mean() / (deviations**2).mean() ** 2,
        **{name: np.percentile(w, level) for name, level in SIGNED.items()},
        **{name: np.percentile(size, level) for name, level in MAGNITUDES.items()},
        "gini": gini(size),
        "hoyer": (math.sqrt(n) - size.sum() / np.linalg.norm(w)) / (math.sqrt(n) - 1),
        "near_zero": (size < 0.01 * rms).mean(),
        "zeros": (w == 0).mean(),
    }


def gini(size) -> float:
    """Mean absolute difference over twice the mean, pair by pair."""
    total = sum(np.abs(size - one).sum() for one in size)
    return total / size.size**2 / (2 * size.mean())


def change(now, before) -> dict[str, float]:
    now, before = np.ravel(now), np.ravel(before)
    norm = np.linalg.norm
    return {
        "distance": norm(now - before) / norm(before),
        "cosine": now @ before / norm(now) / norm(before),
        "sign_flips": (np.sign(now) * np.sign(before) < 0).mean(),
    }


def ranks(matrix) -> dict[str, float]:
    """From a decomposition of the matrix, of full rank."""
    s = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
    shares = s / s.sum()
    effective = math.exp(-(shares * np.log(shares)).sum())
    return {
        "stable_rank": np.linalg.norm(matrix) ** 2 / s[0] ** 2,
        "effective_rank": effective,
        "proportional_effective_rank": effective / min(matrix.shape),
        "condition_number": s[0] / s[-1],
    }


def alpha(eigenvalues) -> float:
    """Every value above 1e-5 in turn begins the tail; the tail that a power law fits best gives the exponent."""
    values = sorted(value for value in eigenvalues if value > 1e-5)
    few = len(values) < 20
    best = (math.inf, math.nan)
    for first in range(len(values) - 1):
        tail = values[first:]
        n = len(tail)
        if few and n < 8:
            continue
        logs = sum(math.log(value / tail[0]) for value in tail)
        exponent = 1 + (n - few) / logs
        gaps = [abs(i / n - (1 - (value / tail[0]) ** (1 - exponent))) for i, value in enumerate(tail)]
        best = min(best, (max(gaps), exponent))
    return best[1]


def neox_matrices(stored: dict, blocks: int, heads: int) -> dict[str, np.ndarray]:
    """The matrices of a GPT-NeoX by name. stored: its tensors; query_key_value is [head, (q|k|v), head_dim] by rows."""
    matrices = {}
    for number in range(blocks):
        of, here = f"gpt_neox.layers.{number}.", f"block{number}."
        after = f"block{number + 1}." if number + 1 < blocks else "output."
        fused = stored[of + "attention.query_key_value.weight"]
        by_head = fused.reshape(heads, 3, -1, fused.shape[1])
        for part, letter in enumerate("qkv"):
            matrices[f"{here}x -> {here}{letter}"] = by_head[:, part].reshape(-1, fused.shape[1])
        matrices[f"{here}c -> {here}a"] = stored[of + "attention.dense.weight"]
        matrices[f"{here}a -> {here}m"] = stored[of + "mlp.dense_h_to_4h.weight"]
        matrices[f"{here}m -> {after}x"] = stored[of + "mlp.dense_4h_to_h.weight"]
    return matrices
