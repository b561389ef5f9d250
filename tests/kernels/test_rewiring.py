"""Rewiring: what every trade keeps, and that in the end every matrix that keeps it is as likely as any other."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modes import JIT
from scipy import stats

from ninscope.networks.rewiring import MAX_CLASSES, MAX_SWEEPS, rewire, sweeps_for

pytestmark = pytest.mark.filterwarnings("error")


def counted(classes):
    return [Counter(row) for row in classes.tolist()]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 12), st.integers(1, 5), st.integers(0, 6))
def test_targets_keep_their_weights_and_nodes_how_many_of_each_class(seed, nodes, targets, kinds, sweeps):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, kinds, (nodes, targets)).astype(np.int32)
    values = classes + rng.random((nodes, targets))  # so that a value tells its class
    before, kept = values.copy(), classes.copy()
    rewire(values, classes, np.random.PCG64(seed), sweeps)
    assert (classes == kept).all()  # which are the caller's
    assert np.sort(values, axis=0).tolist() == np.sort(before, axis=0).tolist()
    assert counted(values.astype(int)) == counted(classes)


def trades(matrix):
    """All matrices that one trade of two nodes leads to: at two targets where they have the same two classes the other way round,
    both exchange what they have. matrix: tuple of rows of weights, whose whole part is their class.
    """
    for one, other in itertools.combinations(range(len(matrix)), 2):
        for first, second in itertools.combinations(range(len(matrix[0])), 2):
            pairs = [(int(matrix[one][t]), int(matrix[other][t])) for t in (first, second)]
            if pairs[0] == pairs[1][::-1] and pairs[0][0] != pairs[0][1]:
                rows = [list(row) for row in matrix]
                for t in (first, second):
                    rows[one][t], rows[other][t] = rows[other][t], rows[one][t]
                yield tuple(map(tuple, rows))


def test_every_matrix_alike():
    """All matrices that trades lead to, each as often as any other."""
    classes = np.array([[0, 1, 2, 0], [1, 0, 1, 2], [2, 2, 0, 1]], np.int32)
    values = classes + np.arange(12).reshape(3, 4) / 100
    start = tuple(map(tuple, values.tolist()))
    ways, waiting = {start}, [start]
    while waiting:
        for after in trades(waiting.pop()):
            if after not in ways:
                ways.add(after)
                waiting.append(after)
    generator, found = np.random.PCG64(7), Counter()
    for _ in range(100 * len(ways) if JIT else 10 * len(ways)):
        drawn = values.copy()
        rewire(drawn, classes, generator, 25)
        found[tuple(map(tuple, drawn.tolist()))] += 1
    assert len(ways) > 20
    assert set(found) <= ways
    assert stats.chisquare([found[way] for way in ways]).pvalue > 1e-6


def test_nothing_to_trade_stays():
    values = np.arange(6.0).reshape(2, 3)
    for classes in (np.zeros((2, 3), np.int32), np.array([[0, 0, 0], [1, 1, 1]], np.int32)):
        drawn = values.copy()
        rewire(drawn, classes, np.random.PCG64(1), 5)
        assert drawn.tolist() == values.tolist()
    alone = values[:1].copy()
    rewire(alone, np.zeros((1, 3), np.int32), np.random.PCG64(1))
    assert alone.tolist() == values[:1].tolist()


@pytest.mark.skipif(not JIT, reason="a large matrix")
def test_few_weights_stay_where_they_were(rng):
    """As many as `sweeps_for` says, and those that come back by chance: some 1 of as many as there are nodes."""
    for nodes, targets in ((300, 300), (200, 900)):
        classes = np.minimum(np.rint(1 / np.abs(rng.normal(0, 0.04, (nodes, targets)))), 151).astype(np.int32)
        values = np.arange(classes.size, dtype=float).reshape(classes.shape)
        before = values.copy()
        rewire(values, classes, np.random.PCG64(1))
        assert (values == before).mean() < 0.02 + 1 / nodes


def test_how_many_sweeps():
    """Two classes alike: a weight's mate has the other in half of the cases, and it then moves in half of these, nearly."""
    assert sweeps_for(np.array([5000, 5000]), 1000) == 8 * math.ceil(math.log(100) * 4 / 8)
    assert sweeps_for(np.array([10, 0]), 1000) == MAX_SWEEPS
    assert sweeps_for(np.array([0]), 0) == 8


@pytest.mark.parametrize(
    ("values", "classes", "match"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2), np.int32), r"values \(2, 3\) and classes \(3, 2\) are of two matrices"),
        (np.zeros((3, 2)).T, np.zeros((2, 3), np.int32), "are of two matrices"),
        (np.zeros(3), np.zeros(3, np.int32), r"values \(3,\) and classes \(3,\) are of two matrices"),
        (
            np.zeros((2, 2)),
            np.full((2, 2), MAX_CLASSES, np.int32),
            "classes go from 0 to 1024; there is room for 0 to 1023",
        ),
        (np.zeros((2, 2)), np.full((2, 2), -1, np.int32), "classes go from -1 to 0; there is room"),
    ],
)
def test_what_the_kernel_has_no_room_for_is_refused(values, classes, match):
    with pytest.raises(ValueError, match=match):
        rewire(values, classes, np.random.PCG64(0))
