"""Spikes: the singular values of a matrix beyond the largest of the same weights shuffled, which are directions that were written.

Shuffling keeps the weights and destroys their places. So what lies beyond is structure; neither the size of the weights nor heavy
tails are. The bound is MARGIN times the largest singular value of one shuffle, which varies by less from shuffle to shuffle.
"""

import math
from dataclasses import dataclass

import numpy as np

from ninscope.seeding import words_of

MARGIN = 1.02


@dataclass(frozen=True)
class Spikes:
    """count: singular values beyond the bound. share: of them in ||W||_F^2; NaN where there is none, and `message` says why.
    bound: what singular values must exceed. squares: ||W||_F^2."""

    count: int
    share: float
    bound: float
    squares: float
    message: str = ""


def spikes(weights: np.ndarray, name: str, seed: int = 0) -> Spikes:
    """weights: floats [m, n], finite. name, seed: decide how they are shuffled.

    Squares of singular values are eigenvalues of the smaller Gram matrix, in float64: those beyond the bound are exact to
    1e-13 of the largest one.
    """
    weights = np.asarray(weights, np.float64)
    total = float(np.einsum("ij,ij->", weights, weights))
    if not total:
        return Spikes(0, math.nan, math.nan, 0.0, "a matrix of zeros has no spikes")
    if not math.isfinite(total):
        return Spikes(0, math.nan, math.nan, math.inf, "weights are too large for their squares")
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words_of(name)[:4]])))
    shuffled = weights.reshape(-1).copy()
    random.shuffle(shuffled)
    largest = float(squared_singular_values(shuffled.reshape(weights.shape))[-1])
    values = squared_singular_values(weights)
    beyond = values[values > MARGIN**2 * largest]
    return Spikes(beyond.size, min(math.fsum(beyond) / total, 1.0), MARGIN * math.sqrt(largest), total)


def squared_singular_values(weights: np.ndarray) -> np.ndarray:
    """Ascending, float64 [min(m, n)], of float64 [m, n]."""
    gram = weights @ weights.T if len(weights) <= weights.shape[1] else weights.T @ weights
    return np.linalg.eigvalsh(gram)
