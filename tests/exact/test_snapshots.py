"""A snapshot of counts answers what its weights would: other moments, parts and null models, to the bit; the rest it refuses."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from counted_networks import counted, network_of, plain_squares
from suites import neox_tensors, write_checkpoint

import ninscope
from ninscope.errors import RequestError
from ninscope.exact.counting import LayerCounts
from ninscope.exact.null_models import null_spectrum
from ninscope.exact.packed_counts import byte_planes, of_byte_planes, packed_counts, unpacked_counts
from ninscope.exact.snapshots import snapshot_of
from ninscope.exact.whole import exact_analysis
from ninscope.parameters import Parameters

pytestmark = pytest.mark.filterwarnings("error")

TRAINED = Path(__file__).parents[2] / "data" / "stdlib-neox-67k" / "step512"
WHOLE = Parameters("all")
OTHERWISE = [
    {},
    {"q": [-2.0, -0.5, 0.0, 1.0, 2.5]},
    {"derivative": "forward"},
    {"min_degree": 40},
    {"fit_radii": (5, 60)},
    {"parts": ["block", "kind", "layer"], "per_node": True},
]


def snapshot(folder, parameters=WHOLE):
    network, _ = network_of(folder, parameters)
    return snapshot_of(network, parameters, *counted(network, folder, int(parameters.max_distance)))


@pytest.fixture(scope="module")
def trained():
    return snapshot(TRAINED)


def same_spectrum(one, other):
    for name in ("q", "tau", "alpha", "f", "r2"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
    ends = [(value.alpha0, value.width, value.nodes, value.edges, value.r2_mass_mean) for value in (one, other)]
    np.testing.assert_array_equal(*ends)
    return one.message == other.message and one.origin == replace(other.origin, models=())


@pytest.mark.parametrize("asked", OTHERWISE, ids=lambda asked: " ".join(asked) or "as it was")
def test_a_snapshot_measures_as_its_weights_do(trained, asked):
    now, weights = trained.measure(**asked), ninscope.measure(TRAINED, exact=True, **asked)
    assert same_spectrum(now.samples[0], weights.samples[0])
    assert repr(now.layers) == repr(weights.layers)  # NaN among them
    assert (now.message, now.warning, now.nodes, now.edges) == (
        weights.message, weights.warning, weights.nodes, weights.edges,
    )  # fmt: skip
    assert list(now.parts) == list(weights.parts)
    assert all(same_spectrum(now.parts[name][0], weights.parts[name][0]) for name in now.parts)
    assert list(now.nodes_of) == list(weights.nodes_of)
    for layer, values in now.nodes_of.items():
        for name, array in vars(values).items():
            np.testing.assert_array_equal(array, getattr(weights.nodes_of[layer], name))


def test_shuffled_and_random_weights_are_those_of_the_weights(trained):
    network, _ = network_of(TRAINED, WHOLE)
    matrices = exact_analysis(network, WHOLE, matrices=True).matrices
    found = trained.nulls(samples=2, seed=3)
    radii = WHOLE.integer_radii
    for null in ("shuffled", "gaussian"):
        drawn = [null_spectrum(null, matrices, radii, WHOLE, 3, sample) for sample in range(2)]
        for one, other in zip(found[null], drawn, strict=True):
            np.testing.assert_array_equal([one.alpha0, one.width, *one.tau], [other.alpha0, other.width, *other.tau])
    (expected,) = found["analytic"]
    np.testing.assert_allclose(expected.tau, null_spectrum("analytic", matrices, radii, WHOLE).tau, rtol=1e-11)
    for own, of_weights in zip(trained.matrices, matrices, strict=True):
        assert own.std == pytest.approx(of_weights.std, rel=1e-14)


def test_null_models_follow_what_is_asked(trained):
    asked = {"q": [-1.0, 0.0, 1.0], "min_degree": 40}
    network, _ = network_of(TRAINED, WHOLE)
    parameters = replace(WHOLE, **asked)
    (own,) = trained.nulls(["shuffled"], samples=1, **asked)["shuffled"]
    matrices = exact_analysis(network, parameters, matrices=True).matrices
    expected = null_spectrum("shuffled", matrices, parameters.integer_radii, parameters)
    np.testing.assert_array_equal(own.tau, expected.tau)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"transfer": "coth"},
            "holds counts with transfer = 'reciprocal', and another one needs the weights; measure a",
        ),
        ({"max_distance": 100.0}, "max_distance = 150.0, and another"),
        ({"radii": {"log": 20}}, "radii = 'integer'"),
        ({"layers_crossed": 2}, "layers_crossed = 1"),
        ({"direction": "in"}, "direction = 'out'"),
        ({"gauge": "fixed"}, "gauge = 'stored'"),
        ({"nodes_per_layer": 8}, "nodes_per_layer = 'all'"),
        ({"min_degre": 8}, "unknown parameter min_degre; did you mean 'min_degree'"),
        ({"min_degree": -1}, "min_degree"),
    ],
)
def test_what_counts_cannot_say_is_refused(trained, asked, said):
    with pytest.raises(RequestError, match=said):
        trained.measure(**asked)


def test_what_is_counted_already_may_be_said_again(trained):
    same = trained.measure(transfer="reciprocal", max_distance=150)
    assert same.alpha0 == trained.measure().alpha0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"models": ["column_norms"]}, "null models 'column_norms': a snapshot knows shuffled, gaussian, analytic"),
        ({"models": "shuffled"}, "list some of them"),
        ({"models": []}, "list some of them"),
        ({"samples": 0}, "samples is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"transfer": "coth"}, "transfer"),
    ],
)
def test_null_models_that_need_weights_are_refused(trained, asked, said):
    with pytest.raises(RequestError, match=said):
        trained.nulls(**asked)


def test_without_sums_there_is_no_deviation(trained):
    bare = replace(trained, matrices=tuple(replace(matrix, squares=None) for matrix in trained.matrices))
    assert len(bare.nulls(["shuffled"], samples=1)["shuffled"]) == 1
    with pytest.raises(RequestError, match=r"sums of block0\.x -> block0\.q were not kept.*ask for shuffled"):
        bare.nulls(["gaussian"])


def test_of_f64_no_sums_are_kept(tmp_path):
    """Theirs would be sums of other weights: they are taken of float32."""
    source = write_checkpoint(tmp_path / "step0", neox_tensors(1, 16, 2, seed=0, dtype=np.float64))
    kept = snapshot(source)
    assert kept.measure().alpha0 == ninscope.measure(source, exact=True).alpha0
    with pytest.raises(RequestError, match="were not kept"):
        kept.nulls(["analytic"])


def test_the_deviation_of_known_weights():
    """Of weights -a, a, a, a it is sqrt(3) a / 2, of 1, 2, 3, 4 sqrt(5) / 2; a subnormal number is one too."""
    from ninscope.exact.snapshots import SnapshotMatrix

    for weights, expected in (
        ([-0.375, 0.375, 0.375, 0.375], math.sqrt(3) / 2 * 0.375),
        ([1.0, 2.0, 3.0, 4.0], math.sqrt(5) / 2),
        ([2.0**-140, 0.0, 0.0, 0.0], math.sqrt(3) / 4 * 2.0**-140),
        ([0.25] * 4, 0.0),
    ):
        matrix = SnapshotMatrix("a", "b", 2, 2, 1, np.zeros(152, np.int64), plain_squares(weights))
        assert matrix.std == pytest.approx(expected, rel=1e-15)
        of_taps = replace(matrix, taps=9)
        assert of_taps.std == pytest.approx(math.sqrt(np.square(weights).mean() / 9), rel=1e-15)


def test_counts_of_another_network_are_refused(trained):
    first, *others = trained.matrices
    moved = first.totals.copy()
    moved[[20, 21]] += [1, -1]
    with pytest.raises(ValueError, match=r"block0\.x: the bins of its matrices are not those of its nodes"):
        replace(trained, matrices=(replace(first, totals=moved), *others))
    with pytest.raises(ValueError, match="counts of the layers"):
        replace(trained, counts={name: counts for name, counts in trained.counts.items() if name != "block1.a"})


@pytest.mark.parametrize("beyond", [{"layers_crossed": 2}, {"radii": {"log": 20}}, {"direction": "in"}])
def test_a_snapshot_is_of_single_layers_on_integer_radii(beyond):
    network, _ = network_of(TRAINED, WHOLE)
    with pytest.raises(RequestError, match="a snapshot is of the whole network, of the edges that leave"):
        snapshot_of(network, Parameters("all", **beyond), {}, {}, {})


def test_a_snapshot_knows_what_was_said_of_the_model(tmp_path):
    """A generic model's note, and parameters that were no defaults."""
    tensors = {name: value for name, value in neox_tensors(1, 16, 2, seed=0).items() if "layers.0.mlp" in name}
    source = write_checkpoint(tmp_path / "step0", tensors, {})
    asked = {"min_degree": 3, "max_distance": 60.0}
    parameters = Parameters("all", **asked)
    own = snapshot(source, parameters).measure()
    weights = ninscope.measure(source, exact=True, **asked)
    assert same_spectrum(own.samples[0], weights.samples[0])
    assert own.message == weights.message
    assert "generic" in repr(snapshot(source, parameters))


