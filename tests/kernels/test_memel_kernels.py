"""One pass over activations: sums, squares and each sample's largest scale, beside loops that share no code with it."""

import itertools

import numpy as np
import pytest

pytest.importorskip("torch", reason="ninscope.neurons needs torch")
from ninscope.neurons.memel.kernels import finish, scan_positions, scan_samples

NONE = np.zeros((3, 0), np.bool_)


def naive(values, kept, shift, inverse):
    """(sums, squares, best, place) of each sample, float64, by plain loops; kept: bool like values."""
    samples, tokens, neurons = values.shape
    sums, squares = np.zeros((samples, neurons)), np.zeros((samples, neurons))
    best, place = np.zeros(samples), np.zeros(samples, int)
    for sample in range(samples):
        for token in range(tokens):
            for neuron in range(neurons):
                if not kept[sample, token, neuron]:
                    continue
                off = float(values[sample, token, neuron]) - float(shift[neuron])
                sums[sample, neuron] += off
                squares[sample, neuron] += off * off
                if off * off * float(inverse[neuron]) > best[sample]:
                    best[sample], place[sample] = off * off * float(inverse[neuron]), token * neurons + neuron
    return sums, squares, best, place


def of_samples(values, kept, shift, inverse, split=()):
    samples, _, neurons = values.shape
    sums, squares = np.zeros((2, samples, neurons))
    best, place = np.zeros(samples, np.float32), np.zeros(samples, np.int64)
    bounds = [0, *split, samples]
    for first, last in itertools.pairwise(bounds):
        scan_samples(values, kept, shift, inverse, first, last, sums, squares, best, place)
    return sums, squares, best, place


def of_positions(values, kept, shift, inverse):
    samples, positions = values.shape
    sums, squares = np.zeros((2, positions))
    best, place = np.zeros(samples, np.float32), np.zeros(samples, np.int64)
    scan_positions(values, kept, shift, inverse, 0, positions, sums, squares, best, place)
    return sums, squares, best, place


def numbers(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("tokens", [1, 3, 4, 15, 16, 17, 37])
def test_samples_beside_loops(rng, tokens):
    values, shift = numbers(rng, 3, tokens, 5) * 2 + 1, numbers(rng, 5)
    inverse = rng.uniform(0.1, 2, 5).astype(np.float32)
    found = of_samples(values, NONE, shift, inverse)
    wanted = naive(values, np.ones(values.shape, bool), shift, inverse)
    for one, other in zip(found[:3], wanted[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-4)
    np.testing.assert_array_equal(found[3], wanted[3])


def test_padding_has_no_part_in_anything(rng):
    values, shift = numbers(rng, 3, 23, 4), numbers(rng, 4)
    inverse = np.ones(4, np.float32)
    kept = rng.random((3, 23)) < 0.6
    kept[2] = False
    values[~kept] = np.nan
    found = of_samples(values, kept, shift, inverse)
    wanted = naive(values, np.repeat(kept[..., None], 4, 2), shift, inverse)
    for one, other in zip(found[:3], wanted[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-4)
    np.testing.assert_array_equal(found[3], wanted[3])
    assert found[2][2] == 0
    assert not found[0][2].any()


def test_no_bit_depends_on_how_samples_are_split(rng):
    values, shift, inverse = numbers(rng, 3, 19, 6), numbers(rng, 6), np.ones(6, np.float32)
    whole, split = of_samples(values, NONE, shift, inverse), of_samples(values, NONE, shift, inverse, (1, 2))
    for one, other in zip(whole, split, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_large_mean_costs_no_digits(rng):
    values = (1000 + rng.normal(size=(3, 64, 4))).astype(np.float32)
    sums, squares, *_ = of_samples(values, NONE, values[0, 0].copy(), np.zeros(4, np.float32))
    off = values.astype(np.float64) - values[0, 0]
    np.testing.assert_allclose(sums, off.sum(1), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(squares, (off * off).sum(1), rtol=1e-5)


def test_of_equal_scales_the_first_neuron_is_taken_then_the_first_token():
    values = np.zeros((3, 4, 3), np.float32)
    values[:, 2, 1] = values[:, 3, 1] = values[:, 1, 2] = 5
    *_, best, place = of_samples(values, NONE, np.zeros(3, np.float32), np.ones(3, np.float32))
    assert best.tolist() == [25] * 3
    assert place.tolist() == [2 * 3 + 1] * 3


@pytest.mark.parametrize("positions", [1, 31, 1024, 1500])
@pytest.mark.parametrize("samples", [1, 16, 21])
def test_positions_beside_loops(rng, positions, samples):
    values, shift = numbers(rng, samples, positions) + 3, numbers(rng, positions)
    inverse = rng.uniform(0.1, 2, positions).astype(np.float32)
    kept = rng.random((samples, positions)) < 0.7
    values[~kept] = np.inf
    for mask in (kept, np.zeros((samples, 0), np.bool_)):
        if mask.shape[1] == 0:
            values = np.where(kept, values, 0).astype(np.float32)
        found = of_positions(values, mask, shift, inverse)
        all_kept = mask if mask.shape[1] else np.ones_like(kept)
        sums, squares, best, place = naive(values[:, None], all_kept[:, None], shift, inverse)
        np.testing.assert_allclose(found[0], sums.sum(0), rtol=2e-5, atol=1e-4)
        np.testing.assert_allclose(found[1], squares.sum(0), rtol=2e-5, atol=1e-4)
        np.testing.assert_allclose(found[2], best, rtol=2e-5)
        np.testing.assert_array_equal(found[3], place)


def test_sums_become_means_and_variances(rng):
    values = rng.normal(size=(9, 4)) + 2
    count, shift = np.array([9, 9, 1, 0]), numbers(rng, 4)
    off = [values[:each, i] - shift[i] for i, each in enumerate(count)]
    sums, squares = np.array([each.sum() for each in off]), np.array([(each**2).sum() for each in off])
    squares[2] *= 1.001  # as float32 rounds it
    finish(count, shift, sums, squares)
    np.testing.assert_allclose(sums[:2], values[:, :2].mean(0))
    np.testing.assert_allclose(squares[:2], values[:, :2].var(0))
    assert sums[2] == pytest.approx(values[0, 2])
    assert squares[2:].tolist() == [0, 0]
    assert sums[3] == 0


@pytest.mark.parametrize("count", [1, 5])
def test_what_is_not_finite_stays_so(count):
    sums, squares = np.array([np.nan, np.inf]), np.array([np.nan, np.inf])
    with np.errstate(invalid="ignore"):
        finish(np.full(2, count), np.zeros(2, np.float32), sums, squares)
    assert not np.isfinite(sums).any()
    assert np.isnan(squares).all()
