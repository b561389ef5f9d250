"""What the exact analysis says of single nodes and node layers: the naive twin's values, theory's, and no split matters."""

import math

import naive
import naive_nodes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from suites import neox_tensors, used_names, write_checkpoint, written

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.errors import RequestError
from ninscope.exact import bands
from ninscope.exact.bands import bands_of, outgoing
from ninscope.exact.counting import LayerCounts, magnitudes, radii_of
from ninscope.exact.layers import LayerResult
from ninscope.exact.whole import analyse_piece, combine, exact_analysis
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.radii import log_radii
from ninscope.networks.transfer import TRANSFERS
from ninscope.parameters import Parameters

SHAPES = [(1, 6, 2), (2, 12, 3), (1, 15, 1)]
VALUES = ("edges", "degree", "dimension", "r2")
MOMENTS = ("mean", "std", "dimension_mean", "dimension_std", "r2_mass_mean", "r2_mass_std")
QUERY, DENSE, UP, DOWN = (
    f"gpt_neox.layers.0.{name}.weight"
    for name in ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
)


def drawn(seed, shape):
    """Weights of different laws, tensor by tensor: mostly within the bounds, mostly not, some 0, some on a bound."""
    blocks, width, heads = shape
    tensors = neox_tensors(blocks, width, heads, seed=0, dtype=np.float64)
    generator = np.random.default_rng(seed)
    bounds = [0.0, 1.0, -1.0, math.nextafter(1, 0), 1 / 150, -1 / 1000, 1 / 37.5, 2 / 5]
    for name in used_names(tensors):
        shape = tensors[name].shape
        values = generator.normal(0, generator.choice([0.004, 0.03, 0.3, 1.0]), shape)
        special = generator.random(shape) < 0.1
        tensors[name] = np.where(special, generator.choice(bounds, shape), values)
    return tensors


def layer_names(blocks):
    return [f"block{number}.{name}" for number in range(blocks) for name in "xcam"]


def outgoing_weights(stored, shape, neurons=None):
    """The weights of each node of each source layer, from the naive twin."""
    blocks, width, heads = shape
    sizes = {"m": 4 * width}
    return naive.gpt_neox_edges(
        stored, blocks, width, heads, neurons or (lambda block, name: np.arange(sizes.get(name, width)))
    )


def analysed(folder, **given):
    network = neuron_network(open_source(folder).open(folder.name))
    parameters = Parameters("all", **given)
    return network, parameters, radii_of(network, parameters)


def bits_of(analysis):
    """Everything an analysis holds, as bytes: two that are equal agree in every bit."""
    spectrum = vars(analysis.spectrum).values()
    layers = [value for layer in analysis.layers for value in vars(layer).values()]
    nodes = [array for values in analysis.values.values() for array in vars(values).values()]
    whole = (*spectrum, *layers, *nodes, analysis.nodes, analysis.edges, *analysis.values)
    return [value if isinstance(value, str) else np.asarray(value).tobytes() for value in whole]


