"""U-centring of a kernel matrix in two passes over it, where torch takes ten. Arrays and loops only."""

import numpy as np
from numba import njit

Array = np.ndarray  # of the shape and dtype that the docstring of the kernel gives


@njit(nogil=True, cache=True, error_model="numpy")
def u_centre(kernel: Array) -> None:
    """In place: the diagonal becomes 0, and so does every sum of a row. kernel: float64 [m, m], symmetric, m of 4 or more."""
    m = kernel.shape[0]
    columns = np.zeros(m)
    for i in range(m):
        kernel[i, i] = 0
        row = kernel[i]
        for j in range(m):
            columns[j] += row[j]
    columns /= m - 2
    offset = columns.sum() / (m - 1)
    for i in range(m):
        row, off = kernel[i], columns[i] - offset
        for j in range(m):
            row[j] -= off + columns[j]
        row[i] = 0
