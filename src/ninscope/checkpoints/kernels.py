"""Arithmetic on stored weights: Euclidean norms of a convolution's kernels and of rows."""

from functools import lru_cache

import numpy as np
from numba import njit

from ninscope.checkpoints.tensors import as_float

_SAFE = 1e140  # between its inverse and itself a float64's square neither overflows nor vanishes


def kernel_norms(bits: np.ndarray, dtype: str) -> np.ndarray:
    """Norms of kernels, as the bits of F32, or of F64 where the weights are F64.

    bits: stored weights, unsigned integers [m, n, taps]; dtype: F16, BF16, F32 or F64. Sums are taken in float64, in the order
    of the taps, and rounded once. Returns uint32 or uint64 [m, n]; the norm of a kernel with NaN or infinity is not finite, and
    that of finite weights always is.
    """
    if dtype in ("F16", "BF16"):
        flat = np.ascontiguousarray(bits).reshape(-1, bits.shape[2])
        sums = _sums_by_table(flat, _squares(dtype))
        norms = np.sqrt(sums).reshape(bits.shape[:2])
    else:
        values = np.ascontiguousarray(bits).view(f"f{bits.itemsize}").reshape(-1, bits.shape[2])
        norms = _norms(values.astype(np.float64, copy=False), _SAFE).reshape(bits.shape[:2])
    if dtype == "F64":
        return norms.view(np.uint64)
    largest = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        narrow = norms.astype(np.float32)
    if np.isinf(narrow).any():  # finite kernels whose norm is just beyond the type
        narrow = np.where(np.isinf(narrow) & np.isfinite(norms), largest, narrow)
    return narrow.view(np.uint32)


@lru_cache(maxsize=2)
def _squares(dtype: str) -> np.ndarray:
    """The square of every magnitude of a 16-bit type, float64 [32768]."""
    patterns = np.arange(1 << 15, dtype=np.uint16)
    with np.errstate(invalid="ignore"):  # among the patterns are those of NaN
        values = as_float(patterns if dtype == "BF16" else patterns.view(np.float16), dtype).astype(np.float64)
        squares = values * values
    squares.flags.writeable = False
    return squares


@njit(cache=True, nogil=True)
def _sums_by_table(bits: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Sum of squares of each row of bits, uint16 [n, taps]."""
    rows, taps = bits.shape
    sums = np.empty(rows)
    for i in range(rows):
        total = 0.0
        for t in range(taps):
            total += squares[bits[i, t] & 0x7FFF]
        sums[i] = total
    return sums


@njit(cache=True, nogil=True, error_model="numpy")
def _norms(values: np.ndarray, safe: float) -> np.ndarray:
    """Norm of each row of float64 [n, taps]; rows whose squares would overflow or vanish are scaled first."""
    rows, taps = values.shape
    norms = np.empty(rows)
    for i in range(rows):
        total = 0.0
        for t in range(taps):
            total += values[i, t] * values[i, t]
        norms[i] = np.sqrt(total)
        if not (1.0 / safe < norms[i] < safe) and total == total:
            largest = 0.0
            for t in range(taps):
                largest = max(largest, abs(values[i, t]))
            if 0.0 < largest < np.inf:
                total = 0.0
                for t in range(taps):
                    scaled = values[i, t] / largest
                    total += scaled * scaled
                norms[i] = min(largest * np.sqrt(total), 1.7976931348623157e308)
    return norms


def row_norms(values: np.ndarray) -> np.ndarray:
    """Euclidean norm of each row, float64 [m], of float64 [m, n]; sums are taken in the order of the columns."""
    return _norms(np.ascontiguousarray(values), _SAFE)
