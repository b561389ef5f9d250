"""Kernels that count what neurons do, beside loops over single activations; compiled, and as plain Python."""

import math

import numpy as np
import pytest

from ninscope.neurons.observatory.counting_kernels import (
    add_on,
    add_on_by_groups,
    add_on_by_position,
    add_powers,
    add_sizes,
)

VALUES = np.random.default_rng(0).normal(0.3, 1, (3, 13, 5)).astype(np.float32)  # 39 rows: two flushes, and a part
VALUES[..., 1] = np.maximum(VALUES[..., 1], 0)
VALUES[..., 2] += 50
ROWS = VALUES.reshape(-1, 5)
PARTS = ((0, 2), (2, 5))  # of the neurons, as threads have them
BOUNDS = {"no gate": (0.0, -math.inf), "gate": (0.4, -0.4), "rectified gate": (0.0, -0.0)}
bounds = pytest.mark.parametrize(("above", "below"), BOUNDS.values(), ids=BOUNDS)


def is_on(x, above, below):
    return int(x > np.float32(above) or x < np.float32(below))


@bounds
def test_how_often_a_neuron_is_on(above, below):
    expected = [1 + sum(is_on(x, above, below) for x in column) for column in ROWS.T]
    on = np.ones(5)
    for first, last in PARTS:
        add_on(ROWS, above, below, first, last, on)
    np.testing.assert_array_equal(on, expected)


@bounds
def test_how_often_it_is_on_at_a_position(above, below):
    on = np.ones((13, 5), np.float32)
    for first, last in PARTS:
        add_on_by_position(VALUES, above, below, first, last, on)
    for t in range(13):
        for i in range(5):
            assert on[t, i] == 1 + sum(is_on(VALUES[n, t, i], above, below) for n in range(3))


@bounds
def test_how_often_it_is_on_in_a_group(above, below):
    groups = np.random.default_rng(1).integers(-2, 4, (3, len(ROWS)))
    hits, on = [np.ones((4, 5), kind) for kind in (np.float32, np.float64, np.float32)], np.ones((3, 5))
    for first, last in PARTS:
        add_on_by_groups(ROWS, above, below, groups, first, last, *hits, on)
    for way, i in np.ndindex(3, 5):
        of_neuron = list(zip(ROWS[:, i], groups[way], strict=True))
        for group in range(4):
            rows = [x for x, own in of_neuron if own == group]
            assert hits[way][group, i] == 1 + sum(is_on(x, above, below) for x in rows)
        counting = [x for x, own in of_neuron if own != -2]
        assert on[way, i] == 1 + sum(is_on(x, above, below) for x in counting)


def test_sizes():
    sums = np.ones(5)
    for first, last in PARTS:
        add_sizes(ROWS, first, last, sums)
    expected = [1 + math.fsum(abs(float(x)) for x in column) for column in ROWS.T]
    np.testing.assert_allclose(sums, expected, rtol=3e-7)


@bounds
def test_powers(above, below):
    centre = np.array([0, 0.4, 50.3, -1, 2], np.float32)
    on, powers, largest = np.ones(5), np.ones((4, 5)), np.full(5, 2.5, np.float32)
    add_powers(ROWS, above, below, centre, on, powers, largest)
    for i, column in enumerate(ROWS.T):
        assert on[i] == 1 + sum(is_on(x, above, below) for x in column)
        assert largest[i] == max(np.float32(2.5), *(abs(x) for x in column))
        for power in range(1, 5):
            terms = [(float(x) - float(centre[i])) ** power for x in column]
            scale = 1 + math.fsum(abs(term) for term in terms)
            assert powers[power - 1, i] == pytest.approx(1 + math.fsum(terms), abs=1e-6 * scale)
