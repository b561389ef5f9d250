"""A network read from its targets: every neuron has the edges that lead to it, as plain loops over the matrices find them."""

import naive
import naive_matrix
import numpy as np
import pytest
from family_configs import CONFIGS
from suites import neox_tensors, write_checkpoint

import ninscope
from ninscope.architectures import Reading, architecture_of
from ninscope.architectures.described import description_of
from ninscope.checkpoints.source import open_source
from ninscope.checkpoints.turned import turned
from ninscope.errors import CheckpointError, RequestError
from ninscope.exact import bands
from ninscope.exact.norms import matrix_norms
from ninscope.exact.whole import exact_analysis
from ninscope.multifractal.emergence import emergence
from ninscope.networks.incoming import directed
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.sampled import directed_sample, sampled_network
from ninscope.parameters import Parameters

pytestmark = pytest.mark.filterwarnings("error")

BLOCKS, WIDTH, HEADS, HIDDEN = 2, 16, 2, 24
Q = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
ASKED = {"min_degree": 3, "q": Q}
ORDERS = [
    ("linear", 1, (30, 24), "norm"),
    ("transposed", 1, (24, 30), "norm"),
    ("convolution", 6, (36, 4, 3, 2), "norm"),
    ("convolution", 6, (36, 4, 3, 2), "per_tap"),
    ("transposed_convolution", 3, (24, 12, 2, 2), "norm"),
    ("transposed_convolution", 3, (24, 12, 2, 2), "per_tap"),
]


@pytest.fixture(scope="module")
def neox(tmp_path_factory):
    tensors = neox_tensors(BLOCKS, WIDTH, HEADS, 5, dtype=np.float32, intermediate=HIDDEN)
    return write_checkpoint(tmp_path_factory.mktemp("in") / "step0", tensors), tensors


def arriving(tensors):
    """Distances of the edges that lead to each neuron of q, k and v, a, m and x of the next block, from naive's loops."""
    rows = naive.gpt_neox_edges(
        tensors, BLOCKS, WIDTH, HEADS, lambda block, name: range(HIDDEN if name == "m" else WIDTH)
    )
    found = []
    for layer in rows:
        matrix = np.array(layer)  # [source, targets]
        found += [naive.distances_of(matrix[:, target]) for target in range(matrix.shape[1])]
    return found


def check_spectrum(found, expected):
    assert found.samples[0].nodes == expected["nodes"]
    assert found.samples[0].edges == expected["edges"]
    np.testing.assert_allclose(found.tau, expected["tau"], rtol=1e-10, atol=1e-10)
    assert found.alpha0 == pytest.approx(expected["alpha0"], rel=1e-10)
    assert found.width == pytest.approx(expected["width"], rel=1e-10)


@pytest.mark.parametrize("sampling", [{}, {"nodes_per_layer": 100, "samples": 1}])
def test_equals_the_naive_spectrum_of_transposed_matrices(neox, sampling):
    folder, tensors = neox
    expected = naive.spectrum(arriving(tensors), Q, min_degree=3)
    found = ninscope.measure(folder, direction="in", **ASKED, **sampling)
    check_spectrum(found, expected)
    assert found.alpha0 != ninscope.measure(folder, **ASKED, **sampling).alpha0


def test_edges_of_all_source_layers_count_together(neox, tmp_path):
    """m of two towers lead to one x: described, with more than min_degree edges of both together alone."""
    rng = np.random.default_rng(3)
    tensors = {name: rng.normal(0, 0.2, (20, 12)).astype(np.float32) for name in ("one", "two")}
    folder = write_checkpoint(tmp_path / "step0", tensors, {"model_type": "mine"})
    blocks = [{"tensor": name, "source": f"{name}.m", "target": "out.x"} for name in tensors]
    found = ninscope.measure(folder, direction="in", min_degree=15, q=Q, architecture={"blocks": blocks})
    together = np.concatenate([tensors["one"], tensors["two"]], axis=1)
    check_spectrum(found, naive.spectrum([naive.distances_of(row) for row in together], Q, min_degree=15))
    assert found.samples[0].nodes > 10
    assert [layer.layer for layer in found.layers] == ["out.x"]


