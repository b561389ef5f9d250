"""The exact median of magnitudes, by digits instead of sorting. Arrays and loops only.

The bits of a float32 without its sign are an integer that orders as the number does. Its upper 11 bits of 31, the digit, say
roughly where it lies. Rows of one place are alike, so the median's digit is looked for near that of the row before: one pass
counts what lies below and keeps what lies near, few, of which the lower bits are counted then, ten at a time. Where the median
lies elsewhere, the upper bits of all numbers are counted first.
"""

import numpy as np
from numba import njit

Array = np.ndarray  # of the shape and dtype that the docstring of the kernel gives

_MAGNITUDE, _UPPER, _LOWER, _DIGIT = np.int32(0x7FFFFFFF), 20, 10, np.int32(1023)


@njit(nogil=True, cache=True)
def magnitude_medians(bits: Array, first: int, last: int, medians: Array, largest: Array) -> None:
    """The lower of the middle |x| of rows first..last-1, as torch.median has it, and the largest |x|, both as their bits.

    bits: int32 [rows, values], of finite float32. Written: medians, largest, int32 [rows].
    """
    values = bits.shape[1]
    counts = np.empty(1 << (31 - _UPPER), np.int64)
    some = np.empty(values + 1, np.int32)
    digit = -1
    for row in range(first, last):
        rank, size, below = (values - 1) // 2, 0, 0
        largest[row] = _largest(bits[row])
        if digit >= 0:
            size, below = _near(bits[row], (digit - 1) << _UPPER, some)
        if digit < 0 or not below <= rank < below + size:
            digit = _digit_of(bits[row], counts, rank)
            size, below = _near(bits[row], (digit - 1) << _UPPER, some)
        medians[row] = _middle(some, size, rank - below, counts)
        digit = medians[row] >> _UPPER


@njit(nogil=True, cache=True)
def _largest(bits: Array) -> np.int32:
    found = np.int32(0)
    for j in range(bits.size):
        magnitude = np.int32(bits[j] & _MAGNITUDE)
        found = magnitude if magnitude > found else found
    return found


@njit(nogil=True, cache=True)
def _near(bits: Array, low: int, some: Array) -> tuple[int, int]:
    """(how many magnitudes are within three digits from `low`, which are written to `some`, how many below)."""
    size, below, span = 0, 0, 3 << _UPPER
    for j in range(bits.size):
        magnitude = np.int32(bits[j] & _MAGNITUDE)
        # Stored always, and kept if the next one goes elsewhere: no branch that cannot be foreseen.
        some[size] = magnitude
        off = int(magnitude) - low
        below += int(off < 0)
        size += int((off >= 0) & (off < span))
    return size, below


@njit(nogil=True, cache=True)
def _digit_of(bits: Array, counts: Array, rank: int) -> int:
    """The digit of the magnitude of this rank."""
    counts[:] = 0
    for j in range(bits.size):
        counts[(bits[j] & _MAGNITUDE) >> _UPPER] += 1
    return _reach(counts, rank)[0]


@njit(nogil=True, cache=True)
def _middle(some: Array, size: int, rank: int, counts: Array) -> int:
    """The number of this rank among the first `size`, which are of few digits; they are moved about."""
    start = 1 << (31 - _UPPER)
    for j in range(size):
        start = min(start, int(some[j]) >> _UPPER)
    found = 0
    for shift in (_UPPER, _LOWER, 0):
        base = start if shift == _UPPER else 0
        counts[: _DIGIT + 1] = 0
        for j in range(size):
            counts[((some[j] >> shift) - base) & _DIGIT] += 1
        digit, rank = _reach(counts, rank)
        found |= (digit + base) << shift
        kept = 0
        for j in range(size):
            number = some[j]
            some[kept] = number
            kept += int(((number >> shift) - base) & _DIGIT == digit)
        size = kept
    return found


@njit(nogil=True, cache=True)
def _reach(counts: Array, rank: int) -> tuple[int, int]:
    """(the first index up to which more than `rank` are counted, how many of `rank` are left in it)."""
    index = 0
    while counts[index] <= rank:
        rank -= counts[index]
        index += 1
    return index, rank
