"""Networks of linear layers counted weight by weight, as a training hands them to who records it: counts of layers, bins and exact
sums of matrices. It shares no code with what counts for ninscope.
"""

import math
from collections import defaultdict

import numpy as np
from safetensors.numpy import load_file

from ninscope.checkpoints.source import open_source
from ninscope.exact.counting import LayerCounts
from ninscope.networks.neuron_network import neuron_network


def network_of(folder, parameters):
    """(the network of a checkpoint, how many numbers that holds)"""
    checkpoint = open_source(folder).open(folder.name)
    return neuron_network(checkpoint, parameters.reading), checkpoint.parameters


def counted(network, folder, max_distance=150):
    """(LayerCounts by layer, bins by matrix, exact sums by matrix) of distances 1/|w| rounded to whole ones."""
    tensors = load_file(folder / "model.safetensors")
    counts, totals, squares = {}, {}, {}
    shift = 38 - math.ceil(math.log2(max_distance + 1))
    for block in network.blocks:
        rows = block.rows.rows(np.arange(network.sizes[block.target]))
        weights = tensors[network.matrices[block.tensor].tensor.name][rows].astype(np.float64)
        with np.errstate(divide="ignore"):
            distances = 1 / np.abs(weights)
        is_edge = (distances > 1) & (distances <= max_distance)
        bins = np.where(is_edge, np.rint(np.where(is_edge, distances, 0)), max_distance + 1).astype(np.int64)
        histogram = np.stack([np.bincount(column, minlength=max_distance + 2) for column in bins.T]).astype(np.int32)
        lengths = np.where(is_edge, np.rint(np.ldexp(np.where(is_edge, distances, 0), shift)), 0).astype(np.int64)
        own = LayerCounts(histogram[:, :-1], lengths.sum(axis=0))
        counts[block.source] = own if block.source not in counts else counts[block.source] + own
        name = f"{block.source} -> {block.target}"
        totals[name], squares[name] = histogram.sum(axis=0, dtype=np.int64), plain_squares(weights)
    return counts, totals, squares


def plain_squares(weights):
    """Exact sums of a matrix by the exponent of float32, one weight after another: int64 [256, 4]."""
    sums = defaultdict(lambda: [0, 0, 0, 0])
    for value in np.asarray(weights, np.float32).reshape(-1).tolist():
        if value == 0:
            continue
        exponent = max(math.frexp(value)[1] + 126, 0)
        mantissa = int(math.ldexp(abs(value), 150 - max(exponent, 1)))
        high, low = divmod(mantissa, 4096)
        entry = sums[exponent]
        entry[0] += int(math.copysign(mantissa, value))
        entry[1] += high * high
        entry[2] += high * low
        entry[3] += low * low
    table = np.zeros((256, 4), np.int64)
    for exponent, entry in sums.items():
        table[exponent] = entry
    return table
