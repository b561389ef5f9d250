"""ninscope.network: the same neurons and weights as the checkpoint holds, in scipy, networkx, igraph and pandas alike."""

import math
import subprocess
import sys
import time
from dataclasses import replace

import naive
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from suites import neox_tensors, write_checkpoint, write_suite

import ninscope
from ninscope.errors import CheckpointError, RequestError
from ninscope.networks.radii import IntegerRadii

BLOCKS, WIDTH, HEADS, HIDDEN = 2, 24, 3, 40


@pytest.fixture(scope="module")
def tensors():
    return neox_tensors(BLOCKS, WIDTH, HEADS, 4, intermediate=HIDDEN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tensors):
    return write_checkpoint(tmp_path_factory.mktemp("graph") / "step0", tensors)


def expected_edges(tensors, network, max_distance=150.0):
    """{(source layer, neuron, target layer, neuron): weight} of the counted edges among the network's own neurons."""
    of_layer = {name: rows["neuron"].tolist() for name, rows in network.nodes.groupby("layer", sort=False)}

    def layer(block, part):
        return "output.x" if block == BLOCKS else f"block{block}.{part}"

    edges = iter(naive.gpt_neox_edges(tensors, BLOCKS, WIDTH, HEADS, lambda block, part: of_layer[layer(block, part)]))
    found = {}
    for block in range(BLOCKS):
        for part, targets in (("x", "qkv"), ("c", "a"), ("a", "m"), ("m", None)):
            ends = [layer(block + 1, "x")] if targets is None else [layer(block, target) for target in targets]
            places = [(end, neuron) for end in ends for neuron in of_layer[end]]
            for neuron, weights in zip(of_layer[layer(block, part)], next(edges), strict=True):
                for (end, other), weight in zip(places, weights, strict=True):
                    if abs(weight) < 1 and weight and 1 < 1 / abs(weight) <= max_distance:
                        found[layer(block, part), neuron, end, other] = weight
    return found


def named(network, source, target):
    layers, neurons = network.node_layers, network.neurons
    return layers[source], int(neurons[source]), layers[target], int(neurons[target])


@pytest.mark.parametrize("asked", [{"nodes_per_layer": 9, "sample": 2, "seed": 5}, {"nodes_per_layer": "all"}])
def test_edges_are_the_checkpoints(folder, tensors, asked):
    network = ninscope.network(folder, max_distance=60.0, **asked)
    edges = network.edges
    assert list(edges.columns) == ["source", "target", "weight", "distance"]
    found = {named(network, row.source, row.target): row.weight for row in edges.itertuples()}
    assert found == expected_edges(tensors, network, 60.0)
    assert len(found) == len(edges) == network.edge_count > 300
    np.testing.assert_array_equal(edges["distance"], 1 / edges["weight"].abs())


def test_all_exports_are_the_same_graph(folder):
    network = ninscope.network(folder, nodes_per_layer=8, transfer="coth")
    edges = network.edges
    expected = {(row.source, row.target): (row.weight, row.distance) for row in edges.itertuples()}
    weights, distances = network.to_scipy(), network.to_scipy("distance")
    rows, columns = weights.nonzero()
    assert {
        (row, column): (weights[row, column], distances[row, column]) for row, column in zip(rows, columns, strict=True)
    } == expected

    graph = network.to_networkx()
    assert type(graph).__name__ == "DiGraph"
    assert {(a, b): (data["weight"], data["distance"]) for a, b, data in graph.edges(data=True)} == expected
    other = network.to_igraph()
    assert other.is_directed()
    assert {edge.tuple: (edge["weight"], edge["distance"]) for edge in other.es} == expected
    for node, row in enumerate(network.nodes.itertuples()):
        assert graph.nodes[node] == {"layer": row.layer, "neuron": row.neuron}
        assert other.vs[node].attributes() == {"layer": row.layer, "neuron": row.neuron}
        assert graph.out_degree(node) == other.outdegree(node) == row.edges
    assert graph.number_of_nodes() == other.vcount() == network.node_count == len(network.nodes)
    assert expected[next(iter(expected))][1] == pytest.approx(1 / math.tanh(abs(expected[next(iter(expected))][0])))


