"""Moments of channels, and norms of tokens and heads, each in one or two passes over what the processor has just computed.

`rows` is float32 [rows, channels], contiguous. Sums over rows are float32 over 16 of them and float64 beyond, so that rounding is
that of a few additions; within a token they are float32. Parts (first, last) may be done in several threads: no bit depends on
how rows or channels are parted.
"""

import numpy as np
from numba import njit

Array = np.ndarray  # of the shape and dtype that the docstring of the kernel gives

_FLUSH = 16  # rows
_FEW = 64  # rows that are all taken into a centre
_ADD_IN_ANY_ORDER = {"reassoc", "contract"}  # what vectors need


@njit(nogil=True, cache=True)
def channel_moments(rows: Array, first: int, last: int, means: Array, squares: Array) -> None:
    """Of channels first..last-1: means, float64 [channels], and squares, float64 alike, sums of squared deviations from them.

    Written; neither is finite where the channel's values are not. Values are taken from the mean of one row in 16 (of 64 rows
    or fewer, of all). It is at most 4 standard deviations from that of all, so that a large mean costs the squares no digits.
    """
    count, size = rows.shape[0], last - first
    sums, parts = np.zeros(size, np.float64), np.zeros((2, size), np.float32)
    step = _FLUSH if count > _FEW else 1
    for start in range(0, count, step):
        # Not always the first of 16: that may be a first token, with its massive activations, more often than others are.
        row = rows[min(start + (start // step * 7) % step, count - 1), first:last]
        for i in range(size):
            sums[i] += row[i]
    centre = (sums / ((count + step - 1) // step)).astype(np.float32)
    sums[:] = 0
    squares[first:last] = 0
    for start in range(0, count, _FLUSH):
        k, stop = start, min(start + _FLUSH, count)
        parts[:] = 0
        while k + 4 <= stop:
            _add_four_off(
                rows[k, first:last], rows[k + 1, first:last], rows[k + 2, first:last], rows[k + 3, first:last],
                centre, parts[0], parts[1],
            )  # fmt: skip
            k += 4
        while k < stop:
            _add_off(rows[k, first:last], centre, parts[0], parts[1])
            k += 1
        sums += parts[0]
        squares[first:last] += parts[1]
    for i in range(size):
        off = sums[i] / count
        squares[first + i] = max(squares[first + i] - sums[i] * off, 0.0)
        means[first + i] = centre[i] + off


@njit(nogil=True, cache=True)
def _add_four_off(a: Array, b: Array, c: Array, d: Array, centre: Array, sums: Array, squares: Array) -> None:
    for i in range(centre.size):
        one, two, three, four = a[i] - centre[i], b[i] - centre[i], c[i] - centre[i], d[i] - centre[i]
        sums[i] += (one + two) + (three + four)
        squares[i] += (one * one + two * two) + (three * three + four * four)


@njit(nogil=True, cache=True)
def _add_off(row: Array, centre: Array, sums: Array, squares: Array) -> None:
    for i in range(centre.size):
        off = row[i] - centre[i]
        sums[i] += off
        squares[i] += off * off


@njit(nogil=True, cache=True)
def channel_products(
    rows: Array, others: Array, means: Array, other_means: Array, first: int, last: int, sums: Array
) -> None:
    """Written, of channels first..last-1: sums, float64 [channels], of (x - mean) (y - mean), x and y of the same row.

    means, other_means: float64 [channels], of all rows.
    """
    count, size = rows.shape[0], last - first
    left, right = means[first:last].astype(np.float32), other_means[first:last].astype(np.float32)
    part = np.zeros(size, np.float32)
    sums[first:last] = 0
    for start in range(0, count, _FLUSH):
        part[:] = 0
        for k in range(start, min(start + _FLUSH, count)):
            _add_products(rows[k, first:last], others[k, first:last], left, right, part)
        sums[first:last] += part
    for i in range(size):  # float32 rounds the means: the sums of what is left are known
        sums[first + i] -= count * (means[first + i] - left[i]) * (other_means[first + i] - right[i])


@njit(nogil=True, cache=True)
def _add_products(row: Array, other: Array, left: Array, right: Array, sums: Array) -> None:
    for i in range(row.size):
        sums[i] += (row[i] - left[i]) * (other[i] - right[i])


@njit(nogil=True, cache=True)
def head_norms(values: Array, first: int, last: int, norms: Array) -> None:
    """Written, of samples first..last-1: norms, float32 [samples, heads, tokens], of each token's parts side by side.

    values: float32 [samples, tokens, heads * size], C order.
    """
    heads, tokens = norms.shape[1:]
    size = values.shape[2] // heads
    for sample in range(first, last):
        for token in range(tokens):
            for head in range(heads):
                part = values[sample, token, head * size : (head + 1) * size]
                norms[sample, head, token] = np.sqrt(_square(part))


@njit(nogil=True, cache=True, fastmath=_ADD_IN_ANY_ORDER)
def _square(part: Array) -> np.float32:
    total = np.float32(0)
    for i in range(part.size):
        total += part[i] * part[i]
    return total


@njit(nogil=True, cache=True)
def token_steps(rows: Array, others: Array, first: int, last: int, steps: Array, products: Array) -> None:
    """Written, of rows first..last-1: steps, float32 [rows], ||other - row||, and products, float32 alike, row . other."""
    for k in range(first, last):
        square, products[k] = _step(rows[k], others[k])
        steps[k] = np.sqrt(square)


@njit(nogil=True, cache=True, fastmath=_ADD_IN_ANY_ORDER)
def _step(row: Array, other: Array) -> tuple[np.float32, np.float32]:
    square, product = np.float32(0), np.float32(0)
    for i in range(row.size):
        off = other[i] - row[i]
        square += off * off
        product += row[i] * other[i]
    return square, product
