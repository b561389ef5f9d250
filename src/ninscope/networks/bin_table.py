"""From the bits of a stored weight to its distance bin, by look-up: the same bin that float64 arithmetic gives, no division.

A weight's magnitude grows with its bits read as an unsigned integer, and its distance falls with its magnitude, so bins are
runs of consecutive bit patterns. A 16-bit type has so few patterns that a table holds them all. A wider type's upper bits
lead to the run that holds the smallest such pattern, and comparisons with the starts of the next runs find the right one.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ninscope.networks.transfer import UNCOUNTED, distance_bins, radius_count

# Magnitudes are compared as their bits; these are the patterns of infinity, from which on there is no number, and of 1.
_UNSIGNED = {"F16": np.uint16, "BF16": np.uint16, "F32": np.uint32, "F64": np.uint64}
_INFINITY = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000, "F64": 0x7FF0000000000000}
_ONE = {"F16": 0x3C00, "BF16": 0x3F80, "F32": 0x3F800000, "F64": 0x3FF0000000000000}
# Exponent bits and 8 of the mantissa: among numbers that agree in these, bins of up to 255 radii change at most once.
_PREFIX_BITS = {"F32": 8 + 8, "F64": 11 + 8}


@dataclass(frozen=True)
class BinTable:
    """How the bits of one stored type become bins.

    Bins 0..K are distance bins; K + 1 stands for an edge that does not count, K + 2 for NaN or infinity. magnitude: mask that
    takes the sign away; shift: from magnitude bits to table entries; table: bin (16-bit types, shift 0) or number of the run
    that holds the entry's smallest pattern; bins: the bin of each run of patterns; starts: its first pattern, and
    one more that is beyond all.
    """

    radius_count: int
    magnitude: np.unsignedinteger
    shift: int
    table: np.ndarray
    starts: np.ndarray
    bins: np.ndarray

    @property
    def uncounted(self) -> int:
        return self.radius_count + 1

    @property
    def nonfinite(self) -> int:
        return self.radius_count + 2

    @property
    def width(self) -> int:
        """Columns a histogram needs: 0..K, uncounted, nonfinite."""
        return self.radius_count + 3


@lru_cache(maxsize=32)
def bin_table(dtype: str, transfer: str, max_distance: float) -> BinTable:
    """The table for a stored type (F16, BF16, F32, F64), a transfer function and its bound."""
    unsigned, infinity = _UNSIGNED[dtype], _INFINITY[dtype]
    bits = 8 * np.dtype(unsigned).itemsize
    count = radius_count(max_distance)

    def bins_of(patterns: np.ndarray) -> np.ndarray:
        found = distance_bins(_floats(patterns, dtype), transfer, max_distance).astype(np.int64)
        return np.where(found == UNCOUNTED, count + 1, found)

    starts = _run_starts(bins_of, _ONE[dtype], infinity, unsigned)
    bins = np.append(bins_of(starts[:-1]), count + 2).astype(np.uint16)
    magnitude = unsigned((1 << (bits - 1)) - 1)
    if bits == 16:
        patterns = np.arange(1 << 15, dtype=np.uint16)
        table, shift = bins[np.searchsorted(starts, patterns, side="right") - 1], 0
        table = table.astype(np.uint8 if count + 2 < 256 else np.uint16)
    else:
        shift = bits - 1 - _PREFIX_BITS[dtype]
        smallest = np.arange(1 << _PREFIX_BITS[dtype], dtype=unsigned) << unsigned(shift)
        table = (np.searchsorted(starts, smallest, side="right") - 1).astype(np.uint16)
    beyond = np.array([np.iinfo(unsigned).max], dtype=unsigned)
    return BinTable(count, magnitude, shift, table, np.concatenate([starts, beyond]), bins)


def _floats(patterns: np.ndarray, dtype: str) -> np.ndarray:
    """The nonnegative numbers with these bits."""
    if dtype == "BF16":
        return (patterns.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return patterns.view({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype])


def _run_starts(bins_of, one: int, infinity: int, unsigned) -> np.ndarray:
    """First pattern of every run of equal bins, ascending, then infinity: by bisection, all runs at once.

    From 0 to just below `one` bins fall, from uncounted (K + 1) over K to the last; from `one` on nothing counts.
    """
    most, least = (int(bins_of(np.array([pattern], dtype=unsigned))[0]) for pattern in (0, one - 1))
    wanted = np.arange(most - 1, least - 1, -1)
    before = np.zeros(wanted.size, dtype=unsigned)  # bin > wanted
    reached = np.full(wanted.size, one - 1, dtype=unsigned)  # bin <= wanted
    while (reached - before > 1).any():
        middle = before + (reached - before) // unsigned(2)
        there = bins_of(middle) <= wanted
        reached, before = np.where(there, middle, reached), np.where(there, before, middle)
    ends = np.array([0, one, infinity], dtype=unsigned)  # not mixed with signed integers: that would round
    return np.unique(np.concatenate([ends, reached]))
