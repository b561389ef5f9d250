"""U-centring of a kernel matrix in two passes over it, where torch takes ten. Arrays and loops only."""

import numpy as np
from numba import njit

Array = np.ndarray  # of the shape and dtype that the docstring of the kernel gives

_ROUNDING = 1e-13  # of the largest entry


@njit(nogil=True, cache=True, error_model="numpy")
def u_centre(kernel: Array) -> None:
    """In place: the diagonal becomes 0, and so does every sum of a row. kernel: float64 [m, m], symmetric, m of 4 or more.

    Entries that are all the same, as a constant layer's, become exactly 0, where rounding would leave something.
    """
    m = kernel.shape[0]
    columns = np.zeros(m)
    for i in range(m):
        kernel[i, i] = 0
        row = kernel[i]
        for j in range(m):
            columns[j] += row[j]
    columns /= m - 2
    offsets = columns - columns.sum() / (m - 1)
    before, after = 0.0, 0.0
    for i in range(m):
        row = kernel[i]
        for j in range(m):
            before = max(before, abs(row[j]))
            row[j] = (row[j] - columns[i]) - offsets[j]
        row[i] = 0
        for j in range(m):
            after = max(after, abs(row[j]))
    if after <= _ROUNDING * before:
        kernel[:] = 0
