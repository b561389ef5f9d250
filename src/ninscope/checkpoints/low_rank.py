"""Kernels of low-rank updates: W + scale * left @ right, of stored weights.

Products are summed in float64, in the order of the rank, and added to W; the sum is rounded to float32, and from that to F16 or
BF16 where W is stored so. Weights of 16 bits are widened, added to and rounded a row at a time, and where they lie: with numpy, a
whole array at a time, that takes four times as long. No BLAS, no fused multiply-add: the same bytes on any machine.
"""

import numpy as np
from numba import njit

from ninscope.checkpoints.tensors import STORED_TYPES

# Of the bits of float32.
_MAGNITUDE, _INFINITY = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
_HALF, _HALF_BITS = np.float32(0.5), np.uint32(0x3F000000)
# Of those of float16, and how float32 holds them: 2^112 turns its exponents into float32's.
_F16_SIGN, _F16_MAGNITUDE, _F16_INFINITY, _F16_NAN = (np.uint32(bits) for bits in (0x8000, 0x7FFF, 0x7C00, 0x7E00))
_F16_SCALE, _F16_BIAS = np.float32(2.0**112), np.uint32(0x38000000)
_F16_LEAST_NORMAL, _F16_OVERFLOW = np.uint32(0x38800000), np.uint32(0x477FF000)  # the least that rounds to infinity
_F16_BELOW_HALF, _F16_SHIFT = np.uint32(0xFFF), np.uint32(13)
_BF16_BELOW_HALF, _BF16_SHIFT, _BF16_QUIET = np.uint32(0x7FFF), np.uint32(16), np.uint32(0x40)
_ONE = np.uint32(1)


def add_low_rank(stored: np.ndarray, dtype: str, left: np.ndarray, right: np.ndarray, scale: float) -> None:
    """Add scale * left @ right to W, in its place.

    stored: W [m, n], of STORED_TYPES[dtype]. left [m, r], right [r, n]: floats of any width.
    """
    weights = np.require(stored, requirements=["C", "ALIGNED"])
    left, right = (np.ascontiguousarray(factor, np.float64) for factor in (left, right))
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype in ("F16", "BF16"):
            _add_to_narrow(weights.view(np.uint16), dtype == "F16", left, right, float(scale))
        else:
            _add_to_wide(weights.view(STORED_TYPES[dtype]), left, right, float(scale))
    if weights is not stored:
        stored[:] = weights


@njit(cache=True, nogil=True, error_model="numpy")
def _add_to_wide(weights: np.ndarray, left: np.ndarray, right: np.ndarray, scale: float) -> None:
    """weights: float32 or float64 [m, n]"""
    row = np.empty(weights.shape[1], np.float64)
    for i in range(weights.shape[0]):
        _sum_products(left[i], right, row)
        for j in range(row.size):
            row[j] = weights[i, j] + scale * row[j]
        for j in range(row.size):
            weights[i, j] = row[j]


@njit(cache=True, nogil=True, error_model="numpy")
def _add_to_narrow(bits: np.ndarray, is_f16: bool, left: np.ndarray, right: np.ndarray, scale: float) -> None:
    """bits: uint16 [m, n], those of float16 or bfloat16"""
    columns = bits.shape[1]
    row = np.empty(columns, np.float64)
    wide, shifted = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for i in range(bits.shape[0]):
        _sum_products(left[i], right, row)
        if is_f16:
            _widen_f16(bits[i], wide, wide.view(np.uint32))
        else:
            _widen_bf16(bits[i], wide.view(np.uint32))
        for j in range(columns):
            wide[j] = wide[j] + scale * row[j]
        if is_f16:
            _round_to_f16(wide.view(np.uint32), shifted, shifted.view(np.uint32), bits[i])
        else:
            _round_to_bf16(wide.view(np.uint32), bits[i])


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_products(factors: np.ndarray, right: np.ndarray, row: np.ndarray) -> None:
    """factors [r] @ right [r, n] into row [n]; four products of a column at a time, in their order."""
    row[:] = 0.0
    ranks = factors.size
    in_fours = ranks - ranks % 4
    for k in range(0, in_fours, 4):
        f0, f1, f2, f3 = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
        for j in range(row.size):
            total = row[j] + f0 * right[k, j]
            total += f1 * right[k + 1, j]
            total += f2 * right[k + 2, j]
            total += f3 * right[k + 3, j]
            row[j] = total
    for k in range(in_fours, ranks):
        factor = factors[k]
        for j in range(row.size):
            row[j] += factor * right[k, j]


@njit(cache=True, nogil=True, error_model="numpy")
def _widen_bf16(bits: np.ndarray, wide_bits: np.ndarray) -> None:
    for j in range(bits.size):
        wide_bits[j] = np.uint32(bits[j]) << _BF16_SHIFT


@njit(cache=True, nogil=True, error_model="numpy")
def _round_to_bf16(wide_bits: np.ndarray, out: np.ndarray) -> None:
    """To the nearest, ties to even; what is no number stays none."""
    for j in range(out.size):
        value = wide_bits[j]
        upper = value >> _BF16_SHIFT
        rounded = (value + _BF16_BELOW_HALF + (upper & _ONE)) >> _BF16_SHIFT
        out[j] = upper | _BF16_QUIET if (value & _MAGNITUDE) > _INFINITY else rounded


@njit(cache=True, nogil=True, error_model="numpy")
def _widen_f16(bits: np.ndarray, wide: np.ndarray, wide_bits: np.ndarray) -> None:
    """wide, wide_bits: the same memory. A multiplication gives subnormal numbers their exponents too."""
    for j in range(bits.size):
        wide_bits[j] = (np.uint32(bits[j]) & _F16_MAGNITUDE) << _F16_SHIFT
    for j in range(bits.size):
        wide[j] = wide[j] * _F16_SCALE
    for j in range(bits.size):
        value = np.uint32(bits[j])
        special = _INFINITY if (value & _F16_MAGNITUDE) >= _F16_INFINITY else np.uint32(0)
        wide_bits[j] = wide_bits[j] | special | ((value & _F16_SIGN) << _BF16_SHIFT)


@njit(cache=True, nogil=True, error_model="numpy")
def _round_to_f16(wide_bits: np.ndarray, shifted: np.ndarray, shifted_bits: np.ndarray, out: np.ndarray) -> None:
    """To the nearest, ties to even; what is too large becomes infinite. shifted, shifted_bits: the same memory, for this row.

    Beside 0.5, whose last place is float16's least number, an addition rounds subnormal numbers.
    """
    for j in range(out.size):
        shifted_bits[j] = wide_bits[j] & _MAGNITUDE
    for j in range(out.size):
        shifted[j] = shifted[j] + _HALF
    for j in range(out.size):
        size = wide_bits[j] & _MAGNITUDE
        normal = (size + _F16_BELOW_HALF + ((size >> _F16_SHIFT) & _ONE) - _F16_BIAS) >> _F16_SHIFT
        rounded = shifted_bits[j] - _HALF_BITS if size < _F16_LEAST_NORMAL else normal
        rounded = _F16_INFINITY if size >= _F16_OVERFLOW else rounded
        rounded = _F16_NAN if size > _INFINITY else rounded
        out[j] = rounded | ((wide_bits[j] >> _BF16_SHIFT) & _F16_SIGN)
