"""Kernels that go over stored weights once: counts of their bit patterns, and exact sums of them by exponent.

A weight as float32 is sign * m * 2**(max(e, 1) - 150), with e its biased exponent, the upper 9 bits without the sign, and m its 24
bits of mantissa (of subnormals, e = 0, 23). m is cut in two, m = 4096 h + l, so that every product is below 2**24.
"""

import numpy as np
from numba import njit

EXPONENTS, SUMS = 256, 4  # of one matrix: for each biased exponent the sums of sign * m, h * h, h * l, l * l
UPPER_BITS = 20  # of a float32: sign, exponent, 11 bits of the mantissa; they give h, the others l
_DROPPED = np.uint32(12)
_LOWER = np.uint32(0xFFF)

# One word of a bin holds how many weights it has, above, and the sum of their l, each below 2**12, beneath: of at most 2**26 - 1
# weights both fit.
_MOST_IN_A_BIN = (1 << 26) - 1
_COUNT_OF_BIN = np.uint64(38)
# One word of an exponent holds the same with l * l, below 2**24: of 2**20 - 1 weights.
_MOST_IN_AN_EXPONENT = (1 << 20) - 1
_COUNT_OF_EXPONENT = np.uint64(44)
_ONE = np.uint64(1)

_LANES = 4  # tables side by side: what is added to an exponent does not wait for what was added to it just before


@njit(cache=True, nogil=True)
def count_patterns(bits: np.ndarray, slots: np.ndarray, counts: np.ndarray) -> None:
    """bits: uint16 [rows, columns]; slots: int64 [rows], -1: not counted; counts: uint32 [slots, 2**16], added to."""
    for r in range(bits.shape[0]):
        if slots[r] >= 0:
            row, mine = bits[r], counts[slots[r]]
            for c in range(row.size):
                mine[row[c]] += np.uint32(1)


@njit(cache=True, nogil=True)
def sum_patterns(counts: np.ndarray, runs: np.ndarray, sums: np.ndarray) -> None:
    """Sums of weights of a 16-bit type by their patterns, counts: int64 [2**16].

    runs: int64 [runs, 6], first pattern, last + 1, exponent, m of the first, its growth from one to the next, sign; sums: int64
    [256, 4], of which the first two columns are added to.
    """
    for run in range(runs.shape[0]):
        first, last, exponent, mantissa, step, sign = runs[run]
        signed = squares = np.int64(0)
        for i in range(last - first):
            count = counts[first + i]
            at = mantissa + i * step
            high = at >> 12
            signed += count * at
            squares += count * high * high
        sums[exponent, 0] += sign * signed
        sums[exponent, 1] += squares


@njit(cache=True, nogil=True)
def count_upper_bits(bits: np.ndarray, slots: np.ndarray, counts: np.ndarray) -> None:
    """As `count_patterns`, of the upper bits of wider types. bits: uint32 [rows, columns]; counts: uint32 [slots, 2**20]."""
    for r in range(bits.shape[0]):
        if slots[r] >= 0:
            row, mine = bits[r], counts[slots[r]]
            for c in range(row.size):
                mine[row[c] >> _DROPPED] += np.uint32(1)


def count_and_sum(
    bits: np.ndarray,
    slots: np.ndarray,
    counts: np.ndarray,
    sums: np.ndarray,
    in_a_bin: int = _MOST_IN_A_BIN,
    in_an_exponent: int = _MOST_IN_AN_EXPONENT,
) -> None:
    """`count_upper_bits`, and the sums of `sum_squares`, in one pass: a bin knows h, and needs but the sum of l.

    in_a_bin, in_an_exponent: after how many weights, at most those above, words are emptied.
    """
    bins = np.zeros((len(counts), 1 << UPPER_BITS), np.uint64)
    _count_and_sum(bits, slots, bins, counts, sums, in_a_bin, in_an_exponent)


