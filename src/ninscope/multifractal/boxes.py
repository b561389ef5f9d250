"""Box growing: how many edges of each node fall at each radius (paper A, 4.2 and Algorithm 5, lines 3-11)."""

import numpy as np
from numba import njit


def box_histogram(indptr: np.ndarray, bins: np.ndarray, radius_count: int) -> np.ndarray:
    """Edges per node and distance bin.

    indptr: int [nodes + 1], one row a node; bins: int16 [edges], values 0..radius_count, negative where an edge is not
    counted. Returns int32 [nodes, radius_count + 1]; its running sum over axis 1, plus 1, is N_i(r).
    """
    return _histogram(np.asarray(indptr, dtype=np.int64), bins, radius_count)


@njit(cache=True, nogil=True)
def _histogram(indptr, bins, radius_count):
    nodes = indptr.size - 1
    counts = np.zeros((nodes, radius_count + 1), np.int32)
    for i in range(nodes):
        for edge in range(indptr[i], indptr[i + 1]):
            if bins[edge] >= 0:
                counts[i, bins[edge]] += 1
    return counts