def assert_equals_naive(found, values, expected, allowed):
    """allowed: by how much a distance may be off, since their sums are kept in fixed point."""
    assert found.nodes == len(expected["edges"])
    assert found.nodes_counted == expected["nodes_counted"]
    assert values.edges.tolist() == expected["edges"]
    np.testing.assert_allclose(values.degree, expected["degree"], rtol=1e-9, atol=allowed)
    np.testing.assert_allclose(values.dimension, expected["dimension"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(values.r2, expected["r2"], rtol=1e-9)
    for name in MOMENTS:
        slack = allowed if name in ("mean", "std") else 1e-10
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=1e-9, atol=slack, err_msg=name)
    if math.isnan(expected["kurtosis"]):
        assert math.isnan(found.kurtosis)
    elif expected["std"] > 1e-6:
        relative = 1e-9 + 16 * allowed / expected["std"]
        np.testing.assert_allclose(found.kurtosis, expected["kurtosis"], rtol=relative)


@settings(max_examples=14)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(SHAPES),
    st.sampled_from(["F16", "BF16", "F32", "F64"]),
    st.sampled_from(TRANSFERS),
    st.sampled_from([10, 0, 3]),
    st.sampled_from([150.0, 37.5, 1000.0]),
)
def test_equals_the_naive_twin(tmp_path_factory, seed, shape, dtype, transfer, min_degree, max_distance):
    folder, stored = written(tmp_path_factory.mktemp("nodes") / "step0", drawn(seed, shape), dtype)
    bounds = {"transfer": transfer, "max_distance": max_distance}
    found = ninscope.measure(folder, exact=True, per_node=True, min_degree=min_degree, **bounds)
    names = layer_names(shape[0])
    assert [layer.layer for layer in found.layers] == names
    assert list(found.nodes_of) == names
    grid = naive_nodes.integer_grid(max_distance)
    for layer, weights in zip(found.layers, outgoing_weights(stored, shape), strict=True):
        nodes = [naive_nodes.bounded_edges(node, **bounds) for node in weights]
        expected = naive_nodes.layer(nodes, grid, min_degree)
        assert_equals_naive(layer, found.nodes_of[layer.layer], expected, max_distance * 2**-37)
    assert found.edges == sum(values.edges.sum() for values in found.nodes_of.values())


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["F16", "F32"]), st.sampled_from(["integer", "log"]))
def test_chosen_neurons_equal_the_naive_twin(tmp_path_factory, seed, dtype, kind):
    """Several networks in one pass, each of neurons of its own: here even q, k, v and c of a block differ."""
    shape, count, q = (2, 12, 3), 7, [-2.0, 0.0, 1.5]
    folder, stored = written(tmp_path_factory.mktemp("chosen") / "step0", drawn(seed, shape), dtype)
    radii = "integer" if kind == "integer" else {"log": count}
    network, parameters, grid_of_all = analysed(folder, min_degree=2, q=q, radii=radii, per_node=True)
    generator = np.random.default_rng(seed)
    networks = [
        {
            layer.name: np.sort(generator.choice(layer.size, generator.integers(1, layer.size + 1), replace=False))
            for layer in network.layers
        }
        for _ in range(2)
    ]
    pieces = [
        analyse_piece(network, parameters, grid_of_all, number, 3, choices=[*networks, None]) for number in range(3)
    ]
    last = "output.x"
    for at, chosen in enumerate([*networks, None]):
        found = combine([piece[at] for piece in pieces], network, parameters, grid_of_all, chosen)
        taken = chosen or {layer.name: np.arange(layer.size) for layer in network.layers}
        weights = outgoing_weights(
            stored, shape, lambda block, name, taken=taken: taken[f"block{block}.{name}" if block < 2 else last]
        )
        if kind == "integer":
            grid, allowed = naive_nodes.integer_grid(), 150 * 2**-37
            layers = [[naive_nodes.bounded_edges(node) for node in layer] for layer in weights]
        else:  # of the whole network, whatever was chosen
            every = [node for layer in outgoing_weights(stored, shape) for node in layer]
            grid = naive_nodes.logarithmic_grid(every, count)
            assume(naive_nodes.closest_call(every, grid) > 1e-9)
            allowed = 0.0
            layers = [[naive_nodes.logarithmic_edges(node, grid) for node in layer] for layer in weights]
        assert found.nodes == sum(numbers.size for numbers in taken.values())
        for layer, nodes in zip(found.layers, layers, strict=True):
            expected = naive_nodes.layer(nodes, grid, 2)
            if kind == "log":  # where nothing bounds a distance, and a mean would be that of the few longest
                expected |= {"degree": np.full(len(nodes), np.nan), "mean": np.nan, "std": np.nan, "kurtosis": np.nan}
            assert_equals_naive(layer, found.values[layer.layer], expected, allowed)
        expected = naive_nodes.spectrum([node for layer in layers for node in layer], grid, q, 2)
        assert (found.spectrum.nodes, found.spectrum.edges) == (expected["nodes"], expected["edges"])
        for name in ("tau", "alpha", "f"):
            np.testing.assert_allclose(getattr(found.spectrum, name), expected[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize(("weight", "dtype"), [(0.1, "F32"), (-1 / 3, "F64"), (0.007, "F16"), (-0.05, "BF16")])
def test_equal_weights_have_one_degree(tmp_path, weight, dtype, transfer):
    """All distances are f(|w|): so are all degrees, exactly alike, and one radius has no slope."""
    tensors = neox_tensors(1, 12, 3, seed=0, dtype=np.float64)
    for name in used_names(tensors):
        tensors[name][...] = weight
        tensors[name][::2] *= -1
    folder, stored = written(tmp_path / "step0", tensors, dtype)
    found = ninscope.measure(folder, exact=True, per_node=True, transfer=transfer)
    (distance,) = naive.distances_of(stored[DENSE][0, :1], transfer)
    for layer, edges in zip(found.layers, (36, 12, 48, 12), strict=True):
        values = found.nodes_of[layer.layer]
        assert (values.edges == edges).all()
        np.testing.assert_allclose(values.degree, distance, rtol=1e-9, atol=2**-31)
        assert layer.mean == pytest.approx(distance, rel=1e-9, abs=2**-31)
        assert layer.std == 0
        assert np.isnan(layer.kurtosis)
        assert np.isnan([values.dimension, values.r2]).all()
        assert np.isnan([layer.dimension_mean, layer.dimension_std, layer.r2_mass_mean, layer.r2_mass_std]).all()
    assert "share 1 radius" in found.message


@pytest.mark.parametrize("edges", [11, 13, 24, 49])
def test_nodes_that_are_alike_have_no_kurtosis(tmp_path, rng, edges):
    """Every node has the same distances in another order: whatever their mean, it does not vary by a rounding error."""
    tensors = neox_tensors(1, edges, 1, seed=0, dtype=np.float64)
    for name in used_names(tensors):
        rows, columns = tensors[name].shape
        one = rng.normal(0, 0.1, rows)
        tensors[name] = np.stack([rng.permutation(one) for _ in range(columns)], axis=1)
    folder, _ = written(tmp_path / "step0", tensors, "F64")
    found = ninscope.measure(folder, exact=True, per_node=True, min_degree=0)
    for layer in found.layers:
        assert len(set(found.nodes_of[layer.layer].degree.tolist())) == 1
        assert layer.std == 0
        assert np.isnan(layer.kurtosis)


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("deviation", [0.02, 0.3])
def test_a_gaussian_layers_degree_is_its_expected_distance(tmp_path, rng, transfer, deviation):
    """E[f(|w|)] of a normal w within the bounds, by numerical integration; a layer's mean has its standard error."""
    shape = (1, 80, 4)
    tensors = neox_tensors(*shape, seed=0, dtype=np.float64)
    for name in used_names(tensors):
        tensors[name] = rng.normal(0, deviation, tensors[name].shape)
    folder, _ = written(tmp_path / "step0", tensors, "F64")
    found = ninscope.measure(folder, exact=True, per_node=True, transfer=transfer)
    distance = {
        "reciprocal": lambda w: 1 / w,
        "coth": lambda w: 1 / math.tanh(w),
        "neg_log": lambda w: -math.log(w),
    }[transfer]

    def moment(power):
        def density(w):
            return distance(w) ** power * math.exp(-((w / deviation) ** 2) / 2)

        return quad(density, 1 / 150, min(1.0, 12 * deviation), limit=200, epsabs=0, epsrel=1e-10)[0]

    mean, variance = moment(1) / moment(0), moment(2) / moment(0) - (moment(1) / moment(0)) ** 2
    for layer in found.layers:
        edges = found.nodes_of[layer.layer].edges
        # A node's degree is the mean of its own edges: its variance is the distances' over their number.
        variances = variance / edges
        error = math.sqrt(variances.sum()) / edges.size
        assert abs(layer.mean - mean) < 5 * error
        assert layer.std == pytest.approx(math.sqrt(variances.mean()), rel=0.6)  # 80 nodes, heavy tails


def test_normal_degrees_have_the_kurtosis_of_a_normal_distribution(tmp_path, rng):
    """Every column holds one magnitude 1/g: its degree is g, and 9000 normal g have the moments of what was drawn."""
    nodes = 9000
    tensors = neox_tensors(1, 12, 3, seed=0, dtype=np.float64, intermediate=nodes)
    degrees = rng.normal(50, 5, nodes)
    tensors[DOWN] = rng.choice([-1, 1], (12, nodes)) / degrees
    folder, stored = written(tmp_path / "step0", tensors, "F64")
    found = ninscope.measure(folder, exact=True, per_node=True)
    (layer,) = (layer for layer in found.layers if layer.layer == "block0.m")
    np.testing.assert_allclose(found.nodes_of["block0.m"].degree, 1 / np.abs(stored[DOWN][0]), rtol=1e-10)
    deviations = degrees - degrees.mean()
    assert layer.mean == pytest.approx(degrees.mean(), rel=1e-9)
    assert layer.std == pytest.approx(math.sqrt((deviations**2).mean()), rel=1e-9)
    assert layer.kurtosis == pytest.approx((deviations**4).mean() / (deviations**2).mean() ** 2, rel=1e-8)
    # Standard errors of a normal sample's mean, deviation and kurtosis: s/sqrt(n), s/sqrt(2n), sqrt(24/n).
    assert abs(layer.mean - 50) < 5 * 5 / math.sqrt(nodes)
    assert abs(layer.std - 5) < 5 * 5 / math.sqrt(2 * nodes)
    assert abs(layer.kurtosis - 3) < 5 * math.sqrt(24 / nodes)


@pytest.mark.parametrize(
    ("weight", "transfer"), [(0.0, "coth"), (1.0, "neg_log"), (1e-3, "coth"), (-2.5, "reciprocal")]
)
@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_a_layer_without_edges_has_no_moments(tmp_path, weight, transfer, dtype):
    tensors = neox_tensors(1, 12, 3, seed=3)
    tensors[DENSE][...] = weight
    folder, _ = written(tmp_path / "step0", tensors, dtype)
    found = ninscope.measure(folder, exact=True, per_node=True, transfer=transfer)
    silent = found.layers[1]
    assert (silent.layer, silent.nodes, silent.nodes_counted) == ("block0.c", 12, 0)
    assert np.isnan([getattr(silent, name) for name in (*MOMENTS, "kurtosis")]).all()
    values = found.nodes_of["block0.c"]
    assert (values.edges == 0).all()
    assert np.isnan(values.degree).all()
    assert (values.dimension == 0).all()
    assert np.isnan(values.r2).all()
    assert "no node of block0.c has enough edges" in found.message
    assert not np.isnan([found.alpha0, found.layers[0].mean, found.layers[3].mean]).any()


def test_nodes_of_few_edges_have_a_degree_and_no_part_in_the_moments(tmp_path):
    """Ten edges are not more than min_degree: the values are there, the layer's moments are not."""
    tensors = neox_tensors(1, 10, 2, seed=3)
    folder, stored = written(tmp_path / "step0", tensors, "F16")
    found = ninscope.measure(folder, exact=True, per_node=True)
    values, layer = found.nodes_of["block0.c"], found.layers[1]
    nodes = [naive_nodes.bounded_edges(node) for node in stored[DENSE].T]
    np.testing.assert_allclose(values.degree, [naive_nodes.average_degree(node) for node in nodes], rtol=1e-9)
    assert layer.nodes_counted == 0
    assert np.isnan([layer.mean, layer.std, layer.kurtosis, layer.dimension_mean]).all()
    assert (values.dimension == 0).all()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same weights in two stored types."""
    tensors = drawn(11, (2, 24, 3))
    return {dtype: written(tmp_path_factory.mktemp(dtype) / "step0", tensors, dtype)[0] for dtype in ("F16", "F32")}


@pytest.fixture
def folder(folders):
    return folders["F32"]


@pytest.mark.parametrize(
    ("dtype", "given"),
    [("F16", {}), ("F32", {"transfer": "coth"}), ("F16", {"transfer": "neg_log"}), ("F32", {"radii": {"log": 40}})],
    ids=str,
)
def test_no_split_changes_a_bit(folders, monkeypatch, dtype, given):
    network, parameters, _ = analysed(folders[dtype], **given)
    reference = bits_of(exact_analysis(network, parameters))
    for band_bytes, workers in ((1, 5), (900, 1), (900, 2), (10**9, 5)):
        monkeypatch.setattr(bands, "BAND_BYTES", band_bytes)
        assert bits_of(exact_analysis(network, parameters, workers)) == reference


@pytest.mark.parametrize(
    ("dtype", "given", "band_bytes"),
    [
        ("F16", {}, 3000),
        ("F32", {"transfer": "neg_log"}, 10**9),
        ("F16", {"radii": {"log": 40}}, 10**9),
        ("F32", {"radii": {"log": 40}}, 900),
    ],
    ids=str,
)
def test_pieces_in_any_order_are_the_whole_to_the_last_bit(folders, monkeypatch, rng, dtype, given, band_bytes):
    monkeypatch.setattr(bands, "BAND_BYTES", band_bytes)
    network, parameters, radii = analysed(folders[dtype], **given)
    parts = outgoing(network)
    reference = bits_of(exact_analysis(network, parameters, 2))
    kinds = set()
    for count in (1, 3, 20):
        shared = [bands_of(parts, number, count) for number in range(count)]
        every = shared[0][0]
        assert [(band.part.layer, band.first, band.last) for _, piece in shared for band in piece] == [
            (band.part.layer, band.first, band.last) for band in every
        ]
        total, largest = sum(band.bytes for band in every), max(band.bytes for band in every)
        assert max(sum(band.bytes for band in piece) for _, piece in shared) < total / count + largest
        assert total == sum(np.prod(part.matrix.tensor.shape) * part.matrix.tensor.item_bytes for part in parts)
        pieces = [
            analyse_piece(network, parameters, radii, number, count, workers=1 + number % 2)[0]
            for number in range(count)
        ]
        kinds |= {type(part) for piece in pieces for part in piece.values()}
        for order in (range(count)[::-1], rng.permutation(count)):
            assert bits_of(combine([pieces[number] for number in order], network, parameters, radii)) == reference
    assert kinds == {LayerCounts, LayerResult}  # layers that were cut, and layers that were not


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_a_grid_from_pieces_is_the_whole_networks(folders, rng, dtype):
    network, _, radii = analysed(folders[dtype], radii={"log": 40})
    for count in (1, 7, 50):
        pieces = [magnitudes(network, number, count) for number in rng.permutation(count)]
        assert log_radii(40, np.concatenate(pieces)) == radii


def test_shards_and_mixed_types_are_the_same_network(tmp_path):
    """F16 values stored as F16, F32 and F64, tensor by tensor, in one file or three: every node's values agree."""
    tensors = drawn(5, (2, 12, 3))
    config = tensors.config
    half = {name: array.astype(np.float16) for name, array in tensors.items()}
    types = [np.float16, np.float32, np.float64]
    mixed = {name: array.astype(types[number % 3]) for number, (name, array) in enumerate(half.items())}
    first = ninscope.measure(write_checkpoint(tmp_path / "half", half, config), exact=True, per_node=True)
    for name, shards in (("one", 1), ("three", 3)):
        folder = write_checkpoint(tmp_path / name, mixed, config, shards=shards)
        again = ninscope.measure(folder, exact=True, per_node=True)
        assert again.layers == first.layers
        for layer, values in again.nodes_of.items():
            for value in VALUES:
                np.testing.assert_array_equal(getattr(values, value), getattr(first.nodes_of[layer], value))


def test_values_of_single_nodes_are_kept_where_asked_for(folder):
    plain = ninscope.measure(folder, exact=True)
    assert plain.nodes_of == {}
    assert [layer.nodes for layer in plain.layers] == [24, 24, 24, 96] * 2
    assert ninscope.measure(folder, per_node=True).layers == plain.layers
    assert ninscope.measure(folder, samples=1, nodes_per_layer=8).layers == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"exact": False}, "only the exact measurement knows single nodes; leave out per_node, or the sampling"),
        ({"samples": 2}, "only the exact measurement knows single nodes"),
        ({"nodes_per_layer": 8, "seed": 1}, "only the exact measurement knows single nodes"),
        ({"exact": True, "per_node": "yes"}, "per_node is 'yes'; true or false was expected"),
        ({"exact": True, "per_node": 1}, "per_node is 1; true or false was expected"),
    ],
)
def test_per_node_without_exact_is_refused(folder, given, message):
    with pytest.raises(RequestError, match=message):
        ninscope.measure(folder, **{"per_node": True, **given})
