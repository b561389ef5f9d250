"""Exact sums of the weights of a matrix and of their squares, and what follows from them: norm, rms, mean, standard deviation.

The sums are integers, so that no order and no split of the weights, over bands, threads, devices or processes, changes a bit of
them; what follows is rounded once, to the nearest float64 (docs/method.md#statistics-of-weights).

A weight as float32 is sign * m * 2**(max(e, 1) - 150), with e its biased exponent and m its integer mantissa of 24 bits, without
the implicit one where e is 0. m is cut in two, m = 4096 h + l, with h and l of 12 bits, so that the magnitudes of m, h * h, h * l
and l * l are below 2**24. Sums of 2**39 of them, 5.5e11 weights, are thus below 2**63 whatever the weights are. No call takes more
(`square_sums` refuses), and sums of several calls are added by `added`, which finds out where one leaves int64: the weights of a
whole network have many exponents, so that in practice it holds several times as many.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ninscope.checkpoints.tensors import as_float
from ninscope.errors import CheckpointError
from ninscope.weights.pattern_kernels import (
    EXPONENTS,
    SUMS,
    UPPER_BITS,
    count_and_sum,
    count_patterns,
    count_upper_bits,
    sum_patterns,
    sum_squares,
)

DTYPES = ("F16", "BF16", "F32")  # what such sums are taken of
MOST_WEIGHTS = 1 << 39
_MANY = {"F16": 1 << 16, "BF16": 1 << 16, "F32": 1 << 18}  # weights that are worth a table of all patterns
_AT_ONCE = 1 << 31  # weights: counts of patterns are uint32
_UNIT = 149  # sums of weights are in units of 2**-149, the smallest float32, those of squares in units of 2**-298


def square_sums(bits: Any, dtype: str) -> np.ndarray:
    """Exact sums over weights and over their squares: int64 [256, 4], a row for each biased exponent of float32.

    bits: stored weights of dtype F16, BF16 or F32, unsigned integers [rows, columns], or a torch tensor on a device, which sums
    them there. F16 and BF16 count as the float32 that they are. Columns: the sums of sign * m, h * h, h * l and l * l, as above.
    They add over any split of the weights (`added`). What is not finite is in row 255 (`all_finite`). Raises CheckpointError
    (unsupported): more than 2**39 weights.
    """
    if not isinstance(bits, np.ndarray):
        from ninscope.devices import device_square_sums

        check_number(math.prod(bits.shape))
        return np.asarray(device_square_sums(bits))
    return square_sums_of_slots(bits, dtype, np.zeros(len(bits), np.int64), 1)[0]


def square_sums_of_slots(bits: np.ndarray, dtype: str, slots: np.ndarray, slot_count: int) -> np.ndarray:
    """`square_sums` of matrices that share the rows of a tile: int64 [slot_count, 256, 4].

    bits: unsigned integers; slots: int64 [rows], to which matrix a row belongs, -1 for none.
    """
    if dtype not in DTYPES:
        raise ValueError(f"exact sums are taken of {', '.join(DTYPES)}, not of {dtype}")
    if slots.shape != (len(bits),) or slots.max(initial=-1) >= slot_count:
        raise ValueError(f"slots {slots.shape} of {len(bits)} rows: compiled code would leave the array")
    check_number(bits.size)
    sums = np.zeros((slot_count, EXPONENTS, SUMS), np.int64)
    for some, of_rows in _at_once(bits, slots):
        if some.size < _MANY[dtype]:
            sum_squares(_float32_bits(some, dtype), of_rows, sums)
        elif dtype == "F32":
            counts = np.zeros((slot_count, 1 << UPPER_BITS), np.uint32)
            count_and_sum(_float32_bits(some, dtype), of_rows, counts, sums)
        else:
            counts = np.zeros((slot_count, 1 << 16), np.uint32)
            count_patterns(known(some, np.uint16), of_rows, counts)
            for of_slot, mine in zip(sums, counts, strict=True):
                of_slot += sums_of_patterns(mine, dtype)
    return sums


def sums_beside_counts(bits: np.ndarray, slots: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`square_sums_of_slots` of F32 weights, fewer than 2**32, in the pass that counts their upper bits.

    bits: uint32; counts: uint32 [slot_count, 2**20], added to.
    """
    bits, sums = known(bits, np.uint32), np.zeros((len(counts), EXPONENTS, SUMS), np.int64)
    if bits.size < _MANY["F32"]:
        count_upper_bits(bits, slots, counts)
        sum_squares(bits, slots, sums)
    else:
        count_and_sum(bits, slots, counts, sums)
    return sums