@pytest.mark.parametrize(("order", "groups", "shape", "kernels"), ORDERS)
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_tensors_of_every_order(tmp_path, monkeypatch, order, groups, shape, kernels, dtype):
    array = np.random.default_rng(0).normal(0, 0.1, shape).astype(dtype)
    folder = write_checkpoint(tmp_path / "step0", {"w": array}, {"model_type": "mine"})
    block = {"tensor": "w", "source": "in.x", "target": "out.x", "order": order, "groups": groups}
    asked = {"convolutions": kernels, "architecture": {"blocks": [block]}, "min_degree": 0, "q": Q}
    by_target: dict[int, list[float]] = {}
    for edges in naive_matrix.edges(array, order, groups, kernels):
        for target, weight in edges:
            by_target.setdefault(target, []).append(weight)
    distances = [naive.distances_of(np.array(by_target[target])) for target in sorted(by_target)]
    expected = naive.spectrum(distances, Q, min_degree=0)
    monkeypatch.setattr(bands, "BAND_BYTES", 300)
    check_spectrum(ninscope.measure(folder, direction="in", **asked), expected)


def degrees(sample, layer):
    """(edges that count, mean of their distances) of a layer's neurons, from the rows of a sample of all."""
    edges, means = [], []
    for row in sample.rows_of([layer]):
        weights = sample.matrix.data[sample.matrix.indptr[row] : sample.matrix.indptr[row + 1]]
        lengths = [1 / abs(weight) for weight in weights.astype(float).tolist() if 1 < 1 / abs(weight) <= 150]
        edges.append(len(lengths))
        means.append(np.mean(lengths) if lengths else np.nan)
    return edges, means


FAMILIES = ("gpt2", "phi3", "mixtral", "gpt_oss", "granitemoe", "deepseek_v3", "mamba2", "whisper", "resnet")


@pytest.mark.parametrize("family", FAMILIES)
def test_families_with_fused_matrices_experts_and_convolutions(tmp_path, family):
    """Counts of every target layer are those of the columns of the network that was sampled whole."""
    wiring = architecture_of(CONFIGS[family])
    rng = np.random.default_rng(1)
    shapes = {spec.tensor or name: spec.shape for name, spec in wiring.matrices.items()}
    tensors = {name: rng.normal(0, 0.2, shape).astype(np.float16) for name, shape in shapes.items()}
    folder = write_checkpoint(tmp_path / "step0", tensors, CONFIGS[family])
    network = neuron_network(open_source(folder).open("step0"))
    parameters = Parameters("all", per_node=True, min_degree=0, q=Q)
    found = exact_analysis(directed(network, "in"), parameters)
    sample = directed_sample(sampled_network(network, 10_000, 1, 0, 150.0), "in")
    assert set(found.values) == {block.target for block in network.blocks}
    assert found.edges == exact_analysis(network, parameters).edges
    for layer, nodes in found.values.items():
        edges, means = degrees(sample, layer)
        assert nodes.edges.tolist() == edges, layer
        np.testing.assert_allclose(nodes.degree, means, rtol=1e-9)


def test_no_split_changes_a_bit(neox, monkeypatch):
    folder, _ = neox
    reference = ninscope.measure(folder, direction="in", **ASKED)
    for band_bytes in (1, 500):
        monkeypatch.setattr(bands, "BAND_BYTES", band_bytes)
        found = ninscope.measure(folder, direction="in", **ASKED)
        assert found.tau.tobytes() == reference.tau.tobytes()
        assert found.edges == reference.edges


def test_twice_turned_is_what_it_was(neox):
    network = neuron_network(open_source(neox[0]).open("step0"))
    again = directed(directed(network, "in"), "in")
    for one, other in zip(again.blocks, network.blocks, strict=True):
        assert (one.source, one.target) == (other.source, other.target)
    parameters = Parameters("all", **ASKED)
    one, other = (exact_analysis(whole, parameters) for whole in (again, network))
    assert one.edges == other.edges
    assert one.spectrum.alpha0 == pytest.approx(other.spectrum.alpha0, rel=1e-12)
    assert directed(network, "out") is network


def test_parts_are_those_of_target_layers(neox):
    found = ninscope.measure(neox[0], direction="in", parts=["layer"], **ASKED)
    assert list(found.parts) == [f"layer/{name}" for name in (
        "block0.q", "block0.k", "block0.v", "block0.a", "block0.m", "block1.x",
        "block1.q", "block1.k", "block1.v", "block1.a", "block1.m", "output.x",
    )]  # fmt: skip


