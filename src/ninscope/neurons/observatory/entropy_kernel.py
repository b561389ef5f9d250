"""Entropy of the rows of attention patterns, and their first entries. Arrays and loops only.

One entry costs one logarithm, and a causal pattern is half zeros, so a row is read to its diagonal where all beyond is zero.
The logarithm is read off the bits: x = 2^e (1 + t), with t and e as whole numbers in them, and where 1 + t is above sqrt(2)
half of it with e + 1. ln(1 + t) is then t times a polynomial of degree 8 (Chebyshev's fit of ln(1 + t) / t), to 1e-8 of 1,
below float32's rounding; a compiler makes vectors of it, unlike calls of a library's logarithm.
"""

import numpy as np
from numba import njit

Array = np.ndarray  # of the shape and dtype that the docstring of the kernel gives

_ONE, _HALF, _ROOT_LESS_1 = (np.float32(value) for value in (1, 0.5, 2**0.5 - 1))
_LN2, _BIAS, _STEP = np.float32(np.log(2)), np.float32(127), np.float32(2.0**-23)
_MANTISSA = np.int32(0x007FFFFF)


def _fitted(degree: int) -> list[np.float32]:
    """Coefficients of ln(1 + t) / t for 1 + t from sqrt(1/2) to sqrt(2), at Chebyshev's points."""
    low, high = 2**-0.5 - 1, 2**0.5 - 1
    points = (low + high) / 2 + (high - low) / 2 * np.cos((np.arange(400) + 0.5) * np.pi / 400)
    fit = np.polynomial.chebyshev.Chebyshev.fit(points, np.log1p(points) / points, degree, domain=[low, high])
    return [np.float32(value) for value in fit.convert(kind=np.polynomial.Polynomial).coef]


_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8 = _fitted(8)
_VECTORS = 32  # entries that a compiled loop takes at once; a rest costs as much one by one
_ADD_IN_ANY_ORDER = {"reassoc", "contract", "nsz"}  # what vectors need; zeros and large values stay as they are


@njit(nogil=True, cache=True)
def add_row_entropies(patterns: Array, bits: Array, first: int, last: int, sums: Array, starts: Array) -> bool:
    """Add -sum_j a_ij ln a_ij, in nats, of every sample to the sums of heads first..last-1. True: some a_ij with j > i is not 0.

    patterns: float32 [samples, heads, rows, columns], C order, none negative. bits: the same memory as int32. sums: float64
    [heads, rows]. Written, of these heads: starts, float32 [samples, heads, rows], each row's first entry. A sample's entropy is
    summed in float32, samples in float64.
    """
    rows, columns = patterns.shape[2:]
    ahead = False
    for head in range(first, last):
        for sample in range(patterns.shape[0]):
            for i in range(rows):
                line, of_line, end = patterns[sample, head, i], bits[sample, head, i], columns
                if _any(of_line[min(i + 1, columns) :]):
                    ahead = True
                else:
                    end = min((i // _VECTORS + 1) * _VECTORS, columns)
                sums[head, i] -= _sum_x_ln_x(line[:end], of_line[:end])
                starts[sample, head, i] = line[0]
    return ahead


@njit(nogil=True, cache=True)
def _any(bits: Array) -> bool:
    found = np.int32(0)
    for j in range(bits.size):
        found = np.int32(found | bits[j])
    return found != 0


@njit(nogil=True, cache=True, fastmath=_ADD_IN_ANY_ORDER, error_model="numpy")
def _sum_x_ln_x(values: Array, bits: Array) -> np.float32:
    """0 has the exponent -127 here, so 0 ln 0 comes out as 0."""
    total = np.float32(0)
    for j in range(values.size):
        e = np.float32(np.int32(bits[j] >> 23)) - _BIAS
        t = np.float32(np.int32(bits[j] & _MANTISSA)) * _STEP
        large = t > _ROOT_LESS_1
        t = (t - _ONE) * _HALF if large else t
        e = e + _ONE if large else e
        series = _C4 + t * (_C5 + t * (_C6 + t * (_C7 + t * _C8)))
        series = _C0 + t * (_C1 + t * (_C2 + t * (_C3 + t * series)))
        total += values[j] * (e * _LN2 + t * series)
    return total
