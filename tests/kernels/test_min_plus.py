"""Min-plus products, their estimates and counts against loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from modes import JIT

from ninscope.networks import min_plus as kernels
from ninscope.networks.min_plus import count_distances, dense_block, min_plus, min_plus_estimate

SIZES = st.tuples(
    st.integers(1, 4), st.integers(0, 21), st.integers(1, 5)
)  # more passing nodes than are taken at a time


@st.composite
def factors(draw):
    """Two matrices of lengths, some of them infinite, a few of them equal."""
    rows, passing, columns = draw(SIZES)
    generator, absent = (
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        draw(st.sampled_from([0.0, 0.3, 0.8, 1.0])),
    )

    def lengths(*shape):
        drawn = np.where(generator.random(shape) < 0.2, 7.0, generator.uniform(0.01, 300.0, shape))
        return np.where(generator.random(shape) < absent, np.inf, drawn)

    return lengths(rows, passing), lengths(passing, columns)


def plain_product(first, second):
    found = np.full((first.shape[0], second.shape[1]), np.inf)
    for i in range(first.shape[0]):
        for j in range(second.shape[1]):
            for t in range(second.shape[0]):
                found[i, j] = min(found[i, j], first[i, t] + second[t, j])
    return found


@given(factors())
def test_the_product_is_its_definition(both):
    np.testing.assert_array_equal(min_plus(*both), plain_product(*both))


def test_the_product_of_more_targets_than_a_tile(rng):
    width = 1100 if JIT else 520
    first, second = rng.uniform(1, 50, (2, 19)), rng.uniform(1, 50, (19, width))
    second[:, 3] = np.inf
    np.testing.assert_array_equal(min_plus(first, second), (first[:, :, None] + second).min(axis=1))


@given(factors(), st.integers(1, 8), st.integers(0, 5))
def test_an_estimate_is_a_path_and_never_below_the_shortest(both, budget, seed):
    exact = plain_product(*both)
    found = min_plus_estimate(*both, budget, 600.0, 100.0, np.random.PCG64(seed))
    assert (found >= exact).all()
    for i, j in np.ndindex(found.shape):
        assert found[i, j] in {*(both[0][i] + both[1][:, j]), np.inf}
    again = min_plus_estimate(*both, budget, 600.0, 100.0, np.random.PCG64(seed))
    np.testing.assert_array_equal(found, again)


@given(factors(), st.integers(0, 3))
def test_a_full_budget_is_exact(both, more):
    found = min_plus_estimate(*both, max(both[1].shape[0], 1) + more, 600.0, 1.0, np.random.PCG64(0))
    np.testing.assert_array_equal(found, plain_product(*both))


def test_draws_are_uniform_and_as_many_as_the_search_has_checks():
    """One passing node of eight is short; of budget 2 in 3 checks it is missed with probability (6/8)^3."""
    first, second = np.full((1, 8), 10.0), np.full((8, 4000 if JIT else 800), 10.0)
    second[3] = 1.0
    found = min_plus_estimate(first, second, 2, 400.0, 50.0, np.random.PCG64(7))
    missed = (found == 20.0).mean()
    assert set(np.unique(found)) == {11.0, 20.0}
    expected = (6 / 8) ** 3
    assert missed == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / found.size))


def test_an_estimate_does_not_depend_on_how_many_are_drawn_at_once(monkeypatch, rng):
    first, second = rng.uniform(1, 50, (3, 9)), rng.uniform(1, 50, (9, 11))
    whole = min_plus_estimate(first, second, 2, 100.0, 10.0, np.random.PCG64(1))
    monkeypatch.setattr(kernels, "_DRAWN_AT_ONCE", 20)
    np.testing.assert_array_equal(min_plus_estimate(first, second, 2, 100.0, 10.0, np.random.PCG64(1)), whole)


def test_a_block_holds_the_shortest_of_parallel_edges():
    found = dense_block(np.array([0, 3, 3, 4]), np.array([1, 1, 0, 2]), np.array([5.0, 4.0, np.inf, 2.0]), 3)
    np.testing.assert_array_equal(found, [[np.inf, 4, np.inf], [np.inf] * 3, [np.inf, np.inf, 2]])


@given(hnp.arrays(np.float64, (2, 6), elements=st.one_of(st.integers(0, 40).map(lambda n: n / 4), st.just(np.inf))))
def test_distances_are_counted_where_they_round_to(distances):
    counts = np.ones((2, 8), np.int32)
    count_distances(distances, 0.5, counts)
    for row, counted in zip(distances.tolist(), counts.tolist(), strict=True):
        bins = [min(round(distance / 0.5), 7) for distance in row if distance < math.inf]
        assert counted == [1 + bins.count(radius) for radius in range(8)]


@pytest.mark.parametrize(
    "call",
    [
        lambda: min_plus(np.ones((2, 3)), np.ones((2, 3))),
        lambda: min_plus_estimate(np.ones((2, 3)), np.ones((2, 3)), 1, 9.0, 1.0, np.random.PCG64(0)),
        lambda: dense_block(np.array([0, 1]), np.array([3]), np.array([1.0]), 3),
        lambda: dense_block(np.array([0, 1]), np.array([-1]), np.array([1.0]), 3),
        lambda: dense_block(np.array([0, 2]), np.array([1]), np.array([1.0]), 3),
        lambda: count_distances(np.ones((2, 3)), 1.0, np.zeros((3, 4), np.int32)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match="compiled code would leave"):
        call()