def test_the_two_directions_are_not_compared(neox):
    out, into = (ninscope.measure(neox[0], direction=direction, **ASKED) for direction in ("out", "in"))
    with pytest.raises(RequestError, match="direction is in and out"):
        emergence(into, out)


def test_a_number_that_is_not_finite_is_found(tmp_path):
    tensors = neox_tensors(1, WIDTH, HEADS, 5, dtype=np.float32)
    tensors["gpt_neox.layers.0.attention.query_key_value.weight"][20, 3] = np.nan
    folder = write_checkpoint(tmp_path / "step0", tensors)
    match = r"query_key_value.weight \(rows of block0.v\) holds NaN or infinity, first at row 4, column 3"
    with pytest.raises(CheckpointError, match=match):
        ninscope.measure(folder, direction="in")


def test_wrong_directions(neox):
    with pytest.raises(RequestError, match="direction is 'up'; one of out, in was expected"):
        ninscope.measure(neox[0], direction="up")
    array = np.zeros((12, 2, 3), np.float32)
    folder = write_checkpoint(neox[0].parent / "grouped", {"w": array}, {"model_type": "mine"})
    block = {"tensor": "w", "source": "a.x", "target": "b.x", "order": "convolution", "groups": 6}
    network = neuron_network(
        open_source(folder).open("grouped"), Reading(description=description_of({"blocks": [block]}))
    )
    with pytest.raises(ValueError, match="w: some rows of a grouped convolution have no layout of their own"):
        turned(network.matrices["w"], np.arange(6), "part")


# --- norms, which null models need of either side -------------------------------------------------------------
@pytest.mark.parametrize(("order", "groups", "shape", "kernels"), ORDERS)
@pytest.mark.parametrize("direction", ["out", "in"])
def test_norms_are_those_of_the_matrix(tmp_path, monkeypatch, order, groups, shape, kernels, direction):
    array = np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float16)
    folder = write_checkpoint(tmp_path / "step0", {"w": array}, {"model_type": "mine"})
    block = {"tensor": "w", "source": "in.x", "target": "out.x", "order": order, "groups": groups}
    reading = Reading(convolutions=kernels, description=description_of({"blocks": [block]}))
    network = directed(neuron_network(open_source(folder).open("step0"), reading), direction)
    monkeypatch.setattr(bands, "BAND_BYTES", 300)
    (found,) = matrix_norms(network).values()
    squares: dict[tuple[str, int], float] = {}
    for node, edges in enumerate(naive_matrix.edges(array, order, groups, kernels)):
        for target, weight in edges:
            for key in (("node", node), ("target", target)):
                squares[key] = squares.get(key, 0.0) + weight**2
    sides = {side: [np.sqrt(squares[key]) for key in sorted(squares) if key[0] == side] for side in ("node", "target")}
    columns, rows = (found.columns, found.rows) if direction == "out" else (found.rows, found.columns)
    np.testing.assert_allclose(columns, sides["node"], rtol=1e-12)
    np.testing.assert_allclose(rows, sides["target"], rtol=1e-12)
    assert len(found.groups()) == groups


def test_norms_of_fused_matrices_are_of_each_part(neox):
    folder, tensors = neox
    found = matrix_norms(neuron_network(open_source(folder).open("step0")))
    fused = tensors["gpt_neox.layers.1.attention.query_key_value.weight"].astype(float).reshape(HEADS, 3, -1, WIDTH)
    for part, name in enumerate("qkv"):
        own = fused[:, part].reshape(WIDTH, WIDTH)
        np.testing.assert_allclose(
            found[f"block1.x -> block1.{name}"].columns, np.sqrt((own**2).sum(axis=0)), rtol=1e-12
        )
        np.testing.assert_allclose(found[f"block1.x -> block1.{name}"].rows, np.sqrt((own**2).sum(axis=1)), rtol=1e-12)


def test_weights_without_norms_are_refused(tmp_path):
    for value, dtype, match in (
        (np.inf, np.float32, "holds NaN or infinity"),
        (1e200, np.float64, "too large for a norm"),
    ):
        tensors = neox_tensors(1, WIDTH, HEADS, 5, dtype=dtype)
        tensors["gpt_neox.layers.0.attention.dense.weight"][2, 3] = value
        folder = write_checkpoint(tmp_path / np.dtype(dtype).name / "step0", tensors)
        with pytest.raises(CheckpointError, match=match):
            matrix_norms(neuron_network(open_source(folder).open("step0")))
