"""Distances across layers against Dijkstra's algorithm: a plain one, igraph's and scipy's, on the same graph."""

import math
from dataclasses import replace

import igraph
import numpy as np
import pytest
from naive import distances_of
from path_oracle import numbered, plain_distances, states
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from suites import neox_tensors, write_checkpoint

from ninscope.architectures import Reading
from ninscope.architectures.layout import Link, NodeLayer
from ninscope.checkpoints.source import open_source
from ninscope.errors import RequestError
from ninscope.multifractal.boxes import box_histogram
from ninscope.multifractal.spectrum import default_q, spectrum_of_counts
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.radii import IntegerRadii, LogRadii
from ninscope.networks.sampled import SampledNetwork, sampled_network
from ninscope.networks.shortest_paths import path_distances, path_histograms, path_radii, sampled_links

BLOCKS, WIDTH = 2, 12


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    tensors = neox_tensors(BLOCKS, WIDTH, 3, 5, intermediate=20)
    source = open_source(write_checkpoint(tmp_path_factory.mktemp("paths") / "step0", tensors))
    return source.open(source.revisions()[0])


def sampled(checkpoint, wiring="chain", nodes=7, samples=2, seed=0):
    return sampled_network(neuron_network(checkpoint, Reading(wiring=wiring)), nodes, samples, seed, 150.0)


def invented(seed: int) -> SampledNetwork:
    """A network as families may make them: several targets a layer, blocks that skip, links into the middle of a layer,
    parallel edges, neurons without edges, weights out of bounds.
    """
    rng = np.random.default_rng(seed)
    whole = 4 + 2 * np.arange(7)  # links lead to layers that hold more
    names = [f"layer{number}" for number in range(7)]
    layers = tuple(NodeLayer(name, int(size), name) for name, size in zip(names, whole, strict=True))
    pairs = sorted({(int(a), int(a + rng.integers(1, 4))) for a in rng.integers(0, 6, 14)})
    pairs = [(a, b) for a, b in pairs if b < 7]
    joined = [(0, 1, 0), (1, 3, 0), (2, 3, 2), (3, 5, 1), (4, 6, 0)]
    links = tuple(Link(names[a], names[b], first, skip=a == 3) for a, b, first in joined)
    links += tuple(
        Link("layer1", "layer4", part=part, parts=2, group=3) for part in (0, 1)
    )  # as in grouped-query attention
    sizes = np.minimum(whole, 7)
    neurons = np.concatenate([np.sort(rng.permutation(n)[:size]) for n, size in zip(whole, sizes, strict=True)])
    starts = np.cumsum(sizes) - sizes
    rows = [[] for _ in range(sizes.sum())]
    for a, b in pairs:
        for i in range(sizes[a]):
            for j in range(sizes[b]):
                for _ in range(rng.integers(0, 3)):
                    weight = rng.choice([1.5, 0.001, rng.normal(0, 0.1), rng.normal(0, 0.1)])
                    if abs(weight) >= 1 / 150:
                        rows[starts[a] + i].append((starts[b] + j, weight))
    rows[starts[0]] = []
    indptr = np.cumsum([0, *map(len, rows)])
    columns = np.array([column for row in rows for column, _ in row], np.int32)
    weights = np.array([weight for row in rows for _, weight in row])
    matrix = csr_matrix((weights, columns, indptr), shape=(len(rows), len(rows)))
    sources = tuple(names[a] for a in sorted({a for a, _ in pairs}))
    return SampledNetwork(matrix, layers, sizes, neurons[None], sources, links)


