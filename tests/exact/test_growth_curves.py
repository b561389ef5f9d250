"""Growth curves of whole networks: the naive twin's numbers, slopes that are alpha and tau, bands that hold Gaussian weights."""

import itertools
import math
from pathlib import Path

import naive
import numpy as np
import pytest
from suites import neox_tensors, used_names, write_checkpoint

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.exact.scaling import growth_curves
from ninscope.measuring import sample_network
from ninscope.networks.neuron_network import neuron_network
from ninscope.parameters import Parameters

SHAPE = {"blocks": 2, "width": 24, "heads": 3}


def curves_of(folder, parameters=None, **how):
    return growth_curves(neuron_network(open_source(folder).open(folder.name)), parameters or Parameters("all"), **how)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("scaling") / "step0", neox_tensors(**SHAPE, seed=4))


@pytest.fixture(scope="module")
def counted(folder):
    """Distances of every node, by the name of a neuron."""
    network = sample_network(
        neuron_network(open_source(folder).open("step0")), Parameters(nodes_per_layer=1000, samples=1)
    )
    indptr, part = network.row_pointer(0)
    weights = network.matrix.data[part]
    names = [f"{layer.name}[{number}]" for layer in network.layers for number in range(layer.size)]
    distances = [naive.distances_of(weights[first:last]) for first, last in itertools.pairwise(indptr)]
    return dict(zip(names, distances, strict=True))


def test_curves_are_the_twins(folder, counted):
    mass, low, high, *_ = curves_of(folder, q=(-2.0, 1.5)).curves
    nodes = naive.counted_distances(list(counted.values()))
    radii, z, _ = naive.partition_function(nodes, np.array([-2.0, 1.5]))
    log_mass = [np.mean([math.log(1 + (np.rint(node) <= radius).sum()) for node in nodes]) for radius in radii]
    for curve, expected in ((mass, log_mass), (low, np.log(z[:, 0])), (high, np.log(z[:, 1]))):
        assert curve.radii.tolist() == radii.tolist()
        np.testing.assert_allclose(curve.values, expected, rtol=1e-9, atol=1e-9)
        central = np.diff(expected)[0] / np.diff(np.log(radii))[0]
        assert curve.local[0] == pytest.approx(central)
    assert (mass.quantity, low.q, high.q) == ("mass", -2.0, 1.5)


def test_fitted_slopes_are_alpha_and_tau(folder):
    for bounds in (None, (5, 60)):
        measured = ninscope.measure(folder, exact=True, q=[-3.0, 0.0, 3.0], fit_radii=bounds)
        mass, low, high, *_ = curves_of(folder, Parameters("all", fit_radii=bounds)).curves
        assert mass.slope == pytest.approx(measured.samples[0].alpha_at_zero, rel=1e-10)
        assert [low.slope, high.slope] == pytest.approx(measured.tau[[0, 2]].tolist(), rel=1e-10)
        assert [low.r2, high.r2] == pytest.approx(measured.r2[[0, 2]].tolist(), rel=1e-10)


def test_neurons_are_of_many_layers_and_the_same_at_every_step(folder, counted):
    def names(found):
        return [curve.neuron for curve in found.curves if curve.quantity == "neuron"]

    found = curves_of(folder, neurons=5)
    assert len({name.partition("[")[0] for name in names(found)}) == 5
    for curve in found.curves[3:]:
        own = np.rint(counted[curve.neuron][(counted[curve.neuron] > 1) & (counted[curve.neuron] <= 150)])
        assert curve.radii.tolist() == np.unique(own).tolist()
        assert np.exp(curve.values) == pytest.approx([1 + (own <= radius).sum() for radius in curve.radii])
        assert curve.slope == pytest.approx(np.polyfit(np.log(curve.radii), curve.values, 1)[0])
        assert np.isnan(curve.null_low).all()
        assert math.isnan(curve.outside_null)
    other = write_checkpoint(folder.parent / "step1", neox_tensors(**SHAPE, seed=9))
    assert names(curves_of(other, neurons=5)) == names(found)
    assert names(curves_of(folder, neurons=5, seed=1)) != names(found)
    assert len(names(curves_of(folder, neurons=40))) == 40
    assert names(curves_of(folder, neurons=0)) == []


@pytest.mark.parametrize("radii", ["integer", {"log": 40}])
def test_the_band_holds_gaussian_weights_and_no_others(tmp_path, radii):
    """Weights of each matrix Gaussian, or of the same deviation with heavy tails."""
    rng = np.random.default_rng(0)
    shares = []
    for step, draw in enumerate((rng.standard_normal, lambda shape: rng.laplace(0, math.sqrt(0.5), shape))):
        tensors = neox_tensors(blocks=2, width=64, heads=2, seed=0, dtype=np.float32)
        for name in used_names(tensors):
            tensors[name] = (0.08 * draw(tensors[name].shape)).astype(np.float32)
        checkpoint = write_checkpoint(tmp_path / f"step{step}", tensors)
        found = curves_of(checkpoint, Parameters("all", radii=radii), neurons=0, draws=8)
        shares.append([curve.outside_null for curve in found.curves])
    # The range of logarithmic radii is that of the largest and smallest weight, which draws on these radii do not reach.
    assert max(shares[0]) < 0.15
    assert min(shares[1]) > 0.3


def test_what_decides_the_draws(folder):
    def bands(**how):
        return [curve.null_low.tobytes() for curve in curves_of(folder, neurons=0, **how).curves]

    assert bands() == bands()
    assert bands() != bands(seed=1)
    assert bands() != bands(draws=4)


def test_gaussian_growth_is_no_power_law(folder):
    mass = curves_of(folder).curves[0]
    assert min(mass.criteria, key=mass.criteria.get) == "log-normal"
    assert mass.local.max() > 2 * mass.slope
    assert mass.decades < 0.2


def test_a_network_without_edges_has_no_curve(tmp_path):
    tensors = neox_tensors(**SHAPE, seed=4)
    for name in used_names(tensors):
        tensors[name] = (tensors[name] * 0).astype(np.float16)
    found = curves_of(write_checkpoint(tmp_path / "step0", tensors))
    assert found.curves == ()
    assert "there is no curve" in found.message


def test_the_numbers_of_the_page_are_measured():
    """docs/method.md#fit-quality: the mass of the demo suite."""
    root = Path(__file__).parents[2]
    page = (root / "docs" / "method.md").read_text(encoding="utf-8")
    table = page.split("| step | fitted slope |")[1].split("\n\n")[0]
    written = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert [step for step, *_ in written] == ["0", "64", "512", "4000"]
    source = open_source(root / "data" / "stdlib-neox-500k")
    for step, *values in written:
        mass = growth_curves(neuron_network(source.open(f"step{step}")), Parameters("all"), neurons=0).curves[0]
        decades, of_draws = f"{mass.decades:.3f}", f"{mass.null_decades:.3f}"
        assert values == [
            f"{mass.slope:.3f}", f"{mass.r2:.3f}", f"{mass.local.min():.2f} to {mass.local.max():.2f}", decades, of_draws,
            f"{mass.outside_null:.2f}", f"{mass.criteria['exponential']:.0f}", f"{mass.criteria['log-normal']:.0f}",
        ]  # fmt: skip
