"""Dense rows of weights to compressed sparse rows, written straight into the arrays that will hold all edges."""

import numpy as np
from numba import njit

from ninscope.networks.transfer import epsilon


def compress_rows(
    weights: np.ndarray,
    targets: np.ndarray,
    max_distance: float,
    columns: np.ndarray,
    values: np.ndarray,
    at: int,
) -> tuple[np.ndarray, int]:
    """Append the edges with 1/|w| <= max_distance, row after row, to `columns` and `values` from position `at`.

    weights: float16/32/64 [sources, targets]; targets: int32 or int64 [targets], the column number of each; columns: of the
    same type; values: float32 or float64. Both must have room for every weight and one more.
    Returns (edges of each row, int64 [sources], the position after the last edge).
    """
    if (
        at + weights.size >= min(columns.size, values.size)
        or columns.dtype != targets.dtype
        or targets.size != weights.shape[1]
    ):
        raise ValueError(
            f"{weights.size} weights may not fit behind position {at}: compiled code would leave the arrays"
        )
    wide = np.ascontiguousarray(weights, dtype=values.dtype)
    return _compress(wide, np.ascontiguousarray(targets), epsilon(max_distance), columns, values, at)


@njit(cache=True, nogil=True)
def _compress(
    weights: np.ndarray, targets: np.ndarray, smallest: float, columns: np.ndarray, values: np.ndarray, at: int
) -> tuple[np.ndarray, int]:
    rows, width = weights.shape
    counts = np.zeros(rows, np.int64)
    for i in range(rows):
        before = at
        for j in range(width):
            # Every edge is written and only kept ones move on: which are kept is random, and a branch would be mispredicted.
            columns[at] = targets[j]
            values[at] = weights[i, j]
            at += int(abs(np.float64(weights[i, j])) >= smallest)
        counts[i] = at - before
    return counts, at
