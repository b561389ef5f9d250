"""Means and deviations of node values, against numpy's own."""

import numpy as np
import pytest

from ninscope.exact.layers import _moments


@pytest.mark.parametrize("size", [1, 2, 7, 8, 128, 129, 1000, 4099])
def test_moments_are_those_of_numpy(rng, size):
    for scale in (1e-300, 1e-9, 1.0, 1e12):
        values = (rng.normal(size=size) + 50) * scale
        values[0] = 0.0  # else one value is alike all
        assert _moments(values) == (values.mean(), values.std())


def test_values_that_are_alike_have_no_deviation():
    assert _moments(np.full(7, 0.1)) == (0.1, 0.0)
    assert np.isnan(_moments(np.zeros(0))).all()
