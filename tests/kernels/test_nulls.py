"""Null models: counts drawn directly are distributed as those of a matrix that was shuffled, or drawn, weight by weight."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from modes import JIT
from scipy import stats
from scipy.special import ndtri

from ninscope.multifractal import nulls
from ninscope.multifractal.boxes import column_histogram
from ninscope.multifractal.nulls import (
    bin_probabilities,
    expected_sums,
    gaussian_counts,
    generator_of,
    seen_radii,
    shuffled_counts,
)
from ninscope.multifractal.partition import partition_sums
from ninscope.networks.bin_table import bin_table
from ninscope.networks.radii import IntegerRadii, LogRadii
from ninscope.networks.transfer import TRANSFERS

pytestmark = pytest.mark.filterwarnings("error")

DRAWS = 20_000 if JIT else 3000
UNLIKELY = 1e-7  # two-sided beyond 5 sigma
Q = np.arange(-30, 31) / 10
SEEDS = st.integers(0, 2**32 - 1)
BOUNDS = (150.0, 20.4, 20.6, 2.0)
GRIDS = [LogRadii(20, 1e-3, 0.7), LogRadii(2, 0.05, 0.06), LogRadii(300, 1e-6, 40.0), LogRadii(9, 0.1, 0.1)]
ALL_RADII = [*(IntegerRadii(transfer, bound) for transfer in TRANSFERS for bound in BOUNDS), *GRIDS]


def with_uncounted(counts, rows):
    """Every weight of every column: the counts, and what is left of its rows."""
    rest = rows - counts.sum(axis=1, dtype=np.int64)
    assert (rest >= 0).all()
    return np.concatenate([counts, rest[:, None]], axis=1)


def assert_means(found, expected):
    """The mean of each entry of found [draws, ...] is the expected one, within 5 of its own standard errors."""
    mean, error = found.mean(axis=0), found.std(axis=0, ddof=1) / math.sqrt(len(found))
    np.testing.assert_array_less(np.abs(mean - expected), 5 * error + 1e-12)


def products(drawn, mean):
    """Of each draw [draws, n], the products of all pairs of deviations [draws, n, n]: their mean is the covariance."""
    deviations = drawn - mean
    return deviations[:, :, None] * deviations[:, None, :]


def intervals(radii):
    """[low, high) of |w| of bins 0..K by the definition of the distances, solved for the weight."""
    count = radii.count
    if isinstance(radii, LogRadii):
        if radii.smallest_weight == radii.largest_weight:
            return [(0.0, 0.0), (0.0, math.inf)] + [(0.0, 0.0)] * (count - 1)
        step = math.log(radii.largest_weight / radii.smallest_weight) / (count - 1)
        edges = [math.inf, *(radii.largest_weight * math.exp(-(k - 0.5) * step) for k in range(1, count)), 0.0]
        return [(0.0, 0.0), *((low, high) for high, low in itertools.pairwise(edges))]
    inverse = {
        "reciprocal": lambda d: 1 / d,
        "coth": lambda d: math.atanh(1 / d) if d > 1 else math.inf,
        "neg_log": lambda d: math.exp(-d * math.log(radii.max_distance) / count),
    }[radii.transfer]
    least = 1 / radii.max_distance
    found = []
    for k in range(count + 1):
        high = inverse(k - 0.5) if k else 1.0
        low = inverse(k + 0.5) if k or radii.transfer == "neg_log" else 1.0
        low = least if k == count else low
        found.append((min(max(low, least), 1.0), min(max(high, least), 1.0)))
    return found


def bins_of(weights, radii):
    """The bin of each float64 weight, K + 1 where it is no edge, from the distances themselves."""
    size = np.abs(weights)
    if isinstance(radii, LogRadii):
        if radii.smallest_weight == radii.largest_weight:
            return np.where(size > 0, 1, radii.count + 1)
        step = math.log(radii.largest_weight / radii.smallest_weight) / (radii.count - 1)
        return 1 + np.clip(np.rint(np.log(radii.largest_weight / size) / step), 0, radii.count - 1).astype(int)
    distance = {
        "reciprocal": lambda: 1 / size,
        "coth": lambda: np.cosh(size) / np.sinh(size),
        "neg_log": lambda: -np.log(size) / (math.log(radii.max_distance) / radii.count),
    }
    counted = (1 / size > 1) & (1 / size <= radii.max_distance)
    size = np.where(counted, size, 0.5)
    return np.where(counted, np.minimum(np.rint(distance[radii.transfer]()), radii.count), radii.count + 1).astype(int)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=12), st.integers(1, 9), SEEDS)
def test_shuffling_loses_no_weight(totals, columns, seed):
    totals = np.array(totals)
    totals[-1] += -totals.sum() % columns
    rows = totals.sum() // columns
    counts = shuffled_counts(totals, columns, np.random.PCG64(seed))
    assert (counts.shape, counts.dtype) == ((columns, totals.size - 1), np.int32)
    assert counts.flags.c_contiguous
    assert (counts >= 0).all()
    assert with_uncounted(counts, rows).sum(axis=0).tolist() == totals.tolist()


@pytest.mark.parametrize("bins", [2, 255, 256, 257, 258, 600])
def test_the_last_bins_of_any_number_are_told_apart(bins):
    totals = np.arange(bins) % 3 + 1
    totals[-1] += -totals.sum() % 7
    counts = shuffled_counts(totals, 7, np.random.PCG64(1))
    assert with_uncounted(counts, totals.sum() // 7).sum(axis=0).tolist() == totals.tolist()
    counts = gaussian_counts(np.eye(bins)[bins - 2], 5, 3, np.random.PCG64(1))
    assert counts[:, -1].tolist() == [5, 5, 5]


def test_what_leaves_nothing_to_chance():
    for totals, columns, expected in (
        ([3, 0, 2, 1], 1, [[3, 0, 2]]),
        ([0, 8, 0], 4, [[0, 2]] * 4),
        ([0, 0, 6], 3, [[0, 0]] * 3),
        ([0, 0, 0], 5, [[0, 0]] * 5),
        ([0, 1, 0], 1, [[0, 1]]),
    ):
        assert shuffled_counts(np.array(totals), columns, np.random.PCG64(3)).tolist() == expected
    assert gaussian_counts(np.array([0.0, 1.0, 0.0]), 4, 2, np.random.PCG64(3)).tolist() == [[0, 4]] * 2
    assert gaussian_counts(np.array([0.0, 0.0, 1.0]), 4, 2, np.random.PCG64(3)).tolist() == [[0, 0]] * 2
    assert gaussian_counts(np.array([0.5, 0.5, 0.0]), 0, 2, np.random.PCG64(3)).tolist() == [[0, 0]] * 2


@pytest.mark.parametrize(("totals", "columns"), [((2, 1, 1), 2), ((1, 1, 1, 1), 4), ((1, 3, 0, 2), 3), ((3, 2, 1), 2)])
def test_every_permutation_alike(rng, totals, columns):
    """All tables that shuffling can give, each as often as permutations lead to it."""
    weights = np.repeat(np.arange(len(totals)), totals)
    ways = Counter()
    for order in itertools.permutations(weights.tolist()):
        dealt = np.reshape(order, (columns, -1))
        ways[tuple((row == b).sum() for row in dealt for b in range(len(totals) - 1))] += 1
    generator = np.random.PCG64(rng.integers(2**32))
    found = Counter(
        tuple(shuffled_counts(np.array(totals), columns, generator).ravel().tolist()) for _ in range(DRAWS // 4)
    )
    assert set(found) <= set(ways)
    expected = np.array(list(ways.values())) * (found.total() / sum(ways.values()))
    assert stats.chisquare([found[table] for table in ways], expected).pvalue > UNLIKELY


@pytest.mark.parametrize(("totals", "columns"), [((3, 1, 5, 0, 7), 4), ((0, 2, 9, 1), 3)])
def test_shuffling_is_multivariate_hypergeometric(rng, totals, columns):
    """Means, variances and covariances of all bins of all columns, the uncounted ones too."""
    totals, entries = np.array(totals), sum(totals)
    rows = entries // columns
    generator = np.random.PCG64(rng.integers(2**32))
    drawn = np.array(
        [with_uncounted(shuffled_counts(totals, columns, generator), rows) for _ in range(DRAWS)], np.float64
    )
    share = totals / entries
    assert_means(drawn, np.tile(rows * share, (columns, 1)))
    # Two different weights are in bins b and b' with probability (t_b t_b' - [b = b'] t_b) / (N (N - 1)).
    of_pair = (np.outer(totals, totals) - np.diag(totals)) / (entries * (entries - 1)) - np.outer(share, share)
    within = rows * (np.diag(share) - np.outer(share, share)) + rows * (rows - 1) * of_pair
    known = within.diagonal() - rows * share * (1 - share) * (entries - rows) / (entries - 1)
    np.testing.assert_allclose(known, 0, atol=1e-12)  # the textbook's variance
    expected = np.kron(np.eye(columns), within - rows**2 * of_pair) + np.tile(rows**2 * of_pair, (columns, columns))
    flat = drawn.reshape(DRAWS, -1)
    assert_means(products(flat, np.tile(rows * share, columns)), expected)


def two_samples(first, second):
    """Means of both [draws, n] and of all their products agree within 5 standard errors of the difference."""
    centre = second.mean(axis=0)
    for one, other in ((first, second), (products(first, centre), products(second, centre))):
        error = np.sqrt(one.var(axis=0) / len(one) + other.var(axis=0) / len(other))
        np.testing.assert_array_less(np.abs(one.mean(axis=0) - other.mean(axis=0)), 5 * error + 1e-12)


def counted(bins, columns, radii):
    """Counts of a matrix of bins [rows, columns], without the uncounted, flat."""
    return np.stack([np.bincount(bins[:, c], minlength=radii.count + 2)[:-1] for c in range(columns)]).ravel()


def test_shuffling_is_that_of_a_matrix(rng):
    radii, rows, columns = IntegerRadii("reciprocal", 5.0), 6, 3
    bins = bins_of(rng.normal(0, 0.3, (rows, columns)), radii)
    totals = np.bincount(bins.ravel(), minlength=radii.count + 2)
    assert (totals > 0).sum() >= 4
    really = np.array(
        [counted(rng.permutation(bins.ravel()).reshape(rows, columns), columns, radii) for _ in range(3000)]
    )
    found = [
        shuffled_counts(totals, columns, generator_of(seed, 0, "shuffled", "a -> b")).ravel() for seed in range(3000)
    ]
    two_samples(np.array(found), really)


@pytest.mark.parametrize("p", [(0.1, 0.2, 0.0, 0.3, 0.4), (0.5, 0.25, 0.25), (0.05, 0.88, 0.07), (0.95, 0.05)])
def test_gaussian_counts_are_multinomial(rng, p):
    p, rows, columns = np.array(p), 7, 3
    generator = np.random.PCG64(rng.integers(2**32))
    # Columns are independent of each other, so that those of all draws can be drawn at once.
    together = with_uncounted(gaussian_counts(p, rows, DRAWS * columns, generator), rows)
    drawn = together.reshape(DRAWS, columns, p.size).astype(np.float64)
    assert (drawn[:, :, p == 0] == 0).all()
    assert_means(drawn, np.tile(rows * p, (columns, 1)))
    within = rows * (np.diag(p) - np.outer(p, p))
    assert_means(products(drawn.reshape(DRAWS, -1), np.tile(rows * p, columns)), np.kron(np.eye(columns), within))
    of_bins = drawn.sum(axis=(0, 1))[p > 0]
    assert stats.chisquare(of_bins, p[p > 0] * of_bins.sum()).pvalue > UNLIKELY


def test_gaussian_counts_are_those_of_drawn_matrices(rng):
    radii, rows, columns, std = IntegerRadii("reciprocal", 5.0), 6, 2, 0.3
    really = [counted(bins_of(rng.normal(0, std, (rows, columns)), radii), columns, radii) for _ in range(3000)]
    p = bin_probabilities(std, radii)
    found = [
        gaussian_counts(p, rows, columns, generator_of(seed, 0, "gaussian", "a -> b")).ravel() for seed in range(3000)
    ]
    two_samples(np.array(found), np.array(really))


weighted = st.one_of(st.floats(1e-300, 1.0), st.just(0.0), st.sampled_from([1e-18, 0.25, 1.0]))


@given(st.lists(weighted, min_size=1, max_size=40).filter(any))
def test_alias_table_holds_the_probabilities(given_weights):
    """Cell i is drawn with (threshold_i + what others hand to it) / n, which is p_i; impossible bins are impossible."""
    p = np.array(given_weights) / math.fsum(given_weights)
    threshold, alias = nulls._alias_table(p)
    drawn = threshold.copy()
    for cell, other in enumerate(alias.tolist()):
        drawn[other] += 1 - threshold[cell]
    np.testing.assert_allclose(drawn / p.size, p, rtol=0, atol=1e-15)
    assert (drawn[p == 0] == 0).all()


@pytest.mark.parametrize("at_once", [1, 7, 50, 10**6])
def test_how_many_are_drawn_at_once_changes_nothing(monkeypatch, at_once):
    totals, p = np.array([5, 9, 0, 13, 3]), np.array([0.2, 0.3, 0.1, 0.4])
    expected = (
        shuffled_counts(totals, 6, np.random.PCG64(8)).tolist(),
        gaussian_counts(p, 11, 6, np.random.PCG64(8)).tolist(),
    )
    monkeypatch.setattr(nulls, "_DRAWN_AT_ONCE", at_once)
    assert shuffled_counts(totals, 6, np.random.PCG64(8)).tolist() == expected[0]
    assert gaussian_counts(p, 11, 6, np.random.PCG64(8)).tolist() == expected[1]


def test_drawn_counts_stay_what_they_were():
    """Of version 0.1.0: stored results name their seed."""
    shuffled = shuffled_counts(np.array([5, 9, 0, 13, 3]), 3, generator_of(0, 0, "shuffled", "block0.x -> block0.q"))
    drawn = gaussian_counts(
        np.array([0.2, 0.3, 0.1, 0.4]), 10, 3, generator_of(0, 0, "gaussian", "block0.m -> output.x")
    )
    assert shuffled.tolist() == [[2, 4, 0, 3], [1, 3, 0, 6], [2, 2, 0, 4]]
    assert drawn.tolist() == [[0, 7, 0], [4, 3, 1], [4, 2, 1]]


@pytest.mark.parametrize(("totals", "columns"), [((3, 4), 2), ((1, 0, 0), 2), ((2, 2), 0), ((2, 2), -1), ((0, 0), 0)])
def test_weights_that_do_not_fill_columns_are_refused(totals, columns):
    with pytest.raises(ValueError, match=f"^{sum(totals)} weights do not fill {columns} columns$"):
        shuffled_counts(np.array(totals), columns, np.random.PCG64(0))


@pytest.mark.parametrize("radii", ALL_RADII, ids=str)
@pytest.mark.parametrize("std", [0.002, 0.05, 0.3, 2.0, 1e3])
def test_probabilities_are_the_areas_under_the_bell(radii, std):
    """By math.erf between the weights that bound each bin; and as the shares of 50,000 evenly spaced quantiles."""
    found = bin_probabilities(std, radii)
    scale = std * math.sqrt(2)
    expected = [math.erf(high / scale) - math.erf(low / scale) for low, high in intervals(radii)]
    assert found.shape == (radii.count + 2,)
    np.testing.assert_allclose(found, [*expected, 1 - math.fsum(expected)], rtol=1e-9, atol=1e-14)
    number = 50_000
    bins = bins_of(std * ndtri(0.5 + (np.arange(number) + 0.5) / (2 * number)), radii)
    np.testing.assert_allclose(np.bincount(bins, minlength=radii.count + 2) / number, found, rtol=0, atol=2.1 / number)


@given(st.sampled_from(ALL_RADII), st.floats(-150, 150).map(lambda power: 10.0**power))
def test_probabilities_sum_to_one(radii, std):
    found = bin_probabilities(std, radii)
    assert (found >= 0).all()
    assert math.fsum(found) == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize("radii", ALL_RADII, ids=str)
def test_extreme_deviations(radii):
    """0: no edge at all; tiny: the last radius of a grid without bound, else no edge; huge: the first, else no edge."""
    uncounted = radii.count + 1
    bounded = isinstance(radii, IntegerRadii)
    last = 1 if not bounded and radii.smallest_weight == radii.largest_weight else radii.count
    for std, expected in (
        (0.0, uncounted),
        (1e-160, uncounted if bounded else last),
        (1e150, uncounted if bounded else 1),
    ):
        found = bin_probabilities(std, radii)
        assert found[expected] == pytest.approx(1, rel=1e-15)
        assert math.fsum(found) == pytest.approx(1, rel=1e-15)


@pytest.mark.parametrize("radii", [IntegerRadii(transfer) for transfer in TRANSFERS] + GRIDS[:1], ids=str)
def test_drawn_weights_fall_into_the_bins_as_expected(rng, radii):
    """Every bin of a large F32 matrix is binomial by the areas under the bell, and its columns spread as multinomial ones."""
    rows, columns = 2000, 500 if JIT else 40
    table = bin_table("F32", radii)
    for std in (0.02, 0.15):
        weights = rng.normal(0, std, (rows, columns)).astype(np.float32)
        counts, distances = np.zeros((columns, table.width), np.int32), np.zeros(columns, np.int64)
        column_histogram(weights.view(np.uint32), table, counts, distances)
        p = bin_probabilities(std, radii)
        of_bins = counts[:, :-1].sum(axis=0)
        distribution = stats.binom(rows * columns, np.clip(p, 0, 1))
        assert (np.minimum(distribution.cdf(of_bins), distribution.sf(of_bins - 1)) > UNLIKELY / 2).all()
        often = np.flatnonzero(rows * p > 5)[:-1]
        found = np.column_stack([counts[:, often], rows - counts[:, often].sum(axis=1)])
        expected = rows * np.append(p[often], 1 - p[often].sum())
        spread = stats.chi2(columns * often.size).cdf(((found - expected) ** 2 / expected).sum())
        assert UNLIKELY / 2 < spread < 1 - UNLIKELY / 2


@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=20),
    st.integers(1, 5),
    st.integers(0, 40),
    st.sampled_from([Q, Q[::20]]),
)
def test_expected_sums_are_those_of_nodes_that_are_alike(counts, nodes, min_degree, q):
    counts = np.array(counts)
    found = expected_sums(counts.astype(np.float64), nodes, min_degree, q)
    expected = partition_sums(np.tile(counts, (nodes, 1)).astype(np.int32), min_degree, q)
    assert (found.nodes, found.edges) == (expected.nodes, expected.edges)
    assert not found.seen.any()
    counted = nodes * counts.astype(np.float64) * (found.nodes > 0)
    assert seen_radii(counted).tolist() == expected.seen.tolist()
    assert (found.z.shape, found.m.shape) == (expected.z.shape, expected.m.shape)
    np.testing.assert_allclose(found.z, expected.z, rtol=1e-12)
    # M is 0 where p reaches 1; what enters the spectrum is M / Z.
    np.testing.assert_allclose(found.m, expected.m, rtol=1e-12, atol=1e-12 * nodes)


def test_expected_sums_of_fractions():
    """By definition, from counts that no node can have; a radius is seen where an edge is more likely than none: ln 2 of them."""
    expected = np.array([0.3, 0.0694, 4.7, 0.0693, 8.2, 0.0])
    found = expected_sums(expected, 10, 12, Q)
    assert (found.nodes, found.edges) == (10, 133)
    assert seen_radii(10 * expected).tolist() == [False, True, True, False, True, False]
    for r in range(expected.size):
        p = (1 + math.fsum(expected[: r + 1])) / (1 + math.fsum(expected))
        for k, order in enumerate(Q):
            assert found.z[r, k] == pytest.approx(10 * p**order, rel=1e-12)
            assert found.m[r, k] == pytest.approx(10 * p**order * math.log(p), rel=1e-12, abs=1e-14)
    nothing = expected_sums(expected, 10, 14, Q)
    assert (nothing.nodes, nothing.edges, nothing.seen.any(), nothing.z.any(), nothing.m.any()) == (0, 0, 0, 0, 0)


NAMES = [
    ("shuffled", "block0.x -> block0.q"),
    ("gaussian", "block0.x -> block0.q"),
    ("gaussian", "block0.x -> block0.k"),
]


def test_generators_are_told_apart_by_every_name():
    asked = list(itertools.product((0, 1, 2**40), (0, 1, 2), NAMES))
    first = {(seed, sample, name): generator_of(seed, sample, *name).random_raw() for seed, sample, name in asked}
    assert len(set(first.values())) == len(asked)
    for (seed, sample, name), value in first.items():
        assert generator_of(seed, sample, *name).random_raw() == value


@pytest.mark.parametrize(
    ("seed", "sample", "null", "matrix", "raw"),
    [
        (0, 0, "shuffled", "block0.x -> block0.q", (1830973227554049987, 7225600828634964883)),
        (0, 1, "gaussian", "block11.m -> output.x", (13931682020878868247, 1173016735506659167)),
        (2**63 - 1, 9, "gaussian", "block0.c -> block0.a", (4915908224506987402, 1071501683181314960)),
    ],
)
def test_generators_stay_what_they_were(seed, sample, null, matrix, raw):
    """Of version 0.1.0: another random number is another result for the same seed."""
    assert tuple(generator_of(seed, sample, null, matrix).random_raw(2).tolist()) == raw


@given(st.lists(st.integers(0, 40), min_size=2, max_size=9), st.integers(1, 9), SEEDS)
def test_cards_are_dealt_as_fisher_and_yates_say(totals, columns, seed):
    """One raw number a weight, its upper 53 bits: a plain loop over the same numbers deals the same cards."""
    totals = np.array(totals)
    totals[-1] += -totals.sum() % columns
    cards = [card for card, total in enumerate(totals.tolist()) for _ in range(total)]
    rows = len(cards) // columns
    expected = np.zeros((columns, totals.size), int)
    for here, raw in enumerate(np.random.PCG64(seed).random_raw(len(cards)).tolist()):
        there = here + int((raw >> 11) * 2.0**-53 * (len(cards) - here))
        cards[here], cards[there] = cards[there], cards[here]
        expected[here // rows, cards[here]] += 1
    assert shuffled_counts(totals, columns, np.random.PCG64(seed)).tolist() == expected[:, :-1].tolist()


@given(st.lists(weighted, min_size=2, max_size=20).filter(any), SEEDS)
def test_weights_are_drawn_as_walker_says(given_weights, seed):
    p = np.array(given_weights) / math.fsum(given_weights)
    threshold, alias = nulls._alias_table(p)
    expected = np.zeros((3, p.size), int)
    for number, raw in enumerate(np.random.PCG64(seed).random_raw(3 * 7).tolist()):
        scaled = (raw >> 11) * 2.0**-53 * p.size
        cell = int(scaled)
        expected[number // 7, cell if scaled - cell < threshold[cell] else alias[cell]] += 1
    assert gaussian_counts(p, 7, 3, np.random.PCG64(seed)).tolist() == expected[:, :-1].tolist()
