"""The search for NaN and infinity against numpy's own, over bit patterns of every kind."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from suites import from_bf16

from ninscope.checkpoints.finite import first_nonfinite

BITS = {"F16": np.uint16, "BF16": np.uint16, "F32": np.uint32, "F64": np.uint64}
FLOATS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
INFINITY = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000, "F64": 0x7FF0000000000000}
LARGEST = {dtype: bits - 1 for dtype, bits in INFINITY.items()}
CHUNK = 1 << 14  # a multiple of what the search takes at a time: at its ends it could slip


def stored(bits: np.ndarray, dtype: str) -> np.ndarray:
    return bits if dtype == "BF16" else bits.view(FLOATS[dtype])


def expected(bits: np.ndarray, dtype: str) -> int:
    """By numpy, BF16 as the float32 whose upper half it is."""
    wide = bits.astype(np.uint32) << 16 if dtype == "BF16" else bits
    values = wide.view(FLOATS.get(dtype, np.float32))
    bad = np.flatnonzero(~np.isfinite(values))
    return int(bad[0]) if bad.size else -1


@pytest.mark.parametrize("dtype", BITS)
@given(data=st.data(), rows=st.integers(0, 5), columns=st.integers(1, 5))
def test_same_as_numpy_on_random_bits(dtype, data, rows, columns):
    """Half of the draws are about infinity, of either sign, which random bits of the wider types hardly ever are."""
    limit = np.iinfo(BITS[dtype]).max
    near = st.integers(LARGEST[dtype] - 2, LARGEST[dtype] + 3).flatmap(
        lambda x: st.sampled_from([x, x + limit // 2 + 1])
    )
    pattern = st.one_of(st.integers(0, limit), near)
    drawn = data.draw(st.lists(pattern, min_size=rows * columns, max_size=rows * columns))
    bits = np.array(drawn, dtype=BITS[dtype]).reshape(rows, columns)
    assert first_nonfinite(stored(bits, dtype), dtype) == expected(bits.reshape(-1), dtype)


@pytest.mark.parametrize("dtype", BITS)
@given(before=st.integers(0, 4), size=st.integers(1, 20), data=st.data())
def test_wherever_in_memory_it_starts(dtype, before, size, data):
    """Several weights are looked at in one word of memory: those outside must not be, whatever they are."""
    at = data.draw(st.one_of(st.none(), st.integers(0, size - 1)))
    bits = np.full(before + size + 4, INFINITY[dtype], BITS[dtype])
    bits[before : before + size] = LARGEST[dtype]
    if at is not None:
        bits[before + at] = INFINITY[dtype]
    assert first_nonfinite(stored(bits, dtype)[before : before + size], dtype) == (-1 if at is None else at)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_pattern_of_sixteen_bits(dtype):
    every = np.arange(1 << 16, dtype=np.uint16)
    found = np.array([first_nonfinite(stored(every[i : i + 1], dtype), dtype) for i in range(0, 1 << 16, 7)])
    wrong = np.array([expected(every[i : i + 1], dtype) for i in range(0, 1 << 16, 7)])
    np.testing.assert_array_equal(found, wrong)
    assert first_nonfinite(stored(every, dtype), dtype) == INFINITY[dtype]


def test_the_first_bfloat16_that_is_not_finite_is_the_one_after_the_largest():
    largest = np.array([LARGEST["BF16"]], np.uint16)
    assert from_bf16(largest)[0] == np.float32(2**127 * (2 - 2**-7))
    assert first_nonfinite(largest, "BF16") == -1


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("sign", [0, 1])
@given(at=st.sets(st.integers(0, 2 * CHUNK + 4), min_size=1, max_size=3))
@example(at={0})
@example(at={CHUNK - 1})
@example(at={CHUNK, CHUNK + 1})
@example(at={2 * CHUNK + 4})
def test_the_first_of_several_over_chunks(dtype, sign, at):
    width = 8 * np.dtype(BITS[dtype]).itemsize
    bits = np.full(2 * CHUNK + 5, LARGEST[dtype], BITS[dtype])
    bits[list(at)] = INFINITY[dtype] | sign << (width - 1)
    assert first_nonfinite(stored(bits, dtype), dtype) == min(at)


@pytest.mark.parametrize("dtype", BITS)
def test_nothing_is_found_in_nothing(dtype):
    assert first_nonfinite(stored(np.zeros((0, 3), BITS[dtype]), dtype), dtype) == -1


def test_read_only_arrays():
    values = np.frombuffer(np.array([1, 2, np.nan], np.float32).tobytes(), np.float32)
    assert not values.flags.writeable
    assert first_nonfinite(values, "F32") == 2
