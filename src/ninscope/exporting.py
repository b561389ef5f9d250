"""The network itself, for other tools: ninscope.network."""

import numpy as np
from scipy.sparse import csr_matrix

from ninscope.architectures import Reading, architecture_of
from ninscope.architectures.layout import Architecture
from ninscope.checkpoints.source import open_source
from ninscope.errors import RequestError
from ninscope.multifractal.boxes import box_histogram
from ninscope.multifractal.node_dimension import mass_radius_fits
from ninscope.networks.graph import Network
from ninscope.networks.radii import IntegerRadii
from ninscope.networks.sampled import SampledNetwork, sampled_network
from ninscope.networks.shortest_paths import layer_rows, sampled_links
from ninscope.networks.transfer import UNCOUNTED
from ninscope.parameters import ALL, MAX_SAMPLES, Parameters

MAX_EDGES = 20_000_000  # some 2 GB as DataFrames; graph libraries take several times that


def network(
    source: str,
    revision: str | None = None,
    nodes_per_layer: int | str = 64,
    sample: int = 0,
    seed: int = 0,
    transfer: str = "reciprocal",
    max_distance: float = 150.0,
    min_degree: int = 10,
    wiring: str = "chain",
    convolutions: str = "norm",
) -> Network:
    """One sampled network of a checkpoint, or the whole network of a small one, as a graph.

    source, revision: as `ninscope.measure` takes them. nodes_per_layer: neurons sampled from each node layer, or "all".
    sample, seed: which sample; the neurons are those that `ninscope.measure` draws. transfer, max_distance: distances of edges,
    and which count. min_degree: nodes of so many edges or fewer have node fractal dimension 0. wiring, convolutions: see
    `ninscope.architectures.Reading`.

    Raises RequestError (what `measure` raises, a sample out of range, more than MAX_EDGES edges) and CheckpointError.
    """
    reading = Reading(convolutions, wiring)
    drawn = {} if nodes_per_layer == ALL else {"seed": seed}
    bounds = {"transfer": transfer, "max_distance": max_distance, "min_degree": min_degree}
    parameters = Parameters(nodes_per_layer=nodes_per_layer, **drawn, **bounds).checked()
    if isinstance(sample, bool) or not isinstance(sample, int | np.integer) or not 0 <= sample < MAX_SAMPLES:
        raise RequestError(f"sample is {sample!r}; an integer from 0 to {MAX_SAMPLES - 1} was expected")
    if parameters.exact and (sample or seed):
        raise RequestError('nodes_per_layer "all" takes every neuron; leave out sample and seed')
    opened = open_source(source)
    if revision is None:
        revisions = opened.revisions()
        if len(revisions) > 1:
            raise RequestError(
                f"{source} has {len(revisions)} revisions ({revisions[0]} ... {revisions[-1]}); name one with revision="
            )
        revision = revisions[0]
    checkpoint = opened.open(revision)
    architecture = architecture_of(checkpoint.config, checkpoint.tensors, reading)
    count = max(layer.size for layer in architecture.layers) if parameters.exact else nodes_per_layer
    edges = _edges_at_most(architecture, count)
    if edges > MAX_EDGES:
        advice = "take nodes_per_layer=64" if parameters.exact else "take fewer nodes_per_layer"
        raise RequestError(f"{source}: a network of up to {edges:.2g} edges, more than {MAX_EDGES:.2g}; {advice}")
    found = sampled_network(checkpoint, architecture, count, sample + 1, seed, float(max_distance))
    taken = "all neurons" if parameters.exact else f"{count} a layer, sample {sample} of seed {seed}"
    return _one_sample(found, sample, parameters, f"{source} at {revision}, {taken}")


def _edges_at_most(architecture: Architecture, count: int) -> int:
    size = {layer.name: min(layer.size, count) for layer in architecture.layers}
    total = 0
    for block in architecture.blocks:
        stored = architecture.matrices[block.tensor]
        total += size[block.source] * size[block.target] * stored.layout.taps(stored.slice_shape)
    return total


def _one_sample(found: SampledNetwork, sample: int, parameters: Parameters, label: str) -> Network:
    radii: IntegerRadii = parameters.integer_radii
    indptr, part = found.row_pointer(sample)
    weights = found.matrix.data[part]
    bins = radii.bins(weights)
    histogram = box_histogram(indptr, bins, radii.count)
    dimensions, _ = mass_radius_fits(histogram, parameters.min_degree, radii.logarithms)
    counted = bins != UNCOUNTED
    before = np.concatenate([[0], np.cumsum(counted)])
    columns = found.matrix.indices[part][counted] - sample * found.nodes
    matrix = csr_matrix((weights[counted], columns, before[indptr]), shape=(found.nodes, found.nodes))
    starts = {name: rows.start for name, rows in layer_rows(found).items()}
    links = [
        np.stack([starts[source] + here, starts[target] + there], axis=1)
        for source, target, here, there in sampled_links(found, sample, skips=True)
    ]
    joined = np.concatenate([np.zeros((0, 2), np.int64), *links])
    return Network(
        matrix, found.layer_names, found.layer_sizes, found.neurons[sample], dimensions, radii, joined, label
    )
