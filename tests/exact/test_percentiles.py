"""Percentiles of a layer's nodes are numpy's, to the bit."""

import numpy as np
import pytest

from ninscope.exact.layers import _PERCENTILES, _percentiles


@pytest.mark.parametrize("size", [1, 2, 3, 5, 20, 21, 40, 41, 101, 512, 1000])
def test_percentiles_are_those_of_numpy(rng, size):
    for values in (rng.normal(20, 7, size), rng.integers(0, 4, size) / 3, np.full(size, 0.1), np.full(size, np.nan)):
        expected = np.percentile(values, _PERCENTILES)
        assert np.array(_percentiles(values)).tobytes() == expected.tobytes()


def test_nothing_has_no_percentiles():
    assert np.isnan(_percentiles(np.zeros(0))).all()