def plain_graph(network, sample, transfer="reciprocal", skips=True):
    """(edges, links) between the sample's nodes, edge by edge and pair by pair."""
    edges = []
    for row in range(network.nodes):
        start, stop = network.matrix.indptr[sample * network.nodes + row : sample * network.nodes + row + 2]
        for place in range(start, stop):
            weight = float(network.matrix.data[place])
            if abs(weight) < 1 and 1 < 1 / abs(weight) <= 150:
                column = int(network.matrix.indices[place]) - sample * network.nodes
                edges.append((row, column, float(distances_of(np.array([weight]), transfer)[0])))
    layer_of = np.repeat(network.layer_names, network.layer_sizes)
    node = {
        (layer, neuron): row for row, (layer, neuron) in enumerate(zip(layer_of, network.neurons[sample], strict=True))
    }
    links = []
    for (layer, neuron), row in node.items():
        for link in network.links:
            if link.source == layer and (skips or not link.skip):
                # Which neuron it is: as many consecutive ones as a group, of groups that stand `parts` apart.
                group, within = divmod(neuron, link.group)
                partner = (link.target, link.first + (group * link.parts + link.part) * link.group + within)
                if partner in node:
                    links.append((row, node[partner]))
    return edges, links


def as_matrix(network, found) -> np.ndarray:
    """path_distances as one matrix of all nodes."""
    ends = dict(zip(network.layer_names, np.cumsum(network.layer_sizes), strict=True))
    sizes = dict(zip(network.layer_names, network.layer_sizes, strict=True))
    whole = np.full((network.nodes, network.nodes), np.inf)
    for (source, target), part in found.items():
        assert part.shape == (sizes[source], sizes[target])
        whole[ends[source] - sizes[source] : ends[source], ends[target] - sizes[target] : ends[target]] = part
    return whole


def by_libraries(edges, links, k, nodes):
    """The same distances by igraph and by scipy, [nodes, nodes] each."""
    found = {name: np.full((nodes, nodes), np.inf) for name in ("igraph", "scipy")}
    for source in range(nodes):
        graph = states(edges, links, k, source)
        number, steps = numbered(graph)
        here = number[(source, 0, False)]
        if not steps:
            continue
        starts, ends, lengths = (list(column) for column in zip(*steps, strict=True))
        of_igraph = igraph.Graph(len(number), list(zip(starts, ends, strict=True)), directed=True)
        tiny = np.maximum(
            lengths, 1e-300
        )  # scipy adds parallel edges up and may take 0 for none: the shortest, and not 0
        shortest = {}
        for start, end, length in zip(starts, ends, tiny, strict=True):
            shortest[start, end] = min(length, shortest.get((start, end), math.inf))
        rows, columns = zip(*shortest, strict=True)
        of_scipy = csr_matrix((list(shortest.values()), (rows, columns)), shape=(len(number),) * 2)
        reached = {"igraph": of_igraph.distances(here, weights=lengths)[0], "scipy": dijkstra(of_scipy, indices=here)}
        for name, values in reached.items():
            for (node, walked, linked), place in number.items():
                if walked and not linked:
                    found[name][source, node] = min(found[name][source, node], values[place])
    return found


def compare(network, sample, k, skips):
    found = as_matrix(network, path_distances(network, sample, k, skips=skips))
    edges, links = plain_graph(network, sample, skips=skips)
    plain = np.full_like(found, np.inf)
    for source in range(network.nodes):
        for node, length in plain_distances(edges, links, k, source).items():
            plain[source, node] = length
    np.testing.assert_allclose(found, plain, rtol=1e-12)
    for other in by_libraries(edges, links, k, network.nodes).values():
        np.testing.assert_allclose(found, other, rtol=1e-12)
    return np.isfinite(found).sum(), len(links)


@pytest.mark.parametrize(
    ("wiring", "k", "seed", "sample"),
    [("chain", 1, 0, 0), ("parallel", 2, 3, 0), ("chain", 2, 0, 1), ("parallel", 3, 0, 1)],
)
def test_gpt_neox_equals_dijkstra(checkpoint, wiring, k, seed, sample):
    network = sampled(checkpoint, wiring, seed=seed)
    reached, links = compare(network, sample, k, skips=False)
    assert reached > 200 * k
    assert links == BLOCKS * 7  # v to c
    further, more = compare(network, sample, k, skips=True)
    assert more > links
    assert further > reached or k == 1


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_any_wiring_equals_dijkstra(k):
    linked = 0
    for seed in range(6):
        _, links = compare(invented(seed), 0, k, skips=seed % 2 == 0)
        linked += links
    assert linked > 20


