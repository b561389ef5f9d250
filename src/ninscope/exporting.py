"""The network itself, for other tools: ninscope.network."""

import numpy as np
from scipy.sparse import csr_matrix

from ninscope.checkpoints.source import open_source
from ninscope.checks import checked_integer
from ninscope.errors import RequestError
from ninscope.locating import revision_of
from ninscope.multifractal.boxes import box_histogram
from ninscope.multifractal.node_dimension import mass_radius_fits
from ninscope.networks.graph import Network
from ninscope.networks.neuron_network import NeuronNetwork, neuron_network
from ninscope.networks.sampled import SampledNetwork, sampled_network
from ninscope.networks.shortest_paths import layer_rows, sampled_links
from ninscope.networks.transfer import UNCOUNTED
from ninscope.parameters import MAX_SAMPLES, Parameters

MAX_EDGES = 20_000_000  # some 2 GB as DataFrames; graph libraries take several times that


def network(
    source: str,
    revision: str | int | None = None,
    nodes_per_layer: int | str = Parameters.nodes_per_layer,
    sample: int = 0,
    seed: int = Parameters.seed,
    transfer: str = Parameters.transfer,
    max_distance: float = Parameters.max_distance,
    min_degree: int = Parameters.min_degree,
    wiring: str = Parameters.wiring,
    convolutions: str = Parameters.convolutions,
    gauge: str = Parameters.gauge,
) -> Network:
    """One sampled network of a checkpoint, or the whole network of a small one, as a graph.

    source, revision: as in `ninscope.measure`. nodes_per_layer: neurons sampled from each node layer, or "all". sample, seed:
    which sample; its neurons are those that `ninscope.measure` draws. transfer, max_distance: distances of edges, and up to
    which distance edges count. min_degree: nodes with at most so many edges have node fractal dimension 0. wiring,
    convolutions, gauge: see `ninscope.architectures.Reading`.

    Raises RequestError (what `measure` raises, a sample out of range, more than MAX_EDGES edges) and CheckpointError.
    """
    parameters = Parameters(
        nodes_per_layer=nodes_per_layer,
        seed=seed,
        transfer=transfer,
        max_distance=max_distance,
        min_degree=min_degree,
        wiring=wiring,
        convolutions=convolutions,
        gauge=gauge,
    )
    checked_integer("sample", sample, 0, MAX_SAMPLES - 1)
    if parameters.exact and (sample or seed):
        raise RequestError('nodes_per_layer "all" takes every neuron; leave out sample and seed')
    opened = open_source(source)
    revision = revision_of(opened, revision)
    whole = neuron_network(opened.open(revision), parameters.reading)
    count = max(whole.sizes.values()) if parameters.exact else parameters.sampled_nodes
    edges = _edges_at_most(whole, count)
    if edges > MAX_EDGES:
        advice = "take nodes_per_layer=64" if parameters.exact else "take fewer nodes_per_layer"
        raise RequestError(f"{source}: a network of up to {edges:.2g} edges, more than {MAX_EDGES:.2g}; {advice}")
    sampled = sampled_network(whole, count, sample + 1, seed, parameters.edge_bound)
    taken = "all neurons" if parameters.exact else f"{count} a layer, sample {sample} of seed {seed}"
    return _one_sample(sampled, sample, parameters, f"{source} at {revision}, {taken}")


def _edges_at_most(network: NeuronNetwork, count: int) -> int:
    sizes = {name: min(size, count) for name, size in network.sizes.items()}
    return sum(
        sizes[block.source] * sizes[block.target] * network.matrices[block.tensor].taps for block in network.blocks
    )


def _one_sample(sampled: SampledNetwork, sample: int, parameters: Parameters, label: str) -> Network:
    radii = parameters.integer_radii
    indptr, part = sampled.row_pointer(sample)
    weights = sampled.matrix.data[part]
    bins = radii.bins(weights)
    histogram = box_histogram(indptr, bins, radii.count)
    dimensions, _ = mass_radius_fits(histogram, parameters.min_degree, radii.logarithms)
    counted = bins != UNCOUNTED
    before = np.concatenate([[0], np.cumsum(counted)])
    columns = sampled.matrix.indices[part][counted] - sample * sampled.nodes
    matrix = csr_matrix((weights[counted], columns, before[indptr]), shape=(sampled.nodes, sampled.nodes))
    starts = {name: rows.start for name, rows in layer_rows(sampled).items()}
    links = [
        np.stack([starts[source] + here, starts[target] + there], axis=1)
        for source, target, here, there in sampled_links(sampled, sample, skips=True)
    ]
    joined = np.concatenate([np.zeros((0, 2), np.int64), *links])
    return Network(
        matrix, sampled.layer_names, sampled.layer_sizes, sampled.neurons[sample], dimensions, radii, joined, label
    )