def test_nodes_by_hand(folder):
    network = ninscope.network(folder, nodes_per_layer=20, max_distance=60.0)
    nodes, edges = network.nodes, network.edges
    assert list(nodes.columns) == ["layer", "neuron", "edges", "strength", "average_weighted_degree", "dimension"]
    for row in nodes.itertuples():
        own = edges[edges["source"] == row.Index]
        assert row.edges == len(own)
        assert row.strength == pytest.approx(own["weight"].abs().sum(), rel=1e-12)
        if len(own):
            assert row.average_weighted_degree == pytest.approx(own["distance"].mean(), rel=1e-12)
        else:
            assert math.isnan(row.average_weighted_degree)
        dimension, _ = naive.node_dimension(own["distance"].to_numpy(), 60.0)
        assert row.dimension == pytest.approx(dimension, rel=1e-9, nan_ok=True)
    rows = [edges["distance"].to_numpy()[edges["source"] == node] for node in nodes.index]
    np.testing.assert_allclose(ninscope.node_fractal_dimensions(rows, 60.0), nodes["dimension"], rtol=1e-12)
    assert (nodes["dimension"] > 0).sum() > 50


def test_the_whole_network_has_the_exact_analysis_s_nodes(folder):
    nodes = ninscope.network(folder, nodes_per_layer="all").nodes
    exact = ninscope.measure(folder, exact=True, per_node=True)
    for layer, values in exact.nodes_of.items():
        ours = nodes[nodes["layer"] == layer]
        np.testing.assert_array_equal(ours["edges"], values.edges)
        np.testing.assert_allclose(ours["average_weighted_degree"], values.degree, rtol=1e-9)
        np.testing.assert_allclose(ours["dimension"], values.dimension, rtol=1e-12)
    assert set(nodes.loc[nodes["edges"] > 0, "layer"]) == set(exact.nodes_of)


def test_samples_are_those_of_measure(folder):
    measured = ninscope.measure(folder, nodes_per_layer=9, samples=3, seed=5)
    for sample in range(3):
        network = ninscope.network(folder, nodes_per_layer=9, sample=sample, seed=5)
        assert network.edge_count == measured.sample_edges[sample]
        assert network.node_count == measured.nodes


def test_links_join_the_same_neuron(folder):
    network = ninscope.network(folder, nodes_per_layer="all")
    pairs = [named(network, source, target) for source, target in network.links]
    assert all(pair[1] == pair[3] for pair in pairs)
    joined = pd.Series([(pair[0], pair[2]) for pair in pairs]).value_counts()
    assert joined["block0.v", "block0.c"] == joined["block1.x", "output.x"] == joined["block0.a", "block1.x"] == WIDTH
    assert len(joined) == 3 * BLOCKS


def test_wirings(folder):
    chain, parallel = (ninscope.network(folder, nodes_per_layer=8, wiring=wiring) for wiring in ("chain", "parallel"))
    degrees = {name: network.nodes.groupby("layer")["edges"].sum() for name, network in
               (("chain", chain), ("parallel", parallel))}  # fmt: skip
    assert degrees["chain"]["block0.a"] > 0 == degrees["parallel"]["block0.a"]
    assert degrees["parallel"]["block0.x"] > degrees["chain"]["block0.x"]


