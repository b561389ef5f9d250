"""Box histograms and partition sums against loops, and the laws that let huge networks be summed in parts."""

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from modes import JIT

from ninscope.multifractal import boxes, partition
from ninscope.multifractal.boxes import box_histogram
from ninscope.multifractal.partition import partition_sums

Q = np.arange(-30, 31) / 10
RADII = 12

histograms = hnp.arrays(np.int32, st.tuples(st.integers(0, 7), st.just(RADII + 1)), elements=st.integers(0, 9))


def plain_sums(histogram, min_degree, q):
    """Z and M by definition, in extended precision, one node and one radius at a time."""
    z = np.zeros((histogram.shape[1], q.size), np.longdouble)
    m = np.zeros_like(z)
    for node in histogram:
        if node.sum() <= min_degree:
            continue
        total = np.longdouble(1 + node.sum())
        for r in range(histogram.shape[1]):
            log_p = np.log((1 + node[: r + 1].sum()) / total)
            for k, order in enumerate(q):
                z[r, k] += np.exp(order * log_p)
                m[r, k] += np.exp(order * log_p) * log_p
    return z, m


@given(st.lists(st.lists(st.integers(-1, RADII), max_size=20), max_size=6))
def test_histogram_counts_every_edge_of_every_row(rows):
    indptr = np.cumsum([0, *map(len, rows)])
    bins = np.array([edge for row in rows for edge in row], dtype=np.int16)
    found = box_histogram(indptr, bins, RADII)
    assert found.shape == (len(rows), RADII + 1)
    for row, counts in zip(rows, found, strict=True):
        assert counts.tolist() == [row.count(radius) for radius in range(RADII + 1)]


@given(histograms, st.integers(0, 12), st.sampled_from([Q, np.array([-3.0, -1.0, 0.5, 4.0]), np.array([0.0, 2.0])]))
def test_sums_equal_their_definition(histogram, min_degree, q):
    sums = partition_sums(histogram, min_degree, q)
    z, m = plain_sums(histogram, min_degree, q)
    counted = histogram[histogram.sum(axis=1) > min_degree]
    assert sums.nodes == len(counted)
    assert sums.edges == counted.sum()
    assert sums.seen.tolist() == [False, *(counted[:, 1:].sum(axis=0) > 0)]
    np.testing.assert_allclose(sums.z, z.astype(float), rtol=1e-12, atol=0)
    # M passes through 0 where p reaches 1; what enters the spectrum is M / Z.
    if sums.nodes:
        np.testing.assert_allclose(sums.m / sums.z, (m / z).astype(float), rtol=1e-12, atol=1e-12)


@given(histograms, histograms, st.integers(0, 12))
def test_sums_of_two_sets_of_nodes_add_up(first, second, min_degree):
    together = partition_sums(np.concatenate([first, second]), min_degree, Q)
    added = partition_sums(first, min_degree, Q) + partition_sums(second, min_degree, Q)
    assert (added.nodes, added.edges) == (together.nodes, together.edges)
    np.testing.assert_array_equal(added.seen, together.seen)
    np.testing.assert_allclose(added.z, together.z, rtol=1e-12)
    np.testing.assert_allclose(added.m, together.m, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reach", [0.01, 1.0, 10.0, 20.0])
def test_accurate_for_small_and_large_q(rng, reach):
    """Cells narrow as |q| grows; boxes of a thousand neurons at q = 20 span 60 orders of magnitude and still agree."""
    histogram = rng.integers(0, 60, (25, 40)).astype(np.int32)
    q = np.linspace(-reach, reach, 9)
    sums = partition_sums(histogram, 10, q)
    z, m = plain_sums(histogram, 10, q)
    # ln p itself is known to 1e-15 or so, which q multiplies.
    tolerance = 1e-14 * (10 + reach)
    np.testing.assert_allclose(sums.z, z.astype(float), rtol=tolerance)
    np.testing.assert_allclose(sums.m / sums.z, (m / z).astype(float), rtol=1e-12, atol=tolerance)


def test_zeroth_moment_is_the_node_count(rng):
    histogram = rng.integers(0, 5, (40, 31)).astype(np.int32)
    sums = partition_sums(histogram, 10, Q)
    np.testing.assert_allclose(sums.z[:, 30], sums.nodes, rtol=1e-14)
    np.testing.assert_allclose(sums.z[-1], sums.nodes, rtol=1e-14)  # p = 1 at the largest radius, whatever q


def test_no_nodes_give_empty_sums():
    sums = partition_sums(np.zeros((0, 5), np.int32), 10, Q)
    assert (sums.nodes, sums.edges, sums.seen.any()) == (0, 0, False)
    assert not sums.z.any()


@pytest.mark.skipif(not JIT, reason="nothing is compiled in this pass")
def test_kernels_compile_once(rng):
    """More signatures would mean seconds of compilation at each new dtype, unnoticed."""
    for dtype in (np.int32, np.int64):
        indptr = np.array([0, 30], dtype=dtype)
        histogram = box_histogram(indptr, rng.integers(0, 9, 30).astype(np.int16), 8)
        for q in (Q, np.array([0.0, 1.5])):
            partition_sums(histogram, 3, q)
    assert len(boxes._histogram.signatures) == 1
    assert len(partition._sum_moments.signatures) == 1


def test_sums_equal_the_naive_twin_on_distances(rng):
    rows = [1 / np.abs(rng.normal(0, 0.05, rng.integers(5, 60))) for _ in range(12)]
    counted = naive.counted_distances(rows)
    radii, z, m = naive.partition_function(counted, Q)
    bins = [np.array([round(d) for d in row], dtype=np.int16) for row in counted]
    histogram = box_histogram(np.cumsum([0, *(b.size for b in bins)]), np.concatenate(bins), 150)
    sums = partition_sums(histogram, 10, Q)
    assert np.flatnonzero(sums.seen).tolist() == [int(r) for r in radii]
    np.testing.assert_allclose(sums.z[sums.seen], z, rtol=1e-12)
    np.testing.assert_allclose(sums.m[sums.seen], m, rtol=1e-12, atol=1e-12)