@njit(cache=True, nogil=True)
def _count_and_sum(
    bits: np.ndarray,
    slots: np.ndarray,
    bins: np.ndarray,
    counts: np.ndarray,
    sums: np.ndarray,
    in_a_bin: int,
    in_an_exponent: int,
) -> None:
    """bins: uint64 [slots, 2**20], 0 before and after."""
    at_once = max(min(in_a_bin, in_an_exponent) // 2, 1)
    lanes = np.zeros((bins.shape[0], _LANES, 2 * EXPONENTS), np.uint64)
    there = np.zeros((bins.shape[0], 2 * EXPONENTS), np.int64)
    in_bins = in_lanes = 0
    for r in range(bits.shape[0]):
        if slots[r] < 0:
            continue
        whole_row, mine, squares = bits[r], bins[slots[r]], lanes[slots[r]]
        for start in range(0, whole_row.size, at_once):
            row = whole_row[start : start + at_once]
            if in_lanes + row.size > in_an_exponent:
                _empty_lanes(lanes, there, sums)
                in_lanes = 0
            if in_bins + row.size > in_a_bin:
                _empty_bins(bins, there, counts, sums)
                in_bins = 0
            in_lanes += row.size
            in_bins += row.size
            together = row.size // _LANES * _LANES
            for first in range(0, together, _LANES):
                for lane in range(_LANES):
                    _add(row[first + lane], mine, squares[lane])
            for c in range(together, row.size):
                _add(row[c], mine, squares[0])
    _empty_lanes(lanes, there, sums)
    _empty_bins(bins, there, counts, sums)


@njit(cache=True, nogil=True, inline="always")
def _add(bits: np.uint32, bins: np.ndarray, squares: np.ndarray) -> None:
    low = np.uint64(bits & _LOWER)
    bins[bits >> _DROPPED] += (_ONE << _COUNT_OF_BIN) | low
    squares[bits >> np.uint32(23)] += (_ONE << _COUNT_OF_EXPONENT) + low * low


@njit(cache=True, nogil=True)
def _empty_lanes(lanes: np.ndarray, there: np.ndarray, sums: np.ndarray) -> None:
    """there: int64 [slots, 512], weights by sign and exponent, added to."""
    below = (_ONE << _COUNT_OF_EXPONENT) - _ONE
    for slot in range(lanes.shape[0]):
        for lane in range(_LANES):
            for upper in range(2 * EXPONENTS):
                word = lanes[slot, lane, upper]
                there[slot, upper] += np.int64(word >> _COUNT_OF_EXPONENT)
                sums[slot, upper % EXPONENTS, 3] += np.int64(word & below)
    lanes[:] = np.uint64(0)


@njit(cache=True, nogil=True)
def _empty_bins(bins: np.ndarray, there: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> None:
    """Add what bins hold to counts and sums; only those with weights are looked at, since others take memory once touched."""
    below = (_ONE << _COUNT_OF_BIN) - _ONE
    in_exponent = 1 << (UPPER_BITS - 9)
    for slot in range(bins.shape[0]):
        for upper in range(2 * EXPONENTS):
            if there[slot, upper] == 0:
                continue
            first, exponent = upper * in_exponent, upper % EXPONENTS
            implicit = 0 if exponent == 0 else in_exponent
            mantissas = squares = products = np.int64(0)
            for i in range(in_exponent):
                word = bins[slot, first + i]
                number, low = np.int64(word >> _COUNT_OF_BIN), np.int64(word & below)
                high = np.int64(implicit + i)
                counts[slot, first + i] += np.uint32(number)
                mantissas += number * high * 4096 + low
                squares += number * high * high
                products += high * low
                bins[slot, first + i] = np.uint64(0)
            sums[slot, exponent, 0] += mantissas if upper < EXPONENTS else -mantissas
            sums[slot, exponent, 1] += squares
            sums[slot, exponent, 2] += products


@njit(cache=True, nogil=True)
def sum_squares(bits: np.ndarray, slots: np.ndarray, sums: np.ndarray) -> None:
    """Exact sums of float32 weights, as `exact_sums.square_sums` describes them.

    bits: uint32 [rows, columns]; slots: int64 [rows], which sums a row is added to, -1: none; sums: int64 [slots, 256, 4],
    added to.
    """
    lanes = np.zeros((sums.shape[0], _LANES, EXPONENTS, SUMS), np.int64)
    for r in range(bits.shape[0]):
        if slots[r] >= 0:
            row, mine = bits[r], lanes[slots[r]]
            together = row.size // _LANES * _LANES
            for first in range(0, together, _LANES):
                for lane in range(_LANES):
                    _add_square(row[first + lane], mine[lane])
            for c in range(together, row.size):
                _add_square(row[c], mine[0])
    for slot in range(sums.shape[0]):
        for lane in range(_LANES):
            sums[slot] += lanes[slot, lane]


@njit(cache=True, nogil=True, inline="always")
def _add_square(bits: np.uint32, sums: np.ndarray) -> None:
    exponent = (bits >> np.uint32(23)) & np.uint32(0xFF)
    implicit = np.uint32(0x800000) if exponent else np.uint32(0)
    mantissa = (bits & np.uint32(0x7FFFFF)) | implicit
    high, low = np.int64(mantissa >> _DROPPED), np.int64(mantissa & _LOWER)
    sums[exponent, 0] += -np.int64(mantissa) if bits >> np.uint32(31) else np.int64(mantissa)
    sums[exponent, 1] += high * high
    sums[exponent, 2] += high * low
    sums[exponent, 3] += low * low
