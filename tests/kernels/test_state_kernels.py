"""Moments, products and norms beside numpy in float64, compiled and as plain Python; parts, and a last part of a few rows."""

import numpy as np
import pytest

from ninscope.neurons.observatory.state_kernels import channel_moments, channel_products, head_norms, token_steps

PARTS = ((0, 2), (2, 6))  # of channels, as threads have them


def states(rng, rows):
    values = rng.normal(size=(rows, 6)).astype(np.float32)
    values[:, 1] += 5000  # a large mean
    values[:, 2] = 0.1  # constant, and no sum of it is exact
    values[0, 3] = 3e4  # one massive activation, in a row that the centre is taken of
    return values


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 70, 200])
def test_moments_are_those_of_float64(rng, rows):
    values = states(rng, rows)
    means, squares = np.empty((2, 6))
    for first, last in PARTS:
        channel_moments(values, first, last, means, squares)
    wide = values.astype(float)
    np.testing.assert_allclose(means, wide.mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(squares, rows * wide.var(0), rtol=2e-6, atol=1e-9)
    assert squares[2] == 0


def test_moments_of_what_is_not_finite_are_not(rng):
    values = states(rng, 20)
    values[5, 0], values[6, 4], values[16, 5] = np.nan, np.inf, -np.inf
    means, squares = np.empty((2, 6))
    with np.errstate(invalid="ignore"):
        channel_moments(values, 0, 6, means, squares)
    assert np.isfinite(means + squares).tolist() == [False, True, True, True, False, False]


@pytest.mark.parametrize("rows", [1, 16, 37])
def test_products_are_those_of_deviations(rng, rows):
    values, others = states(rng, rows), states(rng, rows) ** 2 / 100
    sums = np.empty(6)
    means = [one.astype(float).mean(0) for one in (values, others)]
    for first, last in PARTS:
        channel_products(values, others, *means, first, last, sums)
    left, right = (one - mean for one, mean in zip((values, others), means, strict=True))
    size = np.sqrt((left**2).sum(0) * (right**2).sum(0))
    assert (np.abs(sums - (left * right).sum(0)) <= 1e-6 * size + 1e-5).all()


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_norms_of_heads(rng, heads):
    values = states(rng, 8).reshape(2, 4, 6)
    norms = np.empty((2, heads, 4), np.float32)
    for part in ((0, 1), (1, 2)):
        head_norms(values, *part, norms)
    wanted = np.linalg.norm(values.reshape(2, 4, heads, -1).astype(float), axis=3).transpose(0, 2, 1)
    np.testing.assert_allclose(norms, wanted, rtol=1e-6)


def test_steps_and_products_of_tokens(rng):
    values, others = rng.normal(size=(2, 7, 40)).astype(np.float32)
    steps, products = np.empty((2, 7), np.float32)
    for part in ((0, 3), (3, 7)):
        token_steps(values, others, *part, steps, products)
    np.testing.assert_allclose(steps, np.linalg.norm(others.astype(float) - values, axis=1), rtol=1e-6)
    np.testing.assert_allclose(products, (values.astype(float) * others).sum(1), atol=1e-5)
