"""Distances across layers against networkx, and the export of a network to igraph."""

import time
from pathlib import Path

import numpy as np

import ninscope
from benchmarks.measures import timed
from benchmarks.shapes import write_checkpoint
from ninscope.checkpoints.source import open_source
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.sampled import sampled_network
from ninscope.networks.shortest_paths import layer_rows, path_distances, path_histograms, sampled_links

_K = 3
_NODES_PER_LAYER = 128


def paths(folder: Path, shape: str, runs: int, sources: int):
    """Exact distances across three layers, in one thread, of a sample of 128 neurons a layer; networkx on the same graph."""
    checkpoint = open_source(write_checkpoint(folder / f"paths-{shape}", shape)).open(f"paths-{shape}")
    network = sampled_network(neuron_network(checkpoint), _NODES_PER_LAYER, 1, 0, 150.0)
    exact = timed(lambda: path_distances(network, 0, _K), runs)
    counts = timed(lambda: next(path_histograms(network, _K)), runs)
    name = f"distances across 3 layers, {shape} shape, 128 a layer"
    yield name, exact.median * 1e3, "ms", "wanted: under 500 ms", exact.median / 0.5
    yield "", counts.median * 1e3, "ms", "(counted by radius instead of kept)", None
    each, nodes = _networkx_seconds(network, sources)
    beside = f"networkx {each * nodes:.0f} s ({each * 1e3:.0f} ms a node, timed on {sources} of {nodes}, scaled)"
    yield "", exact.median * 1e3, "ms", beside, exact.median / (each * nodes)
    estimate = timed(lambda: path_distances(network, 0, 2, budget=1), max(runs // 5, 1))
    pair = timed(lambda: path_distances(network, 0, 2), runs)
    beside = f"exact {pair.median * 1e3:.0f} ms"
    yield "across 2, estimate with a budget of 1", estimate.median * 1e3, "ms", beside, estimate.median / pair.median


def export(folder: Path, shape: str, nodes_per_layer: int, runs: int):
    """A sampled network as an igraph graph."""
    network = ninscope.network(str(write_checkpoint(folder / f"paths-{shape}", shape)), nodes_per_layer=nodes_per_layer)
    found = timed(network.to_igraph, runs)
    per_100_000 = found.median * 1e5 / network.edge_count
    name = f"to igraph, {network.edge_count} edges"
    yield name, found.median * 1e3, "ms", "wanted: under 300 ms for 100,000 edges", per_100_000 / 0.3


def _networkx_seconds(network, wanted: int) -> tuple[float, int]:
    """(seconds of Dijkstra's algorithm from one node, nodes with edges) by networkx, on the graph that bounds crossings.

    Its nodes are (neuron, edges walked, whether a link was walked last), as a path of at most three edges needs; the sources are
    spread over all layers, and all of the graph that they lead to is there before the clock starts.
    """
    import networkx

    graph = networkx.DiGraph()
    lengths = 1 / np.abs(network.matrix.data.astype(np.float64))
    counted = lengths > 1
    starts = np.repeat(np.arange(network.nodes), np.diff(network.matrix.indptr))[counted].tolist()
    edges = list(zip(starts, network.matrix.indices[counted].tolist(), lengths[counted].tolist(), strict=True))
    first = {name: rows.start for name, rows in layer_rows(network).items()}
    links = [
        pair
        for source, target, here, there in sampled_links(network, 0, skips=False)
        for pair in zip((first[source] + here).tolist(), (first[target] + there).tolist(), strict=True)
    ]
    for walked in range(_K):
        for linked in (False, True)[: 1 + (walked > 0)]:
            graph.add_weighted_edges_from(((a, walked, linked), (b, walked + 1, False), d) for a, b, d in edges)
            if walked:
                graph.add_weighted_edges_from(((a, walked, linked), (b, walked, True), 0.0) for a, b in links)
    nodes = np.unique(starts)
    chosen = nodes[np.linspace(0, nodes.size - 1, wanted).astype(int)].tolist()
    begin = time.perf_counter()
    for node in chosen:
        networkx.single_source_dijkstra_path_length(graph, (node, 0, False))
    return (time.perf_counter() - begin) / len(chosen), nodes.size
