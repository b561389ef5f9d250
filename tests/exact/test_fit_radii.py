"""fit_radii: the radii that enter fits, for every kind of analysis, against fits by numpy of the twin's sums."""

import itertools
import math
import re
from pathlib import Path

import naive
import numpy as np
import pytest
from suites import neox_tensors, used_names, write_checkpoint

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.errors import RequestError
from ninscope.exact.whole import analyse_piece
from ninscope.measuring import sample_network
from ninscope.multifractal.jackknife import left_out_values
from ninscope.multifractal.node_dimension import mass_radius_fits
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.radii import LogRadii
from ninscope.networks.shortest_paths import path_histograms
from ninscope.parameters import Parameters

ROOT = Path(__file__).parents[2]
SHAPE = {"blocks": 2, "width": 24, "heads": 3}
Q = np.array([-2.0, -1.0, 0.0, 1.0, 2.5])
SAMPLES = {"nodes_per_layer": 12, "samples": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("fit") / "step0", neox_tensors(**SHAPE, seed=4))


def fitted_by_numpy(weights_of_nodes, low, high):
    """(tau, alpha) of the twin's sums at the radii from low to high."""
    counted = naive.counted_distances([naive.distances_of(weights) for weights in weights_of_nodes])
    radii, z, m = naive.partition_function(counted, Q)
    inside = (radii >= low) & (radii <= high)
    x = np.log(radii[inside])
    return np.polyfit(x, np.log(z[inside]), 1)[0], np.polyfit(x, m[inside] / z[inside], 1)[0]


def sampled(folder, **how):
    return sample_network(neuron_network(open_source(folder).open("step0")), Parameters(**how))


def nodes_of(network):
    indptr, part = network.row_pointer(0)
    weights = network.matrix.data[part]
    return [weights[first:last] for first, last in itertools.pairwise(indptr)]


@pytest.mark.parametrize(("low", "high"), [(5, 60), (0, 20), (2.5, 1000), (10, 11)])
def test_the_fits_are_those_of_the_radii_within(folder, low, high):
    network = sampled(folder, nodes_per_layer=1000, samples=1)
    tau, alpha = fitted_by_numpy(nodes_of(network), low, high)
    for how in ({"exact": True}, {"nodes_per_layer": 1000, "samples": 1}):
        found = ninscope.measure(folder, **how, q=Q, fit_radii=[low, high])
        np.testing.assert_allclose(found.tau, tau, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.alpha, alpha, rtol=1e-9, atol=1e-9)


def test_bounds_that_hold_every_radius_change_no_bit(folder):
    for how in ({"exact": True}, SAMPLES, {**SAMPLES, "layers_crossed": 2}, {"exact": True, "radii": {"log": 30}}):
        plain, bounded = (ninscope.measure(folder, **how, **given) for given in ({}, {"fit_radii": [0, 1e9]}))
        assert plain.alpha.tobytes() == bounded.alpha.tobytes()
        assert [layer.width_without for layer in plain.layers] == [layer.width_without for layer in bounded.layers]


def test_every_other_number_is_a_fit_of_these_radii_too(folder):
    """Node dimensions and what is left without a layer: the same fits of the curves cut to these radii."""
    found = ninscope.measure(folder, exact=True, q=Q, fit_radii=[5, 60], per_node=True)
    parameters = Parameters("all", q=Q)
    (piece,) = analyse_piece(neuron_network(open_source(folder).open("step0")), parameters, parameters.integer_radii)
    logarithms = np.full(151, np.nan)
    logarithms[5:61] = np.log(np.arange(5, 61))
    without = left_out_values([piece[layer.layer].sums for layer in found.layers], Q, logarithms)
    assert [layer.alpha0_without for layer in found.layers] == without[:, 0].tolist()
    first = naive.distances_of(nodes_of(sampled(folder, nodes_per_layer=1000, samples=1))[0])
    first = np.rint(first[(first > 1) & (first <= 150)])
    own = np.unique(first)
    mass = np.log([1 + (first <= radius).sum() for radius in own])
    inside = (own >= 5) & (own <= 60)
    expected = np.polyfit(np.log(own[inside]), mass[inside], 1)[0]
    assert found.nodes_of["block0.x"].dimension[0] == pytest.approx(expected, rel=1e-10)


def test_a_node_without_two_radii_within_has_no_dimension():
    histogram = np.array([[0, 6, 0, 6, 0], [0, 4, 4, 4, 4], [0, 1, 1, 1, 1]], np.int32)
    dimension, r2 = mass_radius_fits(histogram, 10, np.array([0, np.nan, np.log(2), np.log(3), np.nan]))
    assert np.isnan(dimension[0])
    assert dimension[1] == pytest.approx(np.log(13 / 9) / np.log(3 / 2))
    assert dimension[2] == 0
    assert np.isnan(r2[[0, 2]]).all()
    nowhere, _ = mass_radius_fits(histogram, 10, np.full(5, np.nan))
    assert np.isnan(nowhere[:2]).all()