def _at_once(bits: np.ndarray, slots: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Spans of columns, then of rows, of so many weights as may be counted in one table."""
    for left in range(0, bits.shape[1], _AT_ONCE):
        columns = bits[:, left : left + _AT_ONCE]
        height = max(_AT_ONCE // columns.shape[1], 1)
        for first in range(0, len(bits), height):
            yield columns[first : first + height], slots[first : first + height]


def known(array: np.ndarray, dtype: Any) -> np.ndarray:
    """The array as one type for the compiler, wherever it comes from. Raises ValueError: it is of another type."""
    if array.dtype != dtype:
        raise ValueError(f"bits of type {array.dtype}, not {np.dtype(dtype)}: compiled code would read them wrongly")
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def _float32_bits(bits: np.ndarray, dtype: str) -> np.ndarray:
    """Stored weights as the float32 that they are, uint32, contiguous."""
    if dtype == "F32":
        return known(bits, np.uint32)
    stored = known(bits, np.uint16)
    widened = as_float(stored if dtype == "BF16" else stored.view(np.float16), dtype)
    return known(widened.astype(np.float32, copy=False).view(np.uint32), np.uint32)


def sums_of_patterns(counts: np.ndarray, dtype: str) -> np.ndarray:
    """`square_sums` of weights of F16 or BF16 that were counted by their bits: integers [2**16], at least 0.

    Raises CheckpointError (unsupported): a sum is beyond int64.
    """
    runs = _runs_of_patterns(dtype)
    sums = np.zeros((EXPONENTS, SUMS), np.int64)
    if counts.sum() <= MOST_WEIGHTS:
        sum_patterns(known(counts.astype(np.int64, copy=False), np.int64), runs, sums)
        return sums
    exact: dict[tuple[int, int], int] = {}
    for first, last, exponent, mantissa, step, sign in runs.tolist():
        numbers = counts[first:last].tolist()
        mantissas = range(mantissa, mantissa + step * len(numbers), step)
        signed = sign * sum(number * m for number, m in zip(numbers, mantissas, strict=True))
        squares = sum(number * (m >> 12) ** 2 for number, m in zip(numbers, mantissas, strict=True))
        for column, total in enumerate((signed, squares)):
            exact[exponent, column] = exact.get((exponent, column), 0) + total
    if any(abs(total) >= 1 << 63 for total in exact.values()):
        raise _beyond()
    for place, total in exact.items():
        sums[place] = total
    return sums


@lru_cache(maxsize=2)
def _runs_of_patterns(dtype: str) -> np.ndarray:
    """Runs of patterns of one sign and exponent: int64 [runs, 6], the first pattern, the one after the last, their exponent, the
    mantissa m of the first, how much it grows from one to the next, and the sign. These types have 11 bits of mantissa at most, so
    that l is 0.
    """
    bits = _float32_bits(np.arange(1 << 16, dtype=np.uint16), dtype).astype(np.int64)
    exponents = bits >> 23 & 0xFF
    mantissas = (bits & 0x7FFFFF) + np.where(exponents > 0, 1 << 23, 0)
    starts = np.flatnonzero(np.diff(bits >> 23, prepend=-1))
    stops = np.append(starts[1:], bits.size)
    steps = mantissas[np.minimum(starts + 1, stops - 1)] - mantissas[starts]
    signs = np.where(bits[starts] >> 31, -1, 1)
    runs = np.stack([starts, stops, exponents[starts], mantissas[starts], np.maximum(steps, 1), signs], axis=1)
    runs.flags.writeable = False
    return runs


def added(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sums of weights as those of all of them. Raises CheckpointError (unsupported): a sum is beyond int64."""
    total = first + second
    if (((first ^ total) & (second ^ total)) < 0).any():
        raise _beyond()
    return total


def check_number(weights: int) -> None:
    """Raises CheckpointError (unsupported): so many weights of a matrix may not fit."""
    if weights > MOST_WEIGHTS:
        raise _beyond(f" of {weights} weights")


def _beyond(of: str = "") -> CheckpointError:
    return CheckpointError(
        "unsupported", f"sums of squares{of} may leave 64 bits, which hold those of {MOST_WEIGHTS} weights of any size"
    )


def all_finite(sums: np.ndarray) -> bool:
    """Whether all weights were finite."""
    return not sums[EXPONENTS - 1].any()


@dataclass(frozen=True)
class Moments:
    """Of n weights; of none NaN, but for the norm, 0.

    norm: Euclidean (of a matrix Frobenius); rms: norm / sqrt(n); mean; variance, std: n in the denominator, 0 only where all
    weights are alike.
    """

    norm: float
    rms: float
    mean: float
    variance: float
    std: float


def moments_of(sums: np.ndarray, n: int) -> Moments:
    """What follows from the exact sums of n weights, each correctly rounded. Raises ValueError: weights were not finite."""
    total, squares = _totals(sums)
    if n == 0:
        return Moments(0.0, *[math.nan] * 4)
    deviations = n * squares - total * total  # n**2 times the variance
    return Moments(
        norm=_root(squares, 1),
        rms=_root(squares, n),
        mean=total / (n << _UNIT),  # Python rounds the ratio of two integers correctly
        variance=deviations / (n * n << 2 * _UNIT),
        std=_root(deviations, n * n),
    )


def norm_of(sums: np.ndarray) -> float:
    """As in `moments_of`."""
    return _root(_totals(sums)[1], 1)


def rms_of_sums(sums: np.ndarray, n: int) -> float:
    """As in `moments_of`."""
    return _root(_totals(sums)[1], n) if n else math.nan


def mean_of(sums: np.ndarray, n: int) -> float:
    """As in `moments_of`."""
    return moments_of(sums, n).mean


def variance_of(sums: np.ndarray, n: int) -> float:
    """As in `moments_of`."""
    return moments_of(sums, n).variance


def std_of(sums: np.ndarray, n: int) -> float:
    """As in `moments_of`."""
    return moments_of(sums, n).std


def _totals(sums: np.ndarray) -> tuple[int, int]:
    """(sum of weights in units of 2**-149, sum of their squares in units of 2**-298)."""
    if not all_finite(sums):
        raise ValueError("sums of weights that are not all finite")
    total = squares = 0
    there = np.flatnonzero(sums.any(axis=1))
    for exponent, (signed, high, middle, low) in zip(there.tolist(), sums[there].tolist(), strict=True):
        shift = max(exponent, 1) - 1
        total += signed << shift
        squares += (high << 24) + (middle << 13) + low << 2 * shift
    return total, squares


def _root(numerator: int, denominator: int) -> float:
    """sqrt(numerator / denominator) * 2**-149, correctly rounded; no such root of weights is subnormal as float64."""
    if numerator == 0:
        return 0.0
    # Above 2**55, two bits more than a float64 has, the last bit only has to say whether anything follows it.
    places = max((112 - numerator.bit_length() + denominator.bit_length()) // 2, 0)
    quotient, rest = divmod(numerator << 2 * places, denominator)
    root = math.isqrt(quotient)
    if rest or root * root != quotient:
        root |= 1
    return math.ldexp(float(root), -_UNIT - places)
