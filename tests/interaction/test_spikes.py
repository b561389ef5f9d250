"""Spikes against singular values that are known, planted, or taken by another routine."""

import math

import naive_interaction as naive
import numpy as np
import pytest

from ninscope.interaction.spikes import MARGIN, spikes


def noise(rng, shape=(60, 90)) -> np.ndarray:
    return rng.normal(size=shape)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (1, 40)])
def test_noise_has_hardly_any(rng, shape):
    """The largest singular values of two small matrices of noise differ by some percent, so now and then one is a spike."""
    assert np.mean([spikes(noise(rng, shape), f"{number}").count for number in range(20)]) < 0.6


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("turned", [False, True])
def test_planted_directions_are_counted(rng, dtype, turned):
    weights = noise(rng) * 0.02
    left, _ = np.linalg.qr(noise(rng, (60, 3)))
    right, _ = np.linalg.qr(noise(rng, (90, 3)))
    planted = (weights + left @ np.diag([1.5, 1.8, 2.0]) @ right.T).astype(dtype)
    planted = planted.T if turned else planted
    found = spikes(planted, "w")
    assert found.count == 3
    count, share = naive.spikes(planted, found.bound)
    assert (found.count, found.share) == (count, pytest.approx(share, rel=1e-12))


def test_the_bound_is_that_of_a_shuffle(rng):
    weights = noise(rng)
    largest = [np.linalg.norm(rng.permutation(weights.ravel()).reshape(weights.shape), 2) for _ in range(20)]
    bound = spikes(weights, "w").bound / MARGIN
    assert abs(bound - np.mean(largest)) < 5 * np.std(largest)
    assert spikes(weights, "w") == spikes(weights, "w")
    assert spikes(weights, "v").bound != spikes(weights, "w").bound != spikes(weights, "w", seed=1).bound


def test_heavy_tails_alone_are_no_spikes(rng):
    """A few weights are much larger than the rest, wherever they stand."""
    weights = noise(rng)
    weights.ravel()[rng.choice(weights.size, 5, replace=False)] = 30
    assert spikes(weights, "w").count <= 1


def test_no_size_matters(rng):
    weights = noise(rng) + 2 * np.outer(noise(rng, 60), noise(rng, 90))
    small, large = (spikes(weights * scale, "w") for scale in (1e-20, 1e20))
    assert small.count == large.count == 1
    assert small.share == pytest.approx(large.share, rel=1e-12)


def test_what_has_no_spikes_says_why():
    zeros = spikes(np.zeros((3, 4)), "w")
    assert (zeros.count, zeros.message) == (0, "a matrix of zeros has no spikes")
    assert math.isnan(zeros.share)
    with np.errstate(over="ignore"):
        assert spikes(np.full((3, 4), 1e300), "w").message == "weights are too large for their squares"
    assert spikes(np.ones((5, 6)), "w").count == 0  # every shuffle of it is itself
