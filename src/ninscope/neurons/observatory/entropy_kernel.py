"""Entropy of the rows of attention patterns. Arrays and loops only.

One entry costs one logarithm, and a causal pattern is half zeros, so a row is read to its diagonal where all beyond is zero.
The logarithm is taken apart: x = 2^e m with m in [sqrt(1/2), sqrt(2)), and ln m = 2 artanh(s) with s = (m - 1) / (m + 1). The
series 2 (s + s^3/3 + ... + s^9/9) leaves out less than 2 s^11/11 < 7e-10 of it, below float32's rounding; a compiler makes
vectors of it, unlike calls of a library's logarithm.
"""

import numpy as np
from numba import njit

Array = np.ndarray  # of the shape and dtype that the docstring of the kernel gives

_ONE, _TWO, _HALF, _ROOT = (np.float32(value) for value in (1, 2, 0.5, 2**0.5))
_LN2, _BIAS, _STEP = np.float32(np.log(2)), np.float32(127), np.float32(2.0**-23)
_THIRD, _FIFTH, _SEVENTH, _NINTH = (np.float32(1 / odd) for odd in (3, 5, 7, 9))
_MANTISSA, _EXPONENT, _BITS_OF_ONE = np.int32(0x007FFFFF), np.int32(0x7F800000), np.int32(0x3F800000)
_VECTORS = 32  # entries that a compiled loop takes at once; a rest costs as much one by one
_ADD_IN_ANY_ORDER = {"reassoc", "contract", "nsz"}  # what vectors need; zeros and large values stay as they are


@njit(nogil=True, cache=True)
def add_row_entropies(patterns: Array, bits: Array, first: int, last: int, sums: Array) -> bool:
    """Add -sum_j a_ij ln a_ij, in nats, of every sample to the sums of heads first..last-1. True: some a_ij with j > i is not 0.

    patterns: float32 [samples, heads, rows, columns], C order, none negative. bits: the same memory as int32. sums: float64
    [heads, rows]. A sample's entropy is summed in float32, samples in float64.
    """
    heads, rows, columns = patterns.shape[1:]
    lines, of_lines = patterns.reshape(-1, columns), bits.reshape(-1, columns)
    exponents, mantissas = np.empty(columns, np.int32), np.empty(columns, np.int32)
    parts = mantissas.view(np.float32)
    ahead = False
    for head in range(first, last):
        for sample in range(patterns.shape[0]):
            for i in range(rows):
                line, end = (sample * heads + head) * rows + i, columns
                if _any(of_lines, line, min(i + 1, columns), columns):
                    ahead = True
                else:
                    end = min((i // _VECTORS + 1) * _VECTORS, columns)
                _take_apart(of_lines, line, end, exponents, mantissas)
                sums[head, i] -= _sum_x_ln_x(lines, line, end, exponents, parts)
    return ahead


@njit(nogil=True, cache=True)
def _any(bits: Array, line: int, start: int, end: int) -> bool:
    found = np.int32(0)
    for j in range(start, end):
        found = np.int32(found | bits[line, j])
    return found != 0


@njit(nogil=True, cache=True)
def _take_apart(bits: Array, line: int, end: int, exponents: Array, mantissas: Array) -> None:
    """Of each number the exponent's bits, and the mantissa as the bits of a number in [1, 2)."""
    for j in range(end):
        exponents[j] = bits[line, j] & _EXPONENT
        mantissas[j] = (bits[line, j] & _MANTISSA) | _BITS_OF_ONE


@njit(nogil=True, cache=True, fastmath=_ADD_IN_ANY_ORDER, error_model="numpy")
def _sum_x_ln_x(lines: Array, line: int, end: int, exponents: Array, mantissas: Array) -> np.float32:
    """0 has the exponent -127 here, so 0 ln 0 comes out as 0."""
    total = np.float32(0)
    for j in range(end):
        e, m = np.float32(exponents[j]) * _STEP - _BIAS, mantissas[j]
        large = m > _ROOT
        m = m * _HALF if large else m
        e = e + _ONE if large else e
        s = (m - _ONE) / (m + _ONE)
        ss = s * s
        series = _ONE + ss * (_THIRD + ss * (_FIFTH + ss * (_SEVENTH + ss * _NINTH)))
        total += lines[line, j] * (e * _LN2 + _TWO * s * series)
    return total
