"""Kernels of the statistics of weights on a few numbers, compiled and as plain Python."""

import math
from fractions import Fraction

import numpy as np
import pytest
from naive_weights import alpha, statistics
from suites import from_bf16, to_bf16

from ninscope.weights.changes import _compare_rows
from ninscope.weights.patterns import ACCURACY, ROW_SUMS, count_rows, magnitudes
from ninscope.weights.power_law import spectral_alpha
from ninscope.weights.statistics import joined_sums, statistics_of, sums_of, together

WEIGHTS = np.random.default_rng(0).standard_normal((6, 70)) * 0.3  # more columns than sums side by side
WEIGHTS[2, 3:9] = 0.0
SLOTS = np.array([1, 0, -1, 1, 1, 0])
BITS = {
    "F16": WEIGHTS.astype(np.float16).view(np.uint16),
    "BF16": to_bf16(WEIGHTS),
    "F32": WEIGHTS.astype(np.float32).view(np.uint32),
    "F64": WEIGHTS.view(np.uint64),
}


def floats(dtype):
    bits = BITS[dtype]
    return from_bf16(bits).astype(np.float64) if dtype == "BF16" else bits.view(f"f{bits.itemsize}").astype(np.float64)


@pytest.mark.parametrize("dtype", BITS)
def test_rows_are_counted_for_their_matrix(dtype):
    counted = count_rows(BITS[dtype], dtype, SLOTS, 2)
    for slot, counts in enumerate(counted):
        expected = floats(dtype)[slot == SLOTS]
        assert counts.weights == counts.counts.sum() == expected.size
        assert counts.finite
        found = statistics_of(counts)
        for name, value in statistics(expected).items():
            rel = 1e-12 if dtype in ("F16", "BF16") or name in ("norm", "mean", "kurtosis", "hoyer") else 3 * ACCURACY
            assert getattr(found, name) == pytest.approx(value, rel=rel, abs=1e-4 if rel > 1e-9 else 1e-15), name
    assert magnitudes(dtype)[0] == 0
    first, second = (sums_of(counts) for counts in counted)
    both = sums_of(counted[0] + counted[1])
    assert both.shape == (ROW_SUMS,)
    np.testing.assert_allclose(both[[0, 5, 6]], (first + second)[[0, 5, 6]], rtol=1e-14)
    with pytest.raises(ValueError, match="do not add"):
        (
            counted[0]
            + count_rows(BITS["F64" if dtype != "F64" else "F32"], "F64" if dtype != "F64" else "F32", SLOTS, 2)[0]
        )


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_norms_are_rounded_once(dtype):
    """The nearest to those of fractions, of one matrix and of several types together, unless one is F64."""
    slots = np.zeros(6, np.int64)
    (counts,) = count_rows(BITS[dtype], dtype, slots, 1)
    (narrow,) = count_rows(BITS["F16"], "F16", slots, 1)
    (wide,) = count_rows(BITS["F64"], "F64", slots, 1)
    both = together([narrow, counts])
    for some, values in ((counts, floats(dtype)), (both, np.concatenate([floats(dtype), floats("F16")]))):
        exact, found = [Fraction(value) for value in values.ravel().tolist()], statistics_of(some)
        mean = sum(exact) / len(exact)
        square, variance = sum(w**2 for w in exact), sum((w - mean) ** 2 for w in exact) / len(exact)
        assert found.mean == float(mean)
        for number, squared in ((found.norm, square), (found.rms, square / len(exact)), (found.std, variance)):
            low, high = ((Fraction(math.nextafter(number, side)) + Fraction(number)) / 2 for side in (0, math.inf))
            assert low**2 <= squared <= high**2
    whole = together([counts, wide, narrow])
    assert whole.exact_sums is None
    values = np.concatenate([floats(dtype), floats("F64"), floats("F16")])
    assert statistics_of(whole).norm == pytest.approx(np.linalg.norm(values), rel=1e-14)


def test_rows_are_joined():
    """Moments about the mean of all, of rows with means of their own."""
    rows = [np.random.default_rng(n).gamma(2.0, 1.0, 5 + n) + n for n in range(4)]

    def moments(values):
        powers = [((values - values.mean()) ** power).sum() for power in (2, 3, 4)]
        return [values.size, values.mean(), *powers, np.abs(values).sum(), 0]

    found = joined_sums(np.array([moments(row) for row in rows]))
    np.testing.assert_allclose(found, moments(np.concatenate(rows)), rtol=1e-12)


def test_rows_are_compared():
    now, before = WEIGHTS, np.roll(WEIGHTS, 1, axis=0)
    sums = np.zeros((6, 6))
    _compare_rows(now, before, sums)
    expected = [(now - before) ** 2, now**2, before**2, now * before, now * before < 0, np.ones_like(now)]
    np.testing.assert_allclose(sums, np.stack([terms.sum(axis=1) for terms in expected], axis=1), rtol=1e-13)


@pytest.mark.parametrize("count", [12, 40])
def test_the_tail_that_fits_best(count):
    values = np.random.default_rng(1).pareto(2.0, count) + 0.1
    assert spectral_alpha(values) == pytest.approx(alpha(values), rel=1e-12)
