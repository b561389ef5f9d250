"""Dense rows of weights to compressed sparse rows: two passes over the rows, count and fill."""

import numpy as np
from numba import njit

from ninscope.networks.transfer import epsilon


def compress_rows(weights: np.ndarray, targets: np.ndarray, max_distance: float):
    """Keep the edges with 1/|w| <= max_distance.

    weights: float16/32/64 [sources, targets]; targets: int32 or int64 [targets], the column number of each.
    Returns (counts int64 [sources], columns [edges] of targets' type, weights float32 or float64 [edges]), row after row.
    """
    wide = np.float64 if weights.dtype == np.float64 else np.float32
    return _compress(np.ascontiguousarray(weights, dtype=wide), targets, epsilon(max_distance))


@njit(cache=True, nogil=True)
def _compress(weights, targets, epsilon):
    rows, columns = weights.shape
    counts = np.zeros(rows, np.int64)
    edges = 0
    for i in range(rows):
        kept = 0
        for j in range(columns):
            kept += abs(np.float64(weights[i, j])) >= epsilon
        counts[i] = kept
        edges += kept
    # Every edge is written and only kept ones move on: which edge is kept is random, and a branch would be mispredicted.
    kept_columns = np.empty(edges + 1, targets.dtype)
    kept_weights = np.empty(edges + 1, weights.dtype)
    at = 0
    for i in range(rows):
        for j in range(columns):
            kept_columns[at] = targets[j]
            kept_weights[at] = weights[i, j]
            at += abs(np.float64(weights[i, j])) >= epsilon
    return counts, kept_columns[:edges], kept_weights[:edges]
