"""Counting the bit patterns of weights: all that the statistics of a matrix need, in one pass, in whatever pieces it comes.

A 16-bit type has 65,536 patterns, so counts of them hold every weight. Of wider types the upper 20 bits of the float32 that a
weight is nearest to are counted (sign, exponent, 11 bits of the mantissa), and sums are taken beside, row by row, of F32 also
exact ones of weights and squares (`exact_sums`). Counts and exact sums are integers and rows have sums of their own, so no result
depends on how the work was split.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

from ninscope.checkpoints.tensors import as_float
from ninscope.weights.exact_sums import added, known, sums_beside_counts, sums_of_patterns
from ninscope.weights.pattern_kernels import count_patterns, count_upper_bits

PATTERN_BITS = {"F16": 16, "BF16": 16, "F32": 20, "F64": 20}
# Weights of one bin of a wider type differ by at most 2**-11 of themselves, and stand at its middle.
ACCURACY = 2.0**-12
_DROPPED = 12  # bits of a float32 that do not tell bins apart
_LARGEST_F32 = np.finfo(np.float32).max

# Columns of the sums of one row of a wider type: weights, their mean, the sums of the second to fourth powers of differences from
# it, the sum of magnitudes, the number of zeros.
ROW_SUMS = 7
_NO_ROWS = np.empty((0, ROW_SUMS))


@dataclass(frozen=True)
class PatternCounts:
    """Some weights of one matrix; counts of others of them add, in any order.

    dtype: F16, BF16, F32 or F64. weights: how many were counted. counts: integers [2**16], or [2**20] of the wider types: weights
    by their upper bits, sign first. rows: float64 [k, ROW_SUMS], sums of rows; of wider types alone. squares: of F32 exact sums,
    int64 [256, 4] (`exact_sums.square_sums`); None where some of the weights were F64, and of 16-bit types, whose counts say it.
    """

    dtype: str
    weights: int
    counts: np.ndarray
    rows: np.ndarray
    squares: np.ndarray | None = None

    def __add__(self, other: "PatternCounts") -> "PatternCounts":
        """Raises ValueError: of other types; CheckpointError (unsupported): exact sums are beyond int64."""
        if self.dtype != other.dtype:
            raise ValueError(f"counts of {self.dtype} and {other.dtype} do not add; widen them first")
        counts = self.counts.astype(np.int64, copy=False) + other.counts
        return replace(self, counts=counts, **self.sums_with(other))

    def sums_with(self, other: "PatternCounts") -> dict[str, Any]:
        """What is not counts, of both together. Raises CheckpointError (unsupported): exact sums are beyond int64."""
        exact = None if self.squares is None or other.squares is None else added(self.squares, other.squares)
        rows = np.concatenate([self.rows, other.rows])
        return {"weights": self.weights + other.weights, "rows": rows, "squares": exact}

    @property
    def exact_sums(self) -> np.ndarray | None:
        """`exact_sums.square_sums` of the weights; None where some of them were F64.

        Raises CheckpointError (unsupported): they are beyond int64.
        """
        return sums_of_patterns(self.counts, self.dtype) if self.is_exact else self.squares

    @property
    def is_exact(self) -> bool:
        """Whether each pattern is one number."""
        return PATTERN_BITS[self.dtype] == 16

    @property
    def finite(self) -> bool:
        return not self.counts.reshape(2, -1)[:, magnitudes(self.dtype).size :].any()


@lru_cache(maxsize=4)
def magnitudes(dtype: str) -> np.ndarray:
    """What the patterns of one sign stand for, float64, ascending from 0, as far as they are finite.

    Of wider types the middle of the numbers that share a pattern; 0 for those below 2**-137.
    """
    half = np.arange(1 << (PATTERN_BITS[dtype] - 1), dtype=np.uint32)
    with np.errstate(invalid="ignore"):  # NaN is among the patterns
        if PATTERN_BITS[dtype] == 16:
            patterns = half.astype(np.uint16)
            values = as_float(patterns if dtype == "BF16" else patterns.view(np.float16), dtype).astype(np.float64)
        else:
            smallest = (half << np.uint32(_DROPPED)).view(np.float32).astype(np.float64)
            smallest = smallest[np.isfinite(smallest)]
            values = (smallest + np.append(smallest[1:], float(_LARGEST_F32))) / 2
            values[0] = 0.0
    values = values[np.isfinite(values)]
    values.flags.writeable = False
    return values


def count_rows(bits: np.ndarray, dtype: str, slots: np.ndarray, slot_count: int) -> list[PatternCounts]:
    """Counts of some rows of weights, one entry for each slot.

    bits: stored weights, unsigned integers [rows, columns], rows contiguous, fewer than 2**32 weights; slots: int64 [rows], to
    which entry a row belongs, -1 for none.
    """
    weights_of = [int(np.count_nonzero(slots == slot)) * bits.shape[1] for slot in range(slot_count)]
    counts = np.zeros((slot_count, 1 << PATTERN_BITS[dtype]), np.uint32)
    if PATTERN_BITS[dtype] == 16:
        count_patterns(known(bits, np.uint16), slots, counts)
        return [PatternCounts(dtype, n, mine, _NO_ROWS) for n, mine in zip(weights_of, counts, strict=True)]
    weights = bits.view(f"<f{bits.itemsize}")
    sums = row_sums(weights)
    rows = [sums[slots == slot] for slot in range(slot_count)]
    if dtype == "F32":
        squares = sums_beside_counts(bits, slots, counts)
        return [PatternCounts(dtype, *part) for part in zip(weights_of, counts, rows, squares, strict=True)]
    with np.errstate(over="ignore", invalid="ignore"):
        nearest = np.ascontiguousarray(weights, dtype=np.float32)
        # What is finite stays so.
        nearest = np.where(np.isfinite(weights), np.clip(nearest, -_LARGEST_F32, _LARGEST_F32), nearest)
    count_upper_bits(known(nearest.view(np.uint32), np.uint32), slots, counts)
    return [PatternCounts(dtype, *part) for part in zip(weights_of, counts, rows, strict=True)]


def row_sums(weights: np.ndarray) -> np.ndarray:
    """Sums of rows of weights, float32 or float64 [rows, columns], rows contiguous: float64 [rows, ROW_SUMS]."""
    sums = np.zeros((len(weights), ROW_SUMS))
    with np.errstate(all="ignore"):  # as compiled code does
        _sum_rows(known(weights, weights.dtype), sums)
    return sums


_LANES = 64  # sums side by side, which compile to vector instructions


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_rows(weights: np.ndarray, sums: np.ndarray) -> None:
    """sums: float64 [rows, ROW_SUMS], written."""
    rows, columns = weights.shape
    first, second = np.zeros(_LANES), np.zeros(_LANES)
    third, zeros = np.zeros(_LANES), np.zeros(_LANES)
    for r in range(rows):
        first[:], second[:], zeros[:] = 0.0, 0.0, 0.0
        for start in range(0, columns, _LANES):
            some = weights[r, start : min(start + _LANES, columns)]
            for c in range(some.size):
                weight = np.float64(some[c])
                first[c] += weight
                second[c] += abs(weight)
                zeros[c] += 1.0 if weight == 0.0 else 0.0
        total = 0.0
        for lane in range(_LANES):
            total += first[lane]
            sums[r, 5] += second[lane]
            sums[r, 6] += zeros[lane]
        mean = total / columns
        sums[r, 0], sums[r, 1] = columns, mean
        first[:], second[:], third[:] = 0.0, 0.0, 0.0
        for start in range(0, columns, _LANES):
            some = weights[r, start : min(start + _LANES, columns)]
            for c in range(some.size):
                difference = np.float64(some[c]) - mean
                square = difference * difference
                first[c] += square
                second[c] += square * difference
                third[c] += square * square
        for lane in range(_LANES):
            sums[r, 2] += first[lane]
            sums[r, 3] += second[lane]
            sums[r, 4] += third[lane]


def widened(counts: PatternCounts, sums: np.ndarray) -> PatternCounts:
    """Counts of a 16-bit type in the bins of the wider ones. sums: float64 [ROW_SUMS] of all of them, as one row."""
    if not counts.is_exact:
        return counts
    values = magnitudes(counts.dtype).astype(np.float32)
    places = (values.view(np.uint32) >> np.uint32(_DROPPED)).astype(np.int64)
    wide = np.zeros(1 << PATTERN_BITS["F32"], np.int64)
    for mine, of_sign in zip(wide.reshape(2, -1), counts.counts.reshape(2, -1), strict=True):
        np.add.at(mine, places, of_sign[: places.size])
    return PatternCounts("F32", counts.weights, wide, sums[None], counts.exact_sums)


def as_wide(counts: PatternCounts) -> PatternCounts:
    """Counts of F64 as those of F32, whose bins they share."""
    return PatternCounts("F32", counts.weights, counts.counts, counts.rows) if counts.dtype == "F64" else counts
