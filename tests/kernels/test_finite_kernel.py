"""Every bit pattern of the 16-bit types, and single bad weights anywhere in aligned and unaligned arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninscope.checkpoints.finite import first_nonfinite
from ninscope.checkpoints.tensors import STORED_TYPES, as_float

ALL16 = np.arange(65536, dtype=np.uint16)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_16_bit_pattern(dtype):
    stored = ALL16.view(STORED_TYPES[dtype])
    finite = np.isfinite(as_float(stored, dtype))
    assert first_nonfinite(stored[finite], dtype) == -1
    for chunk in np.array_split(stored[~finite], 8):
        assert first_nonfinite(chunk, dtype) == 0
    for bad in stored[~finite][::97]:  # one bad weight in each of a word's four lanes, and in the tail
        for place in (0, 1, 2, 3, 8, 9, 10):
            values = np.zeros(11, stored.dtype)
            values[place] = bad
            assert first_nonfinite(values, dtype) == place


@given(
    st.sampled_from(["F16", "BF16", "F32", "F64"]),
    st.integers(0, 70_000),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_finds_the_first_of_any(dtype, size, seed, aligned):
    generator = np.random.default_rng(seed)
    stored = np.dtype(STORED_TYPES[dtype])
    raw = np.zeros(size * stored.itemsize + 8, np.uint8)
    values = raw[0 if aligned else stored.itemsize % 8 :][: size * stored.itemsize].view(stored)
    values[:] = generator.integers(0, 256, values.nbytes, dtype=np.uint8).view(stored)
    expected = np.flatnonzero(~np.isfinite(as_float(values, dtype)))
    for bad in expected[1:]:
        values[bad] = 0
    assert first_nonfinite(values, dtype) == (expected[0] if expected.size else -1)
