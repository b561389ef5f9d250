"""Find NaN and infinity in stored weights by their exponent bits: one AND and one comparison a weight, no arithmetic."""

import numpy as np
from numba import njit

# All exponent bits set means infinity or NaN (IEEE 754 binary16/32/64; bfloat16 has binary32's exponent).
_EXPONENT = {
    "F16": np.uint16(0x7C00),
    "BF16": np.uint16(0x7F80),
    "F32": np.uint32(0x7F800000),
    "F64": np.uint64(0x7FF0000000000000),
}
_CHUNK = 1 << 14


def first_nonfinite(values: np.ndarray, dtype: str) -> int:
    """Position in row-major order of the first NaN or infinity in `values`, or -1.

    values: contiguous array of the stored type `dtype` (F16, BF16 as uint16 bits, F32, F64).
    """
    mask = _EXPONENT[dtype]
    return int(_first_with_all_bits(values.reshape(-1).view(mask.dtype), mask))


@njit(cache=True, nogil=True)
def _first_with_all_bits(bits, mask):
    # The inner loop has no exit, so that it compiles to vector instructions; the outer one stops at the first bad chunk.
    for start in range(0, bits.size, _CHUNK):
        stop = min(start + _CHUNK, bits.size)
        bad = 0
        for i in range(start, stop):
            bad |= (bits[i] & mask) == mask
        if bad:
            for i in range(start, stop):
                if (bits[i] & mask) == mask:
                    return i
    return -1
