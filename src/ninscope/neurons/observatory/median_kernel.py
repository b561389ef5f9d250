"""The exact median of magnitudes, by digits instead of sorting. Arrays and loops only.

The bits of a float32 without its sign are an integer that orders as the number does. Counting the upper 11 of these 31 bits says
which numbers the median is among; of those, few, the next 10 bits are counted, and then the last 10.
"""

import numpy as np
from numba import njit

Array = np.ndarray  # of the shape and dtype that the docstring of the kernel gives

_MAGNITUDE, _UPPER, _LOWER, _DIGIT = np.int32(0x7FFFFFFF), 20, 10, np.int32(1023)


@njit(nogil=True, cache=True)
def magnitude_medians(bits: Array, first: int, last: int, medians: Array) -> None:
    """The lower of the middle |x| of rows first..last-1, as torch.median has it, and as its bits.

    bits: int32 [rows, values], of finite float32. Written: medians, int32 [rows].
    """
    values = bits.shape[1]
    counts = np.empty(1 << (31 - _UPPER), np.int64)
    some = np.empty(values, np.int32)
    for row in range(first, last):
        counts[:] = 0
        for j in range(values):
            counts[(bits[row, j] & _MAGNITUDE) >> _UPPER] += 1
        digit, rank = _reach(counts, (values - 1) // 2)
        found, size = digit << _UPPER, 0
        for j in range(values):
            magnitude = bits[row, j] & _MAGNITUDE
            # Stored always, and kept if the next one goes elsewhere: no branch that cannot be foreseen.
            some[size] = magnitude
            size += magnitude >> _UPPER == digit
        for shift in (_LOWER, 0):
            counts[: _DIGIT + 1] = 0
            for j in range(size):
                counts[(some[j] >> shift) & _DIGIT] += 1
            digit, rank = _reach(counts, rank)
            found |= digit << shift
            kept = 0
            for j in range(size):
                some[kept] = some[j]
                kept += (some[j] >> shift) & _DIGIT == digit
            size = kept
        medians[row] = found


@njit(nogil=True, cache=True)
def _reach(counts: Array, rank: int) -> tuple[int, int]:
    """(the first index up to which more than `rank` are counted, how many of `rank` are left in it)."""
    index = 0
    while counts[index] <= rank:
        rank -= counts[index]
        index += 1
    return index, rank
