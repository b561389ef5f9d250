"""Counts and sums of single neurons, each in one pass over the activations that the processor has just computed.

A neuron is on where its activation x is above a bound, or below another one (minus infinity in a layer without a
gate). As torch, each of these would take up to ten passes, and memory of the activations' size. `rows` is float32
[rows, neurons], contiguous. Where neurons first..last-1 are named, threads may share a layer, and no bit depends on
how. Sums of activations are float32 over 16 rows and float64 beyond, so that rounding is that of a few additions; sums
of 0 and 1 are exact in float32 up to 16 million rows.
"""

import numpy as np
from numba import njit

Array = np.ndarray  # of the shape and dtype that the docstring of the kernel gives

_FLUSH = 16  # rows


@njit(nogil=True, cache=True)
def add_on(rows: Array, above: float, below: float, first: int, last: int, on: Array) -> None:
    """on: float64 [neurons], how often each is on."""
    high, low, count = np.float32(above), np.float32(below), np.zeros(last - first, np.float32)
    for k in range(rows.shape[0]):
        _add_on(rows[k, first:last], high, low, count)
    on[first:last] += count


@njit(nogil=True, cache=True)
def _add_on(row: Array, high: np.float32, low: np.float32, count: Array) -> None:
    for i in range(row.size):
        x = row[i]
        count[i] += np.float32((x > high) | (x < low))


@njit(nogil=True, cache=True)
def add_on_by_position(values: Array, above: float, below: float, first: int, last: int, on: Array) -> None:
    """values: float32 [n, t, neurons]. on: float32 [t, neurons], in how many samples each is on."""
    high, low = np.float32(above), np.float32(below)
    for n in range(values.shape[0]):
        for t in range(values.shape[1]):
            _add_on(values[n, t, first:last], high, low, on[t, first:last])


@njit(nogil=True, cache=True)
def add_on_by_groups(
    rows: Array, above: float, below: float, groups: Array, first: int, last: int, one: Array, two: Array, three: Array,
    on: Array,
) -> None:  # fmt: skip
    """How often each neuron is on in the rows of each group, of three ways to group them.

    groups: int64 [3, rows]; -1 for a row of no group, which counts as on alone, -2 for one that does not count. one,
    two, three: floats [groups, neurons], of each way. on: float64 [3, neurons], of all rows that count.
    """
    high, low, size = np.float32(above), np.float32(below), last - first
    count, is_on, left_out = np.zeros(size, np.float32), np.zeros(size, np.float32), np.zeros((3, size), np.float32)
    for k in range(rows.shape[0]):
        row = rows[k, first:last]
        for i in range(size):
            x = row[i]
            is_on[i] = np.float32((x > high) | (x < low))
            count[i] += is_on[i]
        if groups[0, k] >= 0:
            _add(is_on, one[groups[0, k], first:last])
        if groups[1, k] >= 0:
            _add(is_on, two[groups[1, k], first:last])
        if groups[2, k] >= 0:
            _add(is_on, three[groups[2, k], first:last])
        for way in range(3):
            if groups[way, k] == -2:
                _add(is_on, left_out[way])
    for way in range(3):
        on[way, first:last] += count - left_out[way]


@njit(nogil=True, cache=True)
def _add(is_on: Array, sums: Array) -> None:
    for i in range(is_on.size):
        sums[i] += is_on[i]


@njit(nogil=True, cache=True)
def add_sizes(rows: Array, first: int, last: int, sums: Array) -> None:
    """sums: float64 [neurons], of |x|."""
    part = np.zeros(last - first, np.float32)
    for start in range(0, rows.shape[0], _FLUSH):
        part[:] = 0
        for k in range(start, min(start + _FLUSH, rows.shape[0])):
            row = rows[k, first:last]
            for i in range(row.size):
                part[i] += abs(row[i])
        sums[first:last] += part


@njit(nogil=True, cache=True)
def add_powers(
    rows: Array, above: float, below: float, centre: Array, on: Array, powers: Array, largest: Array
) -> None:
    """centre: float32 [neurons]. on: as of `add_on`. powers: float64 [4, neurons], sums of (x - centre)^1 to ^4.
    largest: float32 [neurons], of |x|.
    """
    high, low, count = np.float32(above), np.float32(below), np.zeros(rows.shape[1], np.float32)
    part = np.zeros((4, rows.shape[1]), np.float32)
    one, two, three, four = part[0], part[1], part[2], part[3]
    for first in range(0, rows.shape[0], _FLUSH):
        part[:] = 0
        for k in range(first, min(first + _FLUSH, rows.shape[0])):
            row = rows[k]
            for i in range(row.size):
                x = row[i]
                y = x - centre[i]
                square = y * y
                count[i] += np.float32((x > high) | (x < low))
                one[i] += y
                two[i] += square
                three[i] += square * y
                four[i] += square * square
                size = abs(x)
                largest[i] = size if size > largest[i] else largest[i]
        powers += part
    on += count
