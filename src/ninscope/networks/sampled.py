"""The sampled neuron interaction network: all samples of one checkpoint as one block-diagonal sparse matrix."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from ninscope.architectures.layout import Architecture
from ninscope.checkpoints.tensors import Checkpoint, as_float
from ninscope.networks.compress import compress_rows
from ninscope.networks.sampling import sampled_neurons


@dataclass(frozen=True)
class SampledNetwork:
    """Samples of a network, block-diagonal.

    matrix: CSR [samples * nodes, samples * nodes], W of source row and target column, float32 (float64 for F64 weights);
    only edges with 1/|w| <= max_distance are stored. layer_sizes: int64 [layers], neurons sampled from each node layer, in
    the order of layer_names; neurons: int64 [samples, nodes], the neuron's number in its layer. A node of sample s and
    layer l is row s * nodes + sum(layer_sizes[:l]) + position.
    """

    matrix: csr_matrix
    layer_names: tuple[str, ...]
    layer_sizes: np.ndarray
    neurons: np.ndarray

    @property
    def samples(self) -> int:
        return self.neurons.shape[0]

    @property
    def nodes(self) -> int:
        """Nodes of one sample."""
        return self.neurons.shape[1]

    def layers_taken_whole(self, asked: int) -> str:
        """One clause that says which layers had fewer neurons than were asked for; empty when none had."""
        smaller = {int(size) for size in self.layer_sizes if size < asked}
        return (
            f"layers of {', '.join(map(str, sorted(smaller)))} neurons were taken whole ({asked} asked for)"
            if smaller
            else ""
        )

    def row_pointer(self, sample: int) -> tuple[np.ndarray, slice]:
        """(indptr of one sample's rows starting at 0, the slice of matrix.data that it points into)."""
        indptr = self.matrix.indptr[sample * self.nodes : (sample + 1) * self.nodes + 1]
        return indptr - indptr[0], slice(int(indptr[0]), int(indptr[-1]))


def sampled_network(
    checkpoint: Checkpoint,
    architecture: Architecture,
    nodes_per_layer: int,
    samples: int,
    seed: int,
    max_distance: float,
) -> SampledNetwork:
    """Sample `nodes_per_layer` neurons of every node layer, `samples` times, and keep the edges among them.

    A layer with fewer neurons gives all of them. One tensor is held at a time. Raises CheckpointError.
    """
    tensors = architecture.tensors(checkpoint.tensors)
    chosen = [
        {
            layer.name: sampled_neurons(seed, sample, layer.sample_group, layer.size, nodes_per_layer)
            for layer in architecture.layers
        }
        for sample in range(samples)
    ]
    sizes = np.array([chosen[0][layer.name].size for layer in architecture.layers], dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    order = {layer.name: number for number, layer in enumerate(architecture.layers)}
    nodes = int(sizes.sum())

    # Blocks by source layer, in the order their edges stand in a node's row; sources in layer order.
    by_source: dict[str, list] = {}
    for block in architecture.blocks:
        by_source.setdefault(block.source, []).append(block)
    # Edges number fewer than weights read; where that or the nodes could pass 2^31, indices are 64 bits wide.
    edges_at_most = samples * sum(
        int(sizes[order[block.source]]) * int(sizes[order[block.target]]) for block in architecture.blocks
    )
    index = np.int32 if max(samples * nodes, edges_at_most) < 2**31 else np.int64
    pieces: list[list] = [[] for _ in range(samples)]  # per sample: (counts, columns, weights) of each source layer
    for layer, size in zip(architecture.layers, sizes, strict=True):
        blocks = by_source.get(layer.name)
        if not blocks:
            for edges in pieces:
                edges.append((np.zeros(size, np.int64), np.zeros(0, index), np.zeros(0, np.float32)))
            continue
        dense = _dense_rows(blocks, layer.name, tensors, chosen)
        targets = np.concatenate(
            [starts[order[b.target]] + np.arange(sizes[order[b.target]], dtype=index) for b in blocks]
        )
        for sample, weights in enumerate(dense):
            columns = (targets + sample * nodes).astype(index)
            pieces[sample].append(compress_rows(weights, columns, max_distance))
    return _assemble(pieces, architecture, sizes, nodes, chosen)


def _dense_rows(blocks, source, tensors, chosen) -> list[np.ndarray]:
    """For each sample the weights [source neurons, targets of all blocks]; every tensor is read once."""
    dense: list[list[np.ndarray]] = [[] for _ in chosen]
    for name in dict.fromkeys(block.tensor for block in blocks):
        readers = [block for block in blocks if block.tensor == name]
        rows = [[block.rows.rows(neurons[block.target]) for block in readers] for neurons in chosen]
        wanted = np.unique(np.concatenate([row for sample in rows for row in sample]))
        tensor = tensors[name]
        values, position = tensor.rows(wanted)
        for sample, neurons in enumerate(chosen):
            taken = position[np.searchsorted(wanted, np.concatenate(rows[sample]))]
            block_weights = values.take(taken, axis=0).take(neurons[source], axis=1)
            dense[sample].append(as_float(block_weights, tensor.dtype))
    return [np.concatenate(parts, axis=0).T for parts in dense]


def _assemble(pieces, architecture, sizes, nodes, chosen) -> SampledNetwork:
    # One kind of array at a time, its parts let go once joined: edges are what is large here.
    counts, columns, weights = ([part[kind] for edges in pieces for part in edges] for kind in range(3))
    samples = len(pieces)
    pieces.clear()
    counts, columns, weights = _joined(counts), _joined(columns), _joined(weights)
    total = nodes * samples
    indptr = np.zeros(total + 1, dtype=columns.dtype)
    np.cumsum(counts, out=indptr[1:])
    matrix = csr_matrix((weights, columns, indptr), shape=(total, total))
    names = tuple(layer.name for layer in architecture.layers)
    neurons = np.stack([np.concatenate([sample[name] for name in names]) for sample in chosen])
    return SampledNetwork(matrix, names, sizes, neurons)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    whole = np.concatenate(parts)
    parts.clear()
    return whole