def test_parallel_edges_make_a_multigraph(folder):
    network = ninscope.network(folder, nodes_per_layer=4)
    taps = csr_matrix((np.array([0.1, 0.2, 0.3]), np.array([5, 5, 6]), np.r_[0, 2, 3, [3] * (network.node_count - 2)]))
    taps.resize((network.node_count, network.node_count))
    several = replace(network, weights=taps)
    assert several.parallel
    graph = several.to_networkx()
    assert type(graph).__name__ == "MultiDiGraph"
    assert sorted(data["weight"] for data in graph.get_edge_data(0, 5).values()) == [0.1, 0.2]
    assert several.to_igraph().ecount() == several.to_scipy().nnz == len(several.edges) == 3
    assert several.nodes["edges"].tolist()[:2] == [2, 1]


def test_of_links_there_need_be_none():
    one = csr_matrix(([0.5], ([0], [1])), shape=(2, 2))
    sizes, neurons = np.array([1, 1]), np.zeros(2, np.int64)
    assert ninscope.Network(one, ("a", "b"), sizes, neurons, np.ones(2), IntegerRadii()).links.shape == (0, 2)


def test_exporting_is_quick(rng):
    """The limit is 0.3 s for 100,000 edges; on a machine at work with other things as well, 1."""
    nodes, each = 1000, 100
    columns = np.concatenate([np.sort(rng.permutation(nodes)[:each]) for _ in range(nodes)])
    weights = csr_matrix((rng.normal(0, 0.1, nodes * each), columns, np.arange(nodes + 1) * each))
    network = ninscope.Network(
        weights,
        ("a",),
        np.array([nodes]),
        np.arange(nodes),
        np.zeros(nodes),
        IntegerRadii(),
    )
    network.to_igraph()
    start = time.perf_counter()
    assert network.to_igraph().ecount() == 100_000
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"nodes_per_layer": 0}, "nodes_per_layer is 0"),
        ({"sample": -1}, "sample is -1; an integer from 0"),
        ({"nodes_per_layer": "all", "sample": 1}, "takes every neuron; leave out sample and seed"),
        ({"transfer": "sin"}, "transfer is 'sin'"),
        ({"max_distance": 1}, "max_distance is 1"),
        ({"wiring": "loop"}, "wiring is 'loop'; one of chain, parallel"),
        ({"convolutions": "sum"}, "convolutions is 'sum'"),
        ({"min_degree": -3}, "min_degree is -3"),
    ],
)
def test_wrong_requests_say_so(folder, asked, message):
    with pytest.raises(RequestError, match=message):
        ninscope.network(folder, **asked)


def test_too_large_several_revisions_broken(folder, tmp_path, monkeypatch):
    suite = write_suite(tmp_path / "suite", [0, 1], blocks=1, width=12, heads=3)
    with pytest.raises(RequestError, match=r"has 2 revisions \(step0 \.\.\. step1\); name one with revision="):
        ninscope.network(suite)
    assert ninscope.network(suite, "step1").node_count > 0
    with pytest.raises(CheckpointError, match="step9"):
        ninscope.network(suite, "step9")
    with pytest.raises(RequestError, match="values is 'length'; one of weight, distance"):
        ninscope.network(suite, "step1").to_scipy("length")
    monkeypatch.setattr("ninscope.exporting.MAX_EDGES", 1000)
    with pytest.raises(RequestError, match="more than 1e\\+03; take nodes_per_layer=64"):
        ninscope.network(folder, nodes_per_layer="all")
    with pytest.raises(RequestError, match="more than 1e\\+03; take fewer nodes_per_layer"):
        ninscope.network(folder, nodes_per_layer=20)


@pytest.mark.slow
def test_heavy_libraries_are_loaded_only_where_they_are_used():
    """Measuring needs none of them, and a graph of one library not the other."""
    heavy = (
        "pandas",
        "matplotlib",
        "scipy.sparse",
        "networkx",
        "igraph",
        "huggingface_hub",
        "requests",
        "torch",
        "dask",
    )
    code = (
        "import sys, ninscope.measuring\n"
        f"assert not [name for name in {heavy} if name in sys.modules]\n"
        "import ninscope.networks.graph\n"
        "assert not [name for name in ('networkx', 'igraph') if name in sys.modules]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