@pytest.mark.parametrize("wiring", ["chain", "parallel"])
def test_without_links_the_layers_bound_paths_by_themselves(checkpoint, wiring):
    """Then all paths to a layer cross as many blocks, or k suffices for all, and plain shortest paths are the answer."""
    network = sampled(checkpoint, wiring, nodes=WIDTH)
    bare = replace(network, links=())
    edges, _ = plain_graph(bare, 0)
    graph = igraph.Graph(network.nodes, [edge[:2] for edge in edges], directed=True)
    whole = np.array(graph.distances(weights=[edge[2] for edge in edges]))
    whole[np.diag_indices(network.nodes)] = np.inf
    found = as_matrix(network, path_distances(bare, 0, 4 * BLOCKS))
    np.testing.assert_allclose(found, whole, rtol=1e-12)
    assert np.isfinite(whole).sum() > len(edges)


def layers_reached(network, k, skips=False):
    reached = {}
    for source, target in path_distances(network, 0, k, skips=skips):
        reached.setdefault(source, []).append(target)
    return reached


def test_what_is_reached_across_two_layers(checkpoint):
    """x reaches q, k and v, and through v and c, a; with skip connections the residual stream leads on to later blocks."""
    network = sampled(checkpoint, nodes=WIDTH)
    reached = layers_reached(network, 2)
    assert reached["block0.x"] == ["block0.q", "block0.k", "block0.v", "block0.a"]
    assert reached["block0.c"] == ["block0.a", "block0.m"]
    assert reached["block0.a"] == ["block0.m", "block1.x"]
    assert reached["block0.m"] == ["block1.x", "block1.q", "block1.k", "block1.v"]
    assert reached["block1.m"] == ["output.x"]
    reached = layers_reached(network, 2, skips=True)
    assert reached["block0.x"] == ["block0.q", "block0.k", "block0.v", "block0.a"]
    assert reached["block0.c"] == ["block0.a", "block0.m", "block1.q", "block1.k", "block1.v"]  # a is added to x
    network = sampled(checkpoint, "parallel", nodes=WIDTH)
    assert layers_reached(network, 2)["block0.x"] == [
        "block0.q",
        "block0.k",
        "block0.v",
        "block0.a",
        "block0.m",
        "block1.x",
    ]


def test_links_join_sampled_neurons_only(checkpoint):
    network = sampled(checkpoint, nodes=5, samples=1)
    links = {(source, target): (here, there) for source, target, here, there in sampled_links(network, 0)}
    assert ("block0.x", "block1.x") not in {link[:2] for link in sampled_links(network, 0, skips=False)}
    here, there = links["block0.v", "block0.c"]  # of one sample group, so all of them
    assert here.tolist() == there.tolist() == list(range(5))
    assert 0 < links["block0.x", "block1.x"][0].size < 5


@pytest.mark.parametrize("transfer", ["reciprocal", "coth", "neg_log"])
@pytest.mark.parametrize("max_distance", [150.0, 20.6])
def test_one_layer_is_the_single_layer_result(checkpoint, transfer, max_distance):
    network = sampled(checkpoint, nodes=WIDTH)
    radii = IntegerRadii(transfer, max_distance)
    for sample, found in enumerate(path_histograms(network, 1, radii)):
        indptr, part = network.row_pointer(sample)
        expected = box_histogram(indptr, radii.bins(network.matrix.data[part]), radii.count)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.int32
    np.testing.assert_array_equal(path_radii(radii, 1), radii.logarithms)
    # And by the road that longer paths take.
    lengths = as_matrix(network, path_distances(network, 0, 1, radii))
    counts = np.zeros((network.nodes, radii.count + 1), np.int64)
    step = math.log(max_distance) / radii.count if transfer == "neg_log" else 1.0
    for row, column in zip(*np.nonzero(np.isfinite(lengths)), strict=True):
        counts[row, min(round(lengths[row, column] / step), radii.count)] += 1
    np.testing.assert_array_equal(counts, next(path_histograms(network, 1, radii)))


