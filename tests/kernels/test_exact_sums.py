"""Exact sums of weights: those of Python's integers and fractions, whatever the split; what follows is rounded to the nearest."""

import math
from fractions import Fraction

import numpy as np
import pytest
from modes import JIT
from suites import from_bf16, to_bf16

from ninscope.errors import CheckpointError
from ninscope.weights import exact_sums
from ninscope.weights.exact_sums import (
    added,
    all_finite,
    check_number,
    mean_of,
    norm_of,
    rms_of_sums,
    square_sums,
    square_sums_of_slots,
    std_of,
    sums_of_patterns,
    variance_of,
)
from ninscope.weights.pattern_kernels import count_and_sum, count_upper_bits

RNG = np.random.default_rng(7)
TYPES = ("F16", "BF16", "F32")
ANY = np.concatenate([RNG.standard_normal(210) * np.exp2(RNG.integers(-20, 5, 210)), [0.0, -0.0, 1.0, -1.0, 0.1] * 6])
TINY = {"F16": 2.0**-24, "BF16": 2.0**-133, "F32": 2.0**-149}
LARGEST = {"F16": 65504.0, "BF16": float(from_bf16(np.array([0x7F7F]))[0]), "F32": float(np.finfo(np.float32).max)}


def stored(values, dtype):
    if dtype == "BF16":
        return to_bf16(values)
    return (
        np.asarray(values).astype(np.float16 if dtype == "F16" else np.float32).view(f"u{2 if dtype == 'F16' else 4}")
    )


def floats(bits, dtype):
    return from_bf16(bits) if dtype == "BF16" else bits.view(f"f{bits.itemsize}")


def weights_of(dtype):
    """Ordinary ones, subnormals of the type, the largest: 8 rows."""
    edge = [TINY[dtype] * k for k in (1, -3, 7, 100)] + [LARGEST[dtype], -LARGEST[dtype], 1 / 3, -TINY[dtype]]
    return stored(np.concatenate([ANY, edge]), dtype).reshape(8, -1)


def term_by_term(values):
    """Sums of mantissas by exponent, in Python's integers, from `math.frexp`."""
    sums = [[0] * 4 for _ in range(256)]
    for value in values.astype(np.float64).ravel().tolist():
        fraction, exponent = math.frexp(abs(value))
        biased = exponent + 126 if value else 0
        mantissa = int(fraction * 2**24) if biased > 0 else int(abs(value) * 2.0**149)
        high, low = divmod(mantissa, 4096)
        terms = (int(math.copysign(1, value)) * mantissa, high**2, high * low, low**2)
        of_exponent = sums[max(biased, 0)]
        for column, term in enumerate(terms):
            of_exponent[column] += term
    return np.array(sums)


@pytest.mark.parametrize("tables", [True, False], ids=["tables", "term by term"])
@pytest.mark.parametrize("dtype", TYPES)
def test_sums_are_those_of_integers(dtype, tables, monkeypatch):
    monkeypatch.setattr(exact_sums, "_MANY", dict.fromkeys(TYPES, 0 if tables else 1 << 40))
    bits = weights_of(dtype)
    sums = square_sums(bits, dtype)
    assert (sums.dtype, sums.shape) == (np.int64, (256, 4))
    np.testing.assert_array_equal(sums, term_by_term(floats(bits, dtype)))
    parts = [square_sums(part, dtype) for part in (bits[:, :3], bits[:3, 3:], bits[3:, 3:])]  # not contiguous
    np.testing.assert_array_equal(added(added(parts[2], parts[0]), parts[1]), sums)
    slots = np.array([1, -1, 0, 1, 1, -1, 0, 0])
    for slot, mine in enumerate(square_sums_of_slots(bits, dtype, slots, 2)):
        np.testing.assert_array_equal(mine, term_by_term(floats(bits[slots == slot], dtype)))
    assert not square_sums(bits[:, :0], dtype).any()
    assert not square_sums(bits[:0], dtype).any()


@pytest.mark.parametrize("dtype", TYPES)
def test_weights_may_be_of_another_type(dtype):
    """float32 weights that a 16-bit type holds have its sums."""
    bits = weights_of(dtype)
    wide = floats(bits, dtype).astype(np.float32).view(np.uint32)
    np.testing.assert_array_equal(square_sums(bits, dtype), square_sums(wide, "F32"))


def test_what_is_not_finite_is_seen():
    for dtype, patterns in {"F16": [0x7C00, 0xFC00], "BF16": [0x7F80, 0xFF80], "F32": [0x7F800000, 0xFF800000]}.items():
        bits = np.array([patterns], np.uint32 if dtype == "F32" else np.uint16)  # their signs cancel
        for some in (bits, bits + 1):
            sums = square_sums(some, dtype)
            assert not all_finite(sums)
            with pytest.raises(ValueError, match="not all finite"):
                norm_of(sums)
        assert all_finite(square_sums(bits - 1, dtype))