def test_bounds_are_distances_whatever_the_grid(folder):
    """Not numbers of radii: neg_log's grid has steps of 0.0334, and a logarithmic one begins at the largest weight."""
    neg_log = Parameters(transfer="neg_log", fit_radii=[1.0, 2.0])
    inside = np.flatnonzero(~np.isnan(neg_log.log_radii(neg_log.integer_radii)))
    assert inside.tolist() == [k for k in range(151) if 1 <= k * math.log(150) / 150 <= 2]
    logarithmic = Parameters(radii={"log": 5}, fit_radii=[4.0, 64.0])
    kept = logarithmic.log_radii(LogRadii(5, 1 / 256, 1.0))
    np.testing.assert_array_equal(np.isnan(kept), [True, True, False, False, False, True])  # 1, 4, 16, 64, 256
    found = ninscope.measure(folder, **SAMPLES, layers_crossed=2, q=Q, fit_radii=[4, 20])
    network = sampled(folder, **SAMPLES)
    counts = next(iter(path_histograms(network, 2)))
    counts = counts[counts.sum(axis=1) > 10]
    mass = 1 + counts.cumsum(axis=1)
    radii = [r for r in range(4, 21) if counts[:, r].any()]
    z = [((mass[:, r] / mass[:, -1]) ** 2.5).sum() for r in radii]
    assert found.samples[0].tau[-1] == pytest.approx(np.polyfit(np.log(radii), np.log(z), 1)[0], rel=1e-9)


def test_where_no_two_radii_are_within_there_is_no_spectrum(tmp_path):
    """The smallest weight is beyond the bounds: every edge is shorter than the radii of the fit."""
    tensors = neox_tensors(**SHAPE, seed=4)
    for name in used_names(tensors):
        tensors[name] = np.clip(np.abs(tensors[name]), 0.1, 0.5).astype(np.float16)
    found = ninscope.measure(write_checkpoint(tmp_path / "step0", tensors), fit_radii=[20, 100])
    assert math.isnan(found.alpha0)
    assert "counted edges have 0 radii within fit_radii: there is no slope" in found.message
    one = ninscope.measure(tmp_path / "step0", fit_radii=[10, 20])
    assert "counted edges have 1 radius within fit_radii: there is no slope" in one.message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([5], r"fit_radii is \[5\]; two distances \[a, b\] with 0 <= a < b were expected"),
        ([5, 5], "two distances"),
        ([50, 5], "two distances"),
        ([-1, 5], "two distances"),
        ([1, math.inf], "two distances"),
        ([1, math.nan], "two distances"),
        (["1", "5"], "two distances"),
        ("15", "fit_radii is '15'"),
        (7, "fit_radii is 7"),
        ([True, 5], "two distances"),
        ([5.2, 5.9], "fit_radii holds 0 of the radii 1 to 150, and a slope needs two: widen it"),
        ([5, 5.9], "fit_radii holds 1 of the radii"),
        ([151, 300], "fit_radii holds 0 of the radii 1 to 150"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(given, message):
    with pytest.raises(RequestError, match=message):
        Parameters(fit_radii=given)


def test_whole_networks_across_layers_are_fitted_alike(folder):
    whole = ninscope.measure(folder, exact=True, layers_crossed=2, fit_radii=[4, 20])
    every = ninscope.measure(folder, nodes_per_layer=1000, samples=1, layers_crossed=2, fit_radii=[4, 20])
    assert whole.alpha0 == pytest.approx(every.alpha0, rel=1e-12)
    assert whole.alpha0 != ninscope.measure(folder, exact=True, layers_crossed=2).alpha0


def test_paths_reach_further():
    assert Parameters(layers_crossed=3, fit_radii=[200, 400]).fit_radii == (200.0, 400.0)
    with pytest.raises(RequestError, match="holds 0 of the radii 1 to 450"):
        Parameters(layers_crossed=3, fit_radii=[500, 600])


def test_spectra_of_other_bounds_are_not_compared(folder):
    one, other = (ninscope.measure(folder, fit_radii=bounds) for bounds in (None, (5, 100)))
    with pytest.raises(RequestError, match=r"fit_radii is all and \(5\.0, 100\.0\)"):
        ninscope.emergence(one, other)


def test_the_numbers_of_the_page_are_measured():
    """docs/method.md: what the bounds of the fit do to alpha0, w and E of the demo suite at step 4000."""
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    written = re.findall(r"^\| (all|\[\d+, \d+\]) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert len(written) >= 6
    source = ROOT / "data" / "stdlib-neox-500k"
    for bounds, *values in written:
        given = None if bounds == "all" else [int(end) for end in re.findall(r"\d+", bounds)]
        row = ninscope.measure_all(source, 4000, fit_radii=given, layers=False)[0]
        assert values == [f"{value:.3f}" for value in (row.spectrum.alpha0, row.spectrum.width, row.emergence)]