def test_one_layer_counts_parallel_edges_as_the_single_layer_analysis():
    network = invented(1)
    indptr, part = network.row_pointer(0)
    expected = box_histogram(indptr, IntegerRadii().bins(network.matrix.data[part]), 150)
    np.testing.assert_array_equal(next(path_histograms(network, 1)), expected)
    assert expected.sum() > np.isfinite(as_matrix(network, path_distances(network, 0, 1))).sum()


@pytest.mark.parametrize("transfer", ["reciprocal", "coth", "neg_log"])
def test_histograms_count_rounded_distances(checkpoint, transfer):
    network = sampled(checkpoint)
    radii = IntegerRadii(transfer)
    step = math.log(150) / 150 if transfer == "neg_log" else 1.0
    for sample, found in enumerate(path_histograms(network, 3, radii, threads=2)):
        assert found.shape == (network.nodes, 3 * 150 + 1)
        edges, links = plain_graph(network, sample, transfer, skips=False)
        for node in range(network.nodes):
            expected = np.zeros(451, int)
            for length in plain_distances(edges, links, 3, node).values():
                expected[min(round(length / step), 450)] += 1
            assert found[node].tolist() == expected.tolist()


def test_a_spectrum_comes_of_it(checkpoint):
    network = sampled(checkpoint, nodes=WIDTH)
    widths = []
    for k in (1, 2, 3):
        counts = next(path_histograms(network, k))
        spectrum = spectrum_of_counts(counts, 5, default_q(), path_radii(IntegerRadii(), k))
        assert math.isfinite(spectrum.alpha0)
        assert spectrum.edges == counts[counts.sum(axis=1) > 5].sum()
        widths.append(spectrum.width)
    assert len(set(widths)) == 3


def test_threads_change_nothing(checkpoint):
    network = sampled(checkpoint)
    for budget in (None, 2):
        alone = path_distances(network, 1, 3, budget=budget)
        together = path_distances(network, 1, 3, budget=budget, threads=3)
        assert list(alone) == list(together)
        assert all((alone[pair] == together[pair]).all() for pair in alone)


@pytest.mark.parametrize("k", [2, 3])
def test_estimates_are_never_below_the_exact_and_come_near(checkpoint, k):
    network = sampled(checkpoint, nodes=WIDTH)
    exact = as_matrix(network, path_distances(network, 0, k))
    above = []
    for budget in (1, 4, 20):
        found = as_matrix(network, path_distances(network, 0, k, budget=budget, seed=2))
        assert (found >= exact).all()
        both = np.isfinite(found) & np.isfinite(exact)
        above.append((found[both] - exact[both]).mean())
    assert above[0] > above[1] > above[2] == 0
    np.testing.assert_array_equal(found, exact)
    one = as_matrix(network, path_distances(network, 0, k, budget=1, seed=2))
    other = as_matrix(network, path_distances(network, 0, k, budget=1, seed=3))
    again = as_matrix(network, path_distances(network, 0, k, budget=1, seed=2))
    assert (one == again).all()
    assert (one != other).any()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"k": 0}, "k is 0; an integer from 1 to 1000, the number of layers"),
        ({"k": True}, "k is True"),
        ({"k": 2, "budget": 0}, "budget is 0; a positive number"),
        ({"k": 2, "seed": -1}, "seed is -1"),
        ({"k": 2, "sample": 2}, "sample is 2; the network has samples 0 to 1"),
        ({"k": 2, "radii": LogRadii(5, 0.1, 0.2)}, 'go with radii "integer"'),
    ],
)
def test_wrong_requests_say_so(checkpoint, asked, message):
    network = sampled(checkpoint)
    with pytest.raises(RequestError, match=message):
        path_distances(network, **({"sample": 0} | asked))


def test_too_many_distances_are_refused(checkpoint, monkeypatch):
    monkeypatch.setattr("ninscope.networks.shortest_paths.MAX_PATHS", 100)
    with pytest.raises(RequestError, match="more than 1e\\+02; take fewer neurons, or path_histograms"):
        path_distances(sampled(checkpoint), 0, 2)