def nearest(found, square, denominator=1):
    """Whether `found` is the float64 nearest to sqrt(square / denominator)."""
    exact = Fraction(square) / denominator
    below, above = (math.nextafter(found, side) for side in (0, math.inf))
    return ((Fraction(below) + Fraction(found)) / 2) ** 2 <= exact <= ((Fraction(above) + Fraction(found)) / 2) ** 2


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("which", ["edges", "ordinary", "tiny", "alike", "nearly alike"])
def test_what_follows_is_rounded_to_the_nearest(dtype, which):
    bits = {
        "edges": weights_of(dtype),
        "ordinary": stored(0.02 * RNG.standard_normal((3, 30)) + 0.01, dtype),
        "tiny": stored(np.arange(9.0)[None] * TINY[dtype], dtype),
        "alike": stored(np.full((1, 7), 0.1), dtype),
        "nearly alike": stored(np.full((1, 7), 1.0), dtype),
    }[which]
    if which == "nearly alike":
        bits[0, 3] += 1
    sums, n = square_sums(bits, dtype), bits.size
    exact = [Fraction(value) for value in floats(bits, dtype).astype(np.float64).ravel().tolist()]
    mean, square = sum(exact) / n, sum(value**2 for value in exact)
    variance = sum((value - mean) ** 2 for value in exact) / n
    assert nearest(norm_of(sums), square)
    assert nearest(rms_of_sums(sums, n), square, n)
    assert nearest(std_of(sums, n), variance)
    assert (std_of(sums, n) == 0) == (which == "alike") == (variance_of(sums, n) == 0)
    for found, wanted in ((mean_of(sums, n), mean), (variance_of(sums, n), variance)):
        gap = abs(Fraction(found) - wanted)
        assert all(gap <= abs(Fraction(math.nextafter(found, side)) - wanted) for side in (-math.inf, math.inf))


def test_what_theory_says():
    sums = square_sums(stored([[3.0, 4.0, 0.0, -5.0]], "F16"), "F16")
    assert (norm_of(sums), rms_of_sums(sums, 4), mean_of(sums, 4)) == (math.sqrt(50), math.sqrt(12.5), 0.5)
    assert variance_of(sums, 4) == 12.25
    assert std_of(sums, 4) == 3.5
    ones = square_sums(stored([[1.0]], "F32"), "F32")
    assert mean_of(sums * 0, 5) == norm_of(sums * 0) == std_of(sums * 0, 5) == 0
    assert all(math.isnan(of(ones * 0, 0)) for of in (mean_of, rms_of_sums, variance_of, std_of))


def test_ties_go_to_even_but_for_what_follows_them():
    """2**53 + 1 units lie half way between two float64."""

    def sums(*values):
        return square_sums(stored([values], "F32"), "F32")

    next_to = math.nextafter(2.0**40, math.inf)
    assert mean_of(sums(2.0**40, 2.0**-13), 2) == 2.0**40 / 2
    assert mean_of(sums(2.0**40, 2.0**-13, 2.0**-120, 0.0), 4) == next_to / 4
    legs = 2.0**40, 2.0**14, 2.0**-13  # 2**106 + 2**54 + 1 is the square of 2**53 + 1
    assert norm_of(sums(*legs)) == 2.0**40
    assert norm_of(sums(*legs, 2.0**-120)) == next_to
    assert rms_of_sums(sums(*legs, 0.0), 4) == 2.0**40 / 2
    assert rms_of_sums(sums(*legs, *legs, *legs, 2.0**-120), 12) == next_to / 2


def test_counts_of_patterns():
    counts = np.zeros(1 << 16, np.int64)
    counts[stored([1.5, -1.5, TINY["F16"]], "F16")] = [3 * 10**11, 10**11, 2]
    sums = sums_of_patterns(counts, "F16")
    assert norm_of(sums) == pytest.approx(1.5 * math.sqrt(4e11), rel=1e-15)
    assert mean_of(sums, 4 * 10**11) == 0.75
    twice = sums_of_patterns(2 * counts, "F16")  # more weights than are sure to fit, which do
    np.testing.assert_array_equal(twice, added(sums, sums))
    with pytest.raises(CheckpointError, match=r"^sums of squares may leave 64 bits, which hold those of 549755813888 "):
        sums_of_patterns(100 * counts, "F16")
    full = square_sums(stored([[-LARGEST["F32"]]], "F32"), "F32") * (1 << 38)
    np.testing.assert_array_less(added(full, full - 1)[254, 1:], 2**63 - 1)
    with pytest.raises(CheckpointError, match="may leave 64 bits"):
        added(added(full, full), full)
    check_number(1 << 39)
    with pytest.raises(CheckpointError, match="of 549755813889 weights may leave"):
        check_number((1 << 39) + 1)


def test_wrong_requests_are_refused():
    bits = weights_of("F32")
    with pytest.raises(ValueError, match="not of F64"):
        square_sums(bits, "F64")
    with pytest.raises(ValueError, match="bits of type uint32, not uint16"):
        square_sums(bits, "F16")
    with pytest.raises(ValueError, match="slots"):
        square_sums_of_slots(bits, "F32", np.full(8, 2), 2)


def test_words_are_emptied_before_they_are_full():
    """As after 2**26 weights of one bin, and 2**20 of one exponent."""
    bits = np.full((6, 70), 0x3FFFFFFF, np.uint32)  # h and l are the largest
    bits[1:3, 5:9] = weights_of("F32")[:2, :4]
    slots = np.array([0, 1, 0, -1, 1, 0])
    counts = np.zeros((2, 1 << 20), np.uint32)
    count_upper_bits(bits, slots, counts)
    wanted = [term_by_term(bits[slots == slot].view(np.float32)) for slot in (0, 1)]
    for limits in ((1 << 26, 1 << 20), (50, 1 << 20), (1 << 26, 50), (90, 40)):
        found, sums = np.zeros_like(counts), np.zeros((2, 256, 4), np.int64)
        count_and_sum(bits, slots, found, sums, *limits)
        np.testing.assert_array_equal(found, counts)
        np.testing.assert_array_equal(sums, wanted)


@pytest.mark.skipif(not JIT, reason="a million weights")
def test_a_million_weights_of_one_pattern():
    bits = np.full((3, 700_001), 0xBFFFFFFF, np.uint32)
    high = low = 4095
    terms = np.array([-(4096 * high + low), high * high, high * low, low * low])
    np.testing.assert_array_equal(square_sums(bits, "F32")[127], terms * bits.size)
