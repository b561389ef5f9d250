"""Find NaN and infinity in stored weights by their exponent bits, a machine word of weights at a time."""

import numpy as np
from numba import njit

# All exponent bits set means infinity or NaN (IEEE 754 binary16/32/64; bfloat16 has binary32's exponent).
_EXPONENT: dict[str, np.uint16 | np.uint32 | np.uint64] = {
    "F16": np.uint16(0x7C00),
    "BF16": np.uint16(0x7F80),
    "F32": np.uint32(0x7F800000),
    "F64": np.uint64(0x7FF0000000000000),
}
_CHUNK = 1 << 12


def first_nonfinite(values: np.ndarray, dtype: str) -> int:
    """Position in row-major order of the first NaN or infinity in `values`, or -1.

    values: contiguous array of the stored type `dtype` (F16, BF16 as uint16 bits, F32, F64).
    """
    mask = _EXPONENT[dtype]
    bits = values.reshape(-1).view(mask.dtype)
    start = 0
    if bits.ctypes.data % 8 == 0:
        width = 8 * mask.itemsize
        lanes = 64 // width
        exponents, lowest, signs = (
            np.uint64(sum(pattern << (width * lane) for lane in range(lanes)))
            for pattern in (int(mask), int(mask) & -int(mask), 1 << (width - 1))
        )
        words = bits[: bits.size - bits.size % lanes].view(np.uint64)
        start = int(_first_suspect(words, exponents, lowest, signs)) * lanes
    bad = np.flatnonzero((bits[start:] & mask) == mask)
    return start + int(bad[0]) if bad.size else -1


@njit(cache=True, nogil=True)
def _first_suspect(words: np.ndarray, exponents: np.uint64, lowest: np.uint64, signs: np.uint64) -> int:
    """Start of the first chunk of words in which a weight has a full exponent, or words.size.

    Adding the lowest exponent bit to a full exponent carries into the weight's sign bit, masked away before, and no further.
    """
    # The inner loop has no exit, so that it compiles to vector instructions; the outer one stops at the first bad chunk.
    for start in range(0, words.size, _CHUNK):
        chunk = words[start : start + _CHUNK]
        exponent_bits = np.uint64(0)
        for i in range(chunk.size):
            exponent_bits |= (chunk[i] & exponents) + lowest
        if exponent_bits & signs:
            return start
    return words.size
