"""A table of bins as kernels on a device read it: cut to the patterns whose bins differ, so that it fits into shared memory.

Below the weight of the longest distance that counts nothing counts, and neither does anything from 1 on: of the 32,768 patterns of
bfloat16 some 900 lie between, of float16 7,500, of float32 one prefix in thirty. Patterns outside have the bin of the nearest end.
"""

from dataclasses import dataclass

import numpy as np

from ninscope.networks.bin_table import BinTable, JointTable, distance_shift
from ninscope.networks.radii import IntegerRadii

_MANTISSA_BITS = {"F16": 10, "BF16": 7, "F32": 23}
_BIAS = {"F16": 15, "BF16": 127, "F32": 127}

# How a node's distances are summed: not at all, as 1/|w|, or out of a table of the distances of all patterns.
NO_DISTANCES, RECIPROCALS, TABLED = 0, 1, 2


@dataclass(frozen=True)
class FlatTable:
    """What a kernel needs of a `BinTable`. Patterns are the bits of magnitudes; a kernel takes them to lie in low..high.

    words: uint16, of a 16-bit type the bin of pattern low + i; of F32 the number of the run that holds the smallest pattern with
    the prefix (low >> shift) + i, and from bins_at on the bin of each run. starts: int32, of F32 the first pattern of each run.
    From the pattern `infinity` on, which lies beyond high, the bin is width - 1. radius_count: bins up to this one count.
    scales: float64; a weight whose exponent bits are first_exponent + i and whose mantissa is M, a whole number, is as far as
    1/M * scales[i] units of distance, where distances are reciprocals. units: int64, of a 16-bit type the distance of pattern low
    + i in units. What there is none of is a single 0.
    """

    low: int
    high: int
    infinity: int
    radius_count: int
    width: int
    shift: int
    words: np.ndarray
    bins_at: int
    starts: np.ndarray
    mantissa_bits: int
    first_exponent: int
    scales: np.ndarray
    units: np.ndarray

    @property
    def bytes(self) -> int:
        """Of what is looked up for the bin."""
        return self.words.nbytes + self.starts.nbytes


def distance_mode(table: BinTable, distances: bool) -> int | None:
    """How kernels sum the distances of weights; None where they cannot, since it takes more than a division.

    Joint tables and logarithmic grids have no distances to sum.
    """
    radii = table.radii
    if not distances or isinstance(table, JointTable) or not isinstance(radii, IntegerRadii):
        return NO_DISTANCES
    if radii.transfer == "reciprocal":
        return RECIPROCALS
    return TABLED if table.shift == 0 else None


def flat_table(table: BinTable, dtype: str) -> FlatTable:
    """dtype: F16, BF16 or F32, the one that the table was made for."""
    mantissa_bits = _MANTISSA_BITS[dtype]
    infinity = (0x1F if dtype == "F16" else 0xFF) << mantissa_bits
    starts, units = np.zeros(1, np.int32), np.zeros(1, np.int64)
    if table.shift == 0:
        low, high = _ends(1 + np.flatnonzero(np.diff(table.table[:infinity].astype(np.int32))))
        window = table.table[low : high + 1]
        words = window.astype(np.uint16)
        units = np.ascontiguousarray(table.distances[low : high + 1])
    else:
        low, high = _ends(table.starts[(table.starts > 0) & (table.starts < infinity)])
        window = table.table[low >> table.shift : (high >> table.shift) + 1]
        words = np.concatenate([window, table.bins]).astype(np.uint16)
        starts = np.minimum(table.starts, np.iinfo(np.int32).max).astype(np.int32)
    first_exponent = low >> mantissa_bits
    scales = np.zeros(1, np.float64)
    if distance_mode(table, True) == RECIPROCALS:
        assert isinstance(table.radii, IntegerRadii)
        exponents = np.arange(first_exponent, (high >> mantissa_bits) + 1)
        scales = np.ldexp(1.0, _BIAS[dtype] + mantissa_bits + distance_shift(table.radii) - exponents)
    return FlatTable(
        low,
        high,
        infinity,
        table.radius_count,
        table.width,
        table.shift,
        words,
        window.size,
        starts,
        mantissa_bits,
        first_exponent,
        scales,
        units,
    )


def _ends(starts: np.ndarray) -> tuple[int, int]:
    """The last pattern of the first run and the first one of the last. starts: of all runs but the first."""
    return (int(starts[0]) - 1, int(starts[-1])) if starts.size else (0, 0)
