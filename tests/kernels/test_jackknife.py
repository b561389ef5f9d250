"""The delete-one-layer jackknife: what remains without a layer, and intervals that hold the truth as often as they say."""

import math

import numpy as np
import pytest
from modes import JIT

from ninscope.multifractal.boxes import box_histogram
from ninscope.multifractal.jackknife import jackknife_interval, left_out_emergence, left_out_values
from ninscope.multifractal.partition import PartitionSums, partition_sums
from ninscope.multifractal.spectrum import default_q, spectrum_of_sums
from ninscope.networks.radii import IntegerRadii

Q, RADII = default_q(), IntegerRadii()


def layer(rng, spread=0.3, factor=1.0, nodes=24, edges=80):
    """Partition sums of a node layer whose nodes' weights are Gaussian, the nodes' scales and the layer's own log-normal."""
    scale = 0.05 * factor * rng.lognormal(0, spread) * rng.lognormal(0, 0.3, (nodes, 1))
    bins = RADII.bins((rng.normal(0, 1, (nodes, edges)) * scale).reshape(-1))
    return partition_sums(box_histogram(np.arange(nodes + 1) * edges, bins, RADII.count), 10, Q)


def bounded_layer(rng, spread, factor):
    """As `layer`, the scales of layers and nodes evenly spread over a range: no layer decides alone."""
    scale = 0.05 * factor * (1 + spread * rng.uniform(-1, 1)) * (1 + 0.2 * rng.uniform(-1, 1, (64, 1)))
    bins = RADII.bins((rng.normal(0, 1, (64, 256)) * scale).reshape(-1))
    return partition_sums(box_histogram(np.arange(65) * 256, bins, RADII.count), 10, Q)


def whole(layers, derivative="exact"):
    z, m = sum(each.z for each in layers), sum(each.m for each in layers)
    seen = np.any([each.seen for each in layers], axis=0)
    total = PartitionSums(z, m, seen, sum(each.nodes for each in layers), 0)
    spectrum = spectrum_of_sums(total, Q, RADII.logarithms, derivative)
    return spectrum.alpha0, spectrum.width


@pytest.mark.parametrize("derivative", ["exact", "forward"])
def test_each_value_is_that_of_the_network_without_the_layer(rng, derivative):
    layers = [layer(rng) for _ in range(11)]
    layers[4] = layer(rng, factor=1e-5)  # no node of it counts
    layers[5] = layer(rng, factor=12.0)  # the only one with the shortest distances
    values = left_out_values(layers, Q, RADII.logarithms, derivative)
    for number in range(11):
        alpha0, width = whole(layers[:number] + layers[number + 1 :], derivative)
        assert values[number, 1] == pytest.approx(width, rel=1e-11)
        # Forward differences have two alpha0 that are as good, 1 to 10 % apart.
        assert values[number, 0] == pytest.approx(alpha0, rel=1e-11 if derivative == "exact" else 0.1)


def test_of_a_single_layer_nothing_is_left(rng):
    assert np.isnan(left_out_values([layer(rng)], Q, RADII.logarithms)).all()
    assert all(map(math.isnan, jackknife_interval(1.0, np.array([1.0]))))


def test_a_rest_without_a_spectrum_has_no_values(rng):
    values = left_out_values([layer(rng), layer(rng, factor=1e-5)], Q, RADII.logarithms)
    assert np.isnan(values[0]).all()
    assert not np.isnan(values[1]).any()
    assert all(map(math.isnan, jackknife_interval(1.0, values[:, 0])))


def test_of_a_mean_it_is_students_interval(rng):
    from scipy import stats

    sample = rng.uniform(2, 3, 17)  # without tails, which would leave fewer degrees of freedom
    without = np.array([np.delete(sample, number).mean() for number in range(17)])
    kurtosis = stats.kurtosis(sample, fisher=False)
    expected = stats.t.interval(0.9, min(16, 34 / (kurtosis - 1)), loc=sample.mean(), scale=stats.sem(sample))
    assert jackknife_interval(float(sample.mean()), without, 0.9) == pytest.approx(expected, rel=1e-10)


def test_layers_that_are_all_alike_have_no_spread(rng):
    alike = [layer(rng)] * 6
    value, _ = whole(alike)
    low, high = jackknife_interval(value, left_out_values(alike, Q, RADII.logarithms)[:, 0])
    assert high - low < 1e-9


def test_a_width_has_its_interval_on_the_logarithmic_scale():
    low, high = jackknife_interval(2.0, np.array([1.9, 2.0, 2.1, 2.05]), logarithmic=True)
    assert low * high == pytest.approx(4.0, rel=1e-12)
    assert all(map(math.isnan, jackknife_interval(2.0, np.array([0.0, 2.0, 2.1]), logarithmic=True)))


@pytest.mark.slow
@pytest.mark.skipif(not JIT, reason="thousands of layers, which take minutes without machine code")
def test_intervals_hold_the_truth_as_often_as_they_say():
    """Networks of 42 layers, drawn 200 times from a population of 500; the truth is the mean over 400 such networks."""
    rng = np.random.default_rng(5)
    now = [bounded_layer(rng, 0.3, 5.0) for _ in range(500)]
    start = [bounded_layer(rng, 0.15, 3.6) for _ in range(500)]
    draws = rng.integers(0, 500, (400, 42))

    def drawn(population, draw):
        return [population[number] for number in draws[draw]]

    pairs = [(whole(drawn(now, draw)), whole(drawn(start, draw))) for draw in range(400)]
    truth = np.mean([(*values, emergence_of(values, before)) for values, before in pairs], axis=0)
    held = np.zeros(3)
    for draw, (values, before) in enumerate(pairs[:200]):
        left, left_before = (left_out_values(drawn(each, draw), Q, RADII.logarithms) for each in (now, start))
        intervals = [
            jackknife_interval(values[0], left[:, 0]),
            jackknife_interval(values[1], left[:, 1], logarithmic=True),
            jackknife_interval(emergence_of(values, before), left_out_emergence(left, left_before)),
        ]
        held += [low <= true <= high for (low, high), true in zip(intervals, truth, strict=True)]
    assert (held >= 180).all(), held
    assert (held <= 198).all(), held


def emergence_of(now, start):
    return now[1] / start[1] * math.log(start[0] / now[0])


def test_emergence_without_each_layer_is_that_of_its_values():
    """Where it is undefined, as with an alpha0 of 0 or a start of width 0, it is NaN."""
    now = np.array([[0.5, 0.3], [0.8, 0.4], [0.0, 0.3], [0.5, 0.3], [0.5, 0.3]])
    start = np.array([[1.0, 0.2], [0.9, 0.5], [1.0, 0.2], [0.0, 0.2], [1.0, 0.0]])
    values = left_out_emergence(now, start)
    assert values[:2] == pytest.approx([emergence_of(*pair) for pair in zip(now[:2], start[:2], strict=True)])
    assert np.isnan(values[2:]).all()


def test_sums_are_not_changed(rng):
    layers = [layer(rng) for _ in range(3)]
    before = [PartitionSums(s.z.copy(), s.m.copy(), s.seen.copy(), s.nodes, s.edges) for s in layers]
    left_out_values(layers, Q, RADII.logarithms)
    for own, copy in zip(layers, before, strict=True):
        assert own.z.tobytes() == copy.z.tobytes()
        assert own.m.tobytes() == copy.m.tobytes()
