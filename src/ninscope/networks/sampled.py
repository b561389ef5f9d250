"""The sampled neuron interaction network: all samples of one checkpoint as one block-diagonal sparse matrix."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ninscope.architectures.layout import Link, NodeLayer, WeightBlock
from ninscope.checkpoints.matrix import WeightMatrix
from ninscope.checkpoints.read_ahead import ReadAhead, bytes_to_fetch
from ninscope.checkpoints.verification import unverified
from ninscope.errors import CheckpointError
from ninscope.networks.compress import compress_rows
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.networks.sampling import sampled_neurons
from ninscope.shown import Shown

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MAX_EDGES = 1_000_000_000  # 8 GB of them; whoever needs more wants the exact analysis


@dataclass(frozen=True, repr=False)
class SampledNetwork(Shown):
    """Samples of a network, as one block-diagonal matrix.

    matrix: CSR [samples * nodes, samples * nodes], W of source row and target column, float32 (float64 for F64 weights);
    only edges with 1/|w| <= max_distance are stored. layer_sizes: int64 [layers], neurons sampled from each node layer, in
    the order of layers, which have their whole sizes; neurons: int64 [samples, nodes], the neuron's number in its layer;
    sources: names of layers that edges leave; links: as in NeuronNetwork. A node of sample s and layer l is row
    s * nodes + sum(layer_sizes[:l]) + position. Where kernels are read per tap, a pair of nodes has several entries. unverified: a
    clause on files from a Hub of which rows were fetched, or empty. incoming: whether it is read from its targets: then edges,
    but not links, are turned round.
    """

    matrix: "csr_matrix"
    layers: tuple[NodeLayer, ...]
    layer_sizes: np.ndarray
    neurons: np.ndarray
    sources: tuple[str, ...]
    links: tuple[Link, ...] = ()
    unverified: str = ""
    incoming: bool = False

    def facts(self) -> dict[str, object]:
        """What a terminal or a notebook shows of it."""
        edges = int(self.matrix.nnz)
        return {"samples": self.samples, "nodes": self.nodes, "layers": len(self.layers), "edges of all samples": edges}

    @property
    def layer_names(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.layers)

    @property
    def samples(self) -> int:
        return self.neurons.shape[0]

    @property
    def nodes(self) -> int:
        """Nodes of one sample."""
        return self.neurons.shape[1]

    def layers_taken_whole(self, nodes_per_layer: int) -> str:
        """One clause that says which layers have fewer neurons than were asked for; empty when none has."""
        smaller = {int(size) for size in self.layer_sizes if size < nodes_per_layer}
        return (
            f"layers of {', '.join(map(str, sorted(smaller)))} neurons were taken whole ({nodes_per_layer} asked for)"
            if smaller
            else ""
        )

    def layers_without_nodes(self, degrees: np.ndarray, min_degree: int) -> list[str]:
        """Source layers in which no node of any sample has more than min_degree edges.

        degrees: int [samples, nodes], counted edges of each node.
        """
        most = np.maximum.reduceat(degrees.max(axis=0), np.cumsum(self.layer_sizes) - self.layer_sizes)
        return [
            name
            for name, edges in zip(self.layer_names, most, strict=True)
            if name in self.sources and edges <= min_degree
        ]

    def rows_of(self, names: Collection[str]) -> np.ndarray:
        """Row numbers, within one sample, of the nodes of these layers, int64."""
        starts = np.cumsum(self.layer_sizes) - self.layer_sizes
        chosen = [
            np.arange(start, start + size)
            for name, start, size in zip(self.layer_names, starts, self.layer_sizes, strict=True)
            if name in names
        ]
        return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)

    def row_pointer(self, sample: int) -> tuple[np.ndarray, slice]:
        """(indptr of one sample's rows starting at 0, the slice of matrix.data that it points into)."""
        indptr = self.matrix.indptr[sample * self.nodes : (sample + 1) * self.nodes + 1]
        return indptr - indptr[0], slice(int(indptr[0]), int(indptr[-1]))


def sampled_network(
    network: NeuronNetwork, nodes_per_layer: int, samples: int, seed: int, max_distance: float
) -> SampledNetwork:
    """Sample `nodes_per_layer` neurons of every node layer, `samples` times, and keep the edges among them.

    A layer with fewer neurons gives all of them. One tensor is held at a time, and from elsewhere than a local file the next
    ones' rows while they arrive. Raises CheckpointError.
    """
    plan = _Plan(network, nodes_per_layer, samples, seed)
    if plan.edges_at_most > MAX_EDGES:
        raise CheckpointError(
            "unsupported",
            f"{samples} samples of {nodes_per_layer} neurons a layer may hold {plan.edges_at_most:.2g} edges, more than "
            f"{MAX_EDGES:.2g}; take fewer samples or fewer neurons, or measure it exactly",
        )
    reads = plan.reads()
    ahead = ReadAhead([read.matrix.tensor.ranges_of_rows(read.wanted) for read in reads])
    edges = _Edges(
        plan, np.float64 if any(matrix.dtype == "F64" for matrix in network.matrices.values()) else np.float32
    )
    first = 0
    for number, layer in enumerate(network.layers):
        blocks = plan.by_source.get(layer.name, ())
        if blocks:
            targets = np.concatenate([plan.targets_of(block) for block in blocks])
            layer_reads = [read for read in reads[first:] if read.source == layer.name]
            pieces = (ahead.take(index) for index in range(first, first + len(layer_reads)))
            first += len(layer_reads)
            for sample, weights in enumerate(_dense_rows(layer_reads, pieces, plan.chosen)):
                edges.append(sample, number, weights, targets, max_distance)
    names = tuple(network.sizes)
    neurons = np.stack([np.concatenate([sample[name] for name in names]) for sample in plan.chosen])
    sources = tuple(layer.name for layer in network.source_layers)
    note = unverified(network.matrices.values())
    return SampledNetwork(edges.matrix(), network.layers, plan.sizes, neurons, sources, network.links, note)


def directed_sample(network: SampledNetwork, direction: str) -> SampledNetwork:
    """The network in one of `incoming.DIRECTIONS`. "in": every edge turned round; the sources are then the layers that edges
    within bounds lead to, as far as the samples hold any.
    """
    if direction == "out":
        return network
    turned = network.matrix.T.tocsr()
    turned.sort_indices()
    arriving = np.diff(turned.indptr).reshape(network.samples, -1).sum(axis=0)
    ends = np.cumsum(network.layer_sizes)
    named = zip(network.layer_names, network.layer_sizes, ends, strict=True)
    sources = tuple(name for name, size, end in named if arriving[end - size : end].any())
    return replace(network, matrix=turned, sources=sources, incoming=True)


def sampled_bytes(network: NeuronNetwork, nodes_per_layer: int, samples: int, seed: int) -> int:
    """Bytes of weights that `sampled_network` fetches for a checkpoint that is not local; none is read.

    Raises CheckpointError.
    """
    reads = _Plan(network, nodes_per_layer, samples, seed).reads()
    return bytes_to_fetch([read.matrix.tensor.ranges_of_rows(read.wanted) for read in reads])


@dataclass(frozen=True)
class _Read:
    """One matrix to read for one source layer. wanted: the slices of its tensor for all samples, sorted and distinct, int64."""

    source: str
    matrix: WeightMatrix
    blocks: tuple[WeightBlock, ...]
    wanted: np.ndarray

    def targets(self, neurons: Mapping[str, np.ndarray]) -> np.ndarray:
        """The targets in the matrix that one sample takes, in the order of the blocks."""
        return np.concatenate([block.rows.rows(neurons[block.target]) for block in self.blocks])

    def slices(self, neurons: Mapping[str, np.ndarray]) -> np.ndarray:
        return self.matrix.slices_of(self.targets(neurons), neurons[self.source])


class _Plan:
    """Which neurons are drawn, and where their rows stand."""

    def __init__(self, network: NeuronNetwork, nodes_per_layer: int, samples: int, seed: int) -> None:
        layers, matrices = network.layers, network.matrices
        self._matrices = matrices
        self.samples = samples
        self.chosen = [
            {layer.name: sampled_neurons(seed, n, layer.sample_group, layer.size, nodes_per_layer) for layer in layers}
            for n in range(samples)
        ]
        self.sizes = np.array([self.chosen[0][layer.name].size for layer in layers], dtype=np.int64)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.nodes = int(self.sizes.sum())
        self._number = {layer.name: number for number, layer in enumerate(layers)}
        # Blocks by source layer, in the order their edges stand in a node's row: those of one matrix side by side.
        order: dict[str, int] = {}
        for block in network.blocks:
            order.setdefault(block.tensor, len(order))
        self.by_source: dict[str, list[WeightBlock]] = {}
        for block in sorted(network.blocks, key=lambda block: order[block.tensor]):
            self.by_source.setdefault(block.source, []).append(block)
        size = {layer.name: int(n) for layer, n in zip(layers, self.sizes, strict=True)}
        self.edges_of_one = sum(
            size[block.source] * size[block.target] * matrices[block.tensor].taps for block in network.blocks
        )
        self.edges_at_most = samples * self.edges_of_one

    def reads(self) -> list[_Read]:
        """What is read, in order: layer after layer, every tensor once."""
        reads = []
        for layer, blocks in sorted(self.by_source.items(), key=lambda item: self._number[item[0]]):
            for name in dict.fromkeys(block.tensor for block in blocks):
                through = tuple(block for block in blocks if block.tensor == name)
                read = _Read(layer, self._matrices[name], through, np.zeros(0, np.int64))
                wanted = np.unique(np.concatenate([read.slices(neurons) for neurons in self.chosen]))
                reads.append(replace(read, wanted=wanted))
        return reads

    def targets_of(self, block: WeightBlock) -> np.ndarray:
        """Row numbers, within one sample, of a block's target neurons, once for every edge that a node has to them."""
        number = self._number[block.target]
        rows = self.starts[number] + np.arange(self.sizes[number])
        return np.repeat(rows, self._matrices[block.tensor].taps)


class _Edges:
    """The edges of all samples, written where they will stay.

    Each sample has room for every edge it could have; memory that is never written to takes none. At the end the samples are
    moved together. So the peak is the matrix itself, which for a 12B model is what matters.
    """

    def __init__(self, plan: _Plan, dtype: type[np.floating]) -> None:
        self._plan = plan
        self._room = plan.edges_of_one + 1
        total = plan.samples * self._room
        self._index: type[np.int32 | np.int64]
        self._index = np.int32 if max(plan.samples * plan.nodes, total) < 2**31 else np.int64
        self._columns, self._values = np.empty(total, self._index), np.empty(total, dtype)
        self._ends = [sample * self._room for sample in range(plan.samples)]
        self._counts = np.zeros((plan.samples, plan.nodes), np.int64)

    def append(self, sample: int, layer: int, weights: np.ndarray, targets: np.ndarray, max_distance: float) -> None:
        columns = (targets + sample * self._plan.nodes).astype(self._index)
        counts, self._ends[sample] = compress_rows(
            weights, columns, max_distance, self._columns, self._values, self._ends[sample]
        )
        first = self._plan.starts[layer]
        self._counts[sample, first : first + counts.size] = counts

    def matrix(self) -> "csr_matrix":
        from scipy.sparse import csr_matrix  # slow to import, and the exact analysis needs none

        total = 0
        for sample, end in enumerate(self._ends):
            start = sample * self._room
            for array in (self._columns, self._values):
                array[total : total + end - start] = array[start:end]
            total += end - start
        indptr = np.zeros(self._counts.size + 1, dtype=self._index)
        np.cumsum(self._counts, out=indptr[1:])
        shape = (self._counts.size, self._counts.size)
        return csr_matrix((self._values[:total], self._columns[:total], indptr), shape=shape)


def _dense_rows(
    reads: Sequence[_Read], pieces: Iterator[list[memoryview]], chosen: Sequence[Mapping[str, np.ndarray]]
) -> list[np.ndarray]:
    """For each sample the weights [source neurons, edges to all blocks] of a layer. pieces: the bytes of each read."""
    dense: list[list[np.ndarray]] = [[] for _ in chosen]
    for read, stored in zip(reads, pieces, strict=True):
        matrix = read.matrix
        values, position = matrix.tensor.rows_in(stored, read.wanted)
        weights = matrix.weights(values if len(values) == position.size else values.take(position, axis=0))
        for sample, neurons in enumerate(chosen):
            rows = np.searchsorted(read.wanted, read.slices(neurons))
            dense[sample].append(matrix.taken(weights, rows, read.targets(neurons), neurons[read.source]))
    return [np.concatenate(parts, axis=0).T for parts in dense]
