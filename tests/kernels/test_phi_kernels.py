"""One pass that counts phi against loops in float32, for parts of the samples and any number of tokens."""

import numpy as np
import pytest

from ninscope.neurons.phi_kernels import count_phi

DROPPED = 20


def naive(values, mean, inverse):
    """{bits: count}, [samples, neurons] sums, [samples] largest."""
    counts, sums, largest = {}, np.zeros((len(values), values.shape[2])), np.zeros(len(values), np.float32)
    for index in np.ndindex(values.shape):
        sample, _, neuron = index
        off = np.float32(values[index] - mean[neuron])
        phi = np.float32(np.float32(off * off) * inverse[neuron])
        bits = int(phi.view(np.int32)) >> DROPPED
        counts[bits] = counts.get(bits, 0) + 1
        sums[sample, neuron] += float(phi)
        largest[sample] = max(largest[sample], phi)
    return counts, sums, largest, np.zeros(1, np.float32)


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 40])
def test_counts_sums_and_largest(rng, tokens):
    values = (3 + rng.normal(size=(3, tokens, 4))).astype(np.float32)
    mean, inverse = rng.normal(size=4).astype(np.float32), np.array([1, 0.5, 0, 3e4], np.float32)
    counts = np.zeros(1 << (31 - DROPPED), np.int64)
    sums, (largest, smallest) = np.zeros((3, 4)), np.zeros((2, 3), np.float32)
    for first, last in ((0, 2), (2, 3)):
        count_phi(values, mean, inverse, DROPPED, first, last, counts, sums, largest, smallest)
    wanted = naive(values, mean, inverse)
    assert {int(bits): int(counts[bits]) for bits in np.flatnonzero(counts)} == wanted[0]
    assert sums == pytest.approx(wanted[1], rel=1e-6)
    assert largest.tolist() == wanted[2].tolist()
    phi = (values - mean) * (values - mean) * inverse
    assert smallest.tolist() == pytest.approx(np.where(phi > 0, phi, np.inf).min((1, 2)).tolist(), rel=1e-6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite_is_counted_inside_the_bins():
    values = np.array([[[np.inf], [-np.inf], [3e38]]], np.float32)
    for inverse in (0.0, 1.0):
        counts, sums, largest = np.zeros(1 << (31 - DROPPED), np.int64), np.zeros((1, 1)), np.zeros(1, np.float32)
        count_phi(
            values,
            np.zeros(1, np.float32),
            np.full(1, inverse, np.float32),
            DROPPED,
            0,
            1,
            counts,
            sums,
            largest,
            np.zeros(1, np.float32),
        )
        assert counts.sum() == 3
        assert not np.isfinite(sums).all()