# --- packing


def test_bytes_of_integers_and_back(rng):
    for dtype, largest in ((np.int32, 200), (np.int32, 70_000), (np.int64, 2**47), (np.int64, 2**62)):
        parts = [rng.integers(0, largest, shape, dtype) for shape in ((3, 5), (7,), (0,), (2, 1, 4))]
        planes = byte_planes(parts)
        assert planes.dtype == np.uint8
        assert len(planes) == max(len(f"{int(part.max(initial=0)):x}") + 1 for part in parts) // 2
        again = of_byte_planes(planes, [part.shape for part in parts], dtype)
        for part, other in zip(parts, again, strict=True):
            np.testing.assert_array_equal(part, other, strict=True)


def test_the_lowest_bytes_are_one_plane():
    planes = byte_planes([np.array([[1, 258], [65_536 + 7, 0]], np.int32)])
    assert planes.tolist() == [[1, 2, 7, 0], [0, 1, 0, 0], [0, 0, 1, 0]]


def test_bytes_that_are_no_such_integers_are_refused():
    with pytest.raises(ValueError, match="not negative"):
        byte_planes([np.array([-1], np.int32)])
    with pytest.raises(ValueError, match="no such planes"):
        of_byte_planes(np.zeros((1, 5), np.uint8), [(2, 2)], np.int32)
    with pytest.raises(ValueError, match="5 bytes do not fit int32"):
        of_byte_planes(np.zeros((5, 4), np.uint8), [(2, 2)], np.int32)


def test_layers_are_packed_bin_after_bin(rng):
    layers = {
        name: LayerCounts(rng.poisson(3, (nodes, 6)).astype(np.int32), rng.integers(0, 2**50, nodes))
        for name, nodes in (("x", 4), ("m", 9))
    }
    histograms, distances = packed_counts(layers)
    assert histograms[0, :4].tolist() == layers["x"].histogram[:, 0].tolist()
    again = unpacked_counts(histograms, distances, {"x": 4, "m": 9}, 6)
    for name, counts in layers.items():
        np.testing.assert_array_equal(again[name].histogram, counts.histogram, strict=True)
        np.testing.assert_array_equal(again[name].distances, counts.distances, strict=True)
