"""Kernels of low-rank updates: W + scale * left @ right, of stored weights.

Products are summed in float64, in the order of the rank, and added to W; the sum is rounded to float32, and from that to F16 or
BF16 where W is stored so. Weights of 16 bits are widened, added to and rounded some hundred at a time, so that all of it stays in
the nearest cache, and where they lie: with numpy, a whole array at a time, that takes ten times as long. No BLAS, and multiply-add
is fused only where products are exact, so that it changes nothing: the same bytes on any machine.
"""

import platform
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.extending import intrinsic

from ninscope.checkpoints.tensors import STORED_TYPES

_COLUMNS = 512  # that are worked at together: eight rows of them are 32 kB

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
        exact = _are_float32(left) and _are_float32(right)  # then their products are exact in float64
        if dtype == "F16" and _HAS_HALVES:
            _add_to_halves(weights.view(np.uint16), left, right, float(scale), exact)
        elif dtype in ("F16", "BF16"):
            _add_to_narrow(weights.view(np.uint16), dtype == "F16", left, right, float(scale), exact)
        else:
            _add_to_wide(weights.view(STORED_TYPES[dtype]), left, right, float(scale), exact)
    if weights is not stored:
        stored[:] = weights


def _are_float32(values: np.ndarray) -> bool:
    return bool((values.astype(np.float32) == values).all())


def _has_halves() -> bool:
    """Whether the processor that kernels are compiled for converts float16 itself, to the same bits."""
    if any(getattr(config, name, None) for name in ("DISABLE_JIT", "CPU_NAME", "CPU_FEATURES")):
        return False
    arm = platform.machine() in ("aarch64", "arm64")
    return arm or bool(llvmlite.binding.get_host_cpu_features().get("f16c", False))


_HAS_HALVES = _has_halves()


def _products(factors: np.ndarray, right: np.ndarray, row: np.ndarray) -> None:
    """factors [r] @ right [r, n] into row [n]; eight products of a column at a time, in their order."""
    row[:] = 0.0
    ranks = factors.size
    in_eights = ranks - ranks % 8
    for k in range(0, in_eights, 8):
        f0, f1, f2, f3 = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
        f4, f5, f6, f7 = factors[k + 4], factors[k + 5], factors[k + 6], factors[k + 7]
        for j in range(row.size):
            total = row[j] + f0 * right[k, j]
            total += f1 * right[k + 1, j]
            total += f2 * right[k + 2, j]
            total += f3 * right[k + 3, j]
            total += f4 * right[k + 4, j]
            total += f5 * right[k + 5, j]
            total += f6 * right[k + 6, j]
            total += f7 * right[k + 7, j]
            row[j] = total
    for k in range(in_eights, ranks):
        factor = factors[k]
        for j in range(row.size):
            row[j] += factor * right[k, j]


# Not cached: both would have one name there. They are in the cache as parts of what calls them.
_sum_products = njit(nogil=True, error_model="numpy")(_products)
_sum_exact_products = njit(nogil=True, error_model="numpy", fastmath={"contract"})(_products)


@njit(cache=True, nogil=True, error_model="numpy")
def _add_to_wide(weights: np.ndarray, left: np.ndarray, right: np.ndarray, scale: float, exact: bool) -> None:
    """weights: float32 or float64 [m, n]"""
    for first in range(0, weights.shape[1], _COLUMNS):
        part = right[:, first : first + _COLUMNS].copy()
        row = np.empty(part.shape[1], np.float64)
        for i in range(weights.shape[0]):
            if exact:
                _sum_exact_products(left[i], part, row)
            else:
                _sum_products(left[i], part, row)
            some = weights[i, first : first + _COLUMNS]
            for j in range(row.size):
                some[j] = some[j] + scale * row[j]


@njit(cache=True, nogil=True, error_model="numpy")
def _add_to_narrow(
    bits: np.ndarray, is_f16: bool, left: np.ndarray, right: np.ndarray, scale: float, exact: bool
) -> None:
    """bits: uint16 [m, n], those of float16 or bfloat16"""
    for first in range(0, bits.shape[1], _COLUMNS):
        part = right[:, first : first + _COLUMNS].copy()
        columns = part.shape[1]
        row = np.empty(columns, np.float64)
        wide, shifted = np.empty(columns, np.float32), np.empty(columns, np.float32)
        for i in range(bits.shape[0]):
            if exact:
                _sum_exact_products(left[i], part, row)
            else:
                _sum_products(left[i], part, row)
            some = bits[i, first : first + _COLUMNS]
            if is_f16:
                _widen_f16(some, wide, wide.view(np.uint32))
            else:
                _widen_bf16(some, wide.view(np.uint32))
            for j in range(columns):
                wide[j] = wide[j] + scale * row[j]
            if is_f16:
                _round_to_f16(wide.view(np.uint32), shifted, shifted.view(np.uint32), some)
            else:
                _round_to_bf16(wide.view(np.uint32), some)


def _float32_of_half(typing_context: Any, bits: Any) -> tuple[Any, Any]:
    """For numba's `intrinsic`: the float32 that float16 bits stand for."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


def _half_of_float32(typing_context: Any, value: Any) -> tuple[Any, Any]:
    """For numba's `intrinsic`: the bits of a float32 as float16, rounded to the nearest, ties to even."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


_from_half: Any = intrinsic(_float32_of_half)
_to_half: Any = intrinsic(_half_of_float32)


@njit(cache=True, nogil=True, error_model="numpy")
def _add_to_halves(bits: np.ndarray, left: np.ndarray, right: np.ndarray, scale: float, exact: bool) -> None:
    """As `_add_to_narrow` of float16, by the processor's own conversions; only NaN may have other bits.

    A kernel of its own: for a processor that has none this cannot even be compiled.
    """
    for first in range(0, bits.shape[1], _COLUMNS):
        part = right[:, first : first + _COLUMNS].copy()
        row = np.empty(part.shape[1], np.float64)
        for i in range(bits.shape[0]):
            if exact:
                _sum_exact_products(left[i], part, row)
            else:
                _sum_products(left[i], part, row)
            some = bits[i, first : first + _COLUMNS]
            for j in range(row.size):
                some[j] = _to_half(np.float32(_from_half(some[j]) + scale * row[j]))


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
