"""Matrices that keep norms and are redrawn: Gaussian directions, as drawing and scaling them weight by weight gives."""

import math

import numpy as np
import pytest
from modes import JIT
from scipy import stats

from ninscope.multifractal import redrawn as kernels
from ninscope.multifractal.nulls import bin_probabilities
from ninscope.multifractal.redrawn import _EDGES, _ziggurat, norm_counts, redrawn
from ninscope.networks.radii import IntegerRadii, LogRadii

pytestmark = pytest.mark.filterwarnings("error")

RADII = IntegerRadii("reciprocal", 8.0)
DRAWS = 3000 if JIT else 600
MANY = 400_000 if JIT else 20_000
UNLIKELY = 1e-7


def plain_xoshiro(state, count):
    """Blackman and Vigna's C, of Python's integers."""
    s, mask = [int(word) for word in state], (1 << 64) - 1
    found = []
    for _ in range(count):
        total = (s[0] + s[3]) & mask
        found.append((((total << 23) | (total >> 41)) + s[0]) & mask)
        t = (s[1] << 17) & mask
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = ((s[3] << 45) | (s[3] >> 19)) & mask
    return found


def test_random_numbers_are_those_of_xoshiro():
    state = np.random.PCG64(3).random_raw(4)
    raw = np.empty(50, np.uint64)
    expected = plain_xoshiro(state, 60)
    with np.errstate(over="ignore"):
        kernels._fill(state, raw)
        kernels._fill(state, raw[:10])
    assert [*raw[10:].tolist(), *raw[:10].tolist()] == [*expected[10:50], *expected[50:]]
    assert [kernels._uniform(np.uint64(x)) for x in (0, 2**64 - 1)] == [2.0**-54, 1 - 2.0**-54]


def test_layers_of_the_ziggurat_have_one_area():
    np.testing.assert_array_equal(_ziggurat(), _EDGES)
    heights = [math.exp(-edge * edge / 2) for edge in _EDGES.tolist()]
    tail = math.sqrt(math.pi / 2) * math.erfc(_EDGES[1] / math.sqrt(2))
    areas = [_EDGES[1] * heights[1] + tail, *(_EDGES[i] * (heights[i + 1] - heights[i]) for i in range(1, 128))]
    np.testing.assert_allclose(areas, areas[1], rtol=1e-8)
    assert (_EDGES[-1], heights[-1]) == (0, 1)


def test_parts_are_gaussian():
    (found,) = redrawn(np.ones(1), MANY, np.random.PCG64(5), keep_norms=False)
    assert stats.kstest(found, stats.halfnorm.cdf).pvalue > 1e-4
    for bound in (1.0, 3.0, 3.442619855899, 4.0):
        beyond = stats.binom(MANY, 2 * stats.norm.sf(bound))
        assert UNLIKELY < beyond.cdf((found > bound).sum()) < 1 - UNLIKELY
    for order, mean in ((2, 1.0), (4, 3.0), (6, 15.0)):
        powers = found**order
        assert abs(powers.mean() - mean) < 5 * powers.std() / math.sqrt(MANY)
    pairs = np.corrcoef(found[:-1] ** 2, found[1:] ** 2)[0, 1]
    assert abs(pairs) < 5 / math.sqrt(MANY)


@pytest.mark.parametrize("taps", [1, 3])
def test_norms_are_kept_and_directions_are_not(taps):
    norms = np.array([0.0, 1e-3, 1.0, 7.5])
    first, second = (redrawn(norms, 40, np.random.PCG64(seed), taps) for seed in (1, 2))
    for found in (first, second):
        assert (found >= 0).all()
        np.testing.assert_allclose(np.sqrt((found**2).sum(axis=1)), norms, rtol=1e-14)
    assert (first[1:] != second[1:]).all()
    assert redrawn(norms, 40, np.random.PCG64(1), taps).tobytes() == first.tobytes()
    assert redrawn(norms, 0, np.random.PCG64(1)).shape == (4, 0)
    assert not np.any(first[0])


def test_without_norms_a_line_has_its_deviation():
    taps, size = 4, MANY // 8
    lines = redrawn(np.array([0.5, 2.0]), size, np.random.PCG64(1), taps, keep_norms=False)
    for deviation, line in zip((0.5, 2.0), lines, strict=True):
        assert stats.kstest(line / deviation, stats.chi(taps).cdf).pvalue > 1e-4


def plain_counts(weights, radii):
    """[columns, K + 1] of a matrix [rows, columns], one weight at a time."""
    found = np.zeros((weights.shape[1], radii.count + 1), int)
    for _, column in np.ndindex(weights.shape):
        size = abs(weights[_, column])
        if size and 1 < 1 / size <= radii.max_distance:
            found[column, round(1 / size)] += 1
    return found


@pytest.mark.parametrize("of_columns", [True, False])
@pytest.mark.parametrize("taps", [1, 2])
def test_counts_are_those_of_drawn_matrices(rng, of_columns, taps):
    """Means of all counts, and of all their products, within 5 standard errors of 3,000 matrices that numpy draws."""
    norms = np.array([0.4, 0.9]) if of_columns else np.array([0.3, 0.7, 1.2])
    length = 3 if of_columns else 2
    found, really = [], []
    for seed in range(DRAWS):
        found.append(norm_counts(norms, length, RADII, np.random.PCG64(seed), taps, of_columns).ravel())
        drawn = rng.normal(size=(norms.size, length, taps))
        sizes = np.sqrt((drawn**2).sum(axis=2))
        sizes *= (norms / np.sqrt((sizes**2).sum(axis=1)))[:, None]
        really.append(plain_counts(sizes.T if of_columns else sizes, RADII).ravel())
    found, really = np.array(found, float), np.array(really, float)
    centre = really.mean(axis=0)
    for one, other in (
        (found, really),
        *(
            (x[0][:, :, None] * x[0][:, None], x[1][:, :, None] * x[1][:, None])
            for x in [(found - centre, really - centre)]
        ),
    ):
        error = np.sqrt(one.var(axis=0) / len(one) + other.var(axis=0) / len(other))
        np.testing.assert_array_less(np.abs(one.mean(axis=0) - other.mean(axis=0)), 5 * error + 1e-12)


@pytest.mark.parametrize("radii", [IntegerRadii(), IntegerRadii("neg_log"), LogRadii(30, 1e-4, 1.0)], ids=str)
@pytest.mark.parametrize("of_columns", [True, False])
def test_equal_norms_are_a_gaussian_matrix(radii, of_columns):
    """Of long lines: bins are filled as those of a Gaussian of deviation norm / sqrt(length)."""
    lines, length = (60, 2000) if JIT else (8, 500)
    counts = norm_counts(np.full(lines, 0.1 * math.sqrt(length)), length, radii, np.random.PCG64(2), 1, of_columns)
    expected = lines * length * bin_probabilities(0.1, radii)
    of_bins = np.append(counts.sum(axis=0), lines * length - counts.sum())
    often = expected > 10
    assert (
        stats.chisquare(
            np.append(of_bins[often], of_bins[~often].sum()),
            np.append(expected[often], expected[~often].sum() + 1e-9) * of_bins.sum() / (expected.sum() + 1e-9),
        ).pvalue
        > 1e-6
    )


def test_weights_that_are_too_large_or_zero_are_no_edges():
    counts = norm_counts(np.array([0.0, 1e200, 1.0]), 30, IntegerRadii(), np.random.PCG64(0))
    assert counts.shape == (3, 151)
    assert counts.sum(axis=1)[:2].tolist() == [0, 0]
    assert counts[2].sum() > 20
