"""Shortest paths across several whole layers: every neuron, exact, with a bounded number of layers in memory.

The paths are those of `shortest_paths`, of which a sample that holds every neuron gives the same counts. Blocks of distances are
made when a path needs them and are kept while there is room; source layers are taken in order, and their nodes some at a time.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ninscope.architectures.layout import WeightBlock
from ninscope.checkpoints.matrix import WeightMatrix
from ninscope.errors import CheckpointError
from ninscope.networks.min_plus import count_distances
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.networks.radii import IntegerRadii
from ninscope.networks.transfer import radius_step
from ninscope.networks.walks import BlockPart, Redrawing, Walk, distances_of

MAX_BYTES = 4_000_000_000  # of blocks of distances, at a time
NODES_AT_ONCE = 512  # of a source layer, by one thread
_ROWS = 64  # of a matrix, in float64 beside the block that they go into


class Blocks:
    """Blocks of distances of a whole network and of what null models make of it: the latest, as far as there is room for them."""

    def __init__(self, network: NeuronNetwork, radii: IntegerRadii, with_statistics: bool, max_bytes: int) -> None:
        self.network, self.radii = network, radii
        self._with_statistics, self._max_bytes = with_statistics, max_bytes
        self._order = {layer.name: number for number, layer in enumerate(network.layers)}
        self._kept: OrderedDict[tuple[int, str], np.ndarray] = OrderedDict()  # by null model (0: none) and layer
        self._parts: dict[str, list[BlockPart]] = {}
        self._lock = threading.RLock()

    def outgoing(self, layer: str) -> list[WeightBlock]:
        """The weight blocks that leave a layer, in the order of their targets."""
        blocks = [block for block in self.network.blocks if block.source == layer]
        return sorted(blocks, key=lambda block: self._order[block.target])

    def block(self, layer: str, number: int, redrawing: Redrawing | None) -> np.ndarray:
        """The block of a layer. number: of the null model; 0 stands for the network itself. Raises CheckpointError."""
        with self._lock:
            if redrawing is None:
                return self._kept_or(layer, 0, self._made)
            return self._kept_or(layer, number, lambda name: self._redrawn(name, redrawing))

    def _redrawn(self, layer: str, redrawing: Redrawing) -> np.ndarray:
        block = self._kept_or(layer, 0, self._made)
        return redrawing.block(layer, self._parts[layer], block)

    def _kept_or(self, layer: str, number: int, make: Callable[[str], np.ndarray]) -> np.ndarray:
        if (number, layer) in self._kept:
            self._kept.move_to_end((number, layer))
            return self._kept[number, layer]
        block = make(layer)
        block.flags.writeable = False
        self._kept[number, layer] = block
        while (
            len(self._kept) > 1
            and sum({id(kept): kept.nbytes for kept in self._kept.values()}.values()) > self._max_bytes
        ):
            self._kept.popitem(last=False)
        return block

    def _made(self, layer: str) -> np.ndarray:
        blocks, sizes = self.outgoing(layer), self.network.sizes
        width = sum(sizes[block.target] for block in blocks)
        distances = np.full((sizes[layer], width), np.inf)
        parts, start = [], 0
        weights: dict[str, np.ndarray] = {}  # of tensors that several blocks lead through, read once
        for block in blocks:
            columns = slice(start, start + sizes[block.target])
            matrix = self.network.matrices[block.tensor]
            if block.tensor not in weights:
                weights[block.tensor] = matrix.weights(matrix.tensor.rows(np.arange(matrix.slices))[0])
            parts.append(self._fill(block, columns, weights[block.tensor], distances[:, columns]))
            start = columns.stop
        self._parts[layer] = parts
        return distances

    def _fill(self, block: WeightBlock, columns: slice, weights: np.ndarray, distances: np.ndarray) -> BlockPart:
        """Take one matrix, all slices of its tensor, into its columns of a block, float64 [nodes, targets]."""
        matrix = self.network.matrices[block.tensor]
        nodes, targets = distances.shape
        rows = block.rows.rows(np.arange(targets))
        sums = _Sums(nodes, targets)
        for first in range(0, targets, _ROWS):
            some = slice(first, first + _ROWS)
            numbers, all_nodes = rows[some], np.arange(nodes)
            taken = matrix.taken(weights, matrix.slices_of(numbers, all_nodes), numbers, all_nodes)
            lengths = distances_of(taken.reshape(-1), self.radii).reshape(-1, matrix.taps, nodes)
            distances[:, some] = lengths.min(axis=1).T
            if self._with_statistics:
                sums.add(some, taken.astype(np.float64).reshape(-1, matrix.taps, nodes))
        groups = _groups(matrix, rows)
        weights_in_all = sum(one.size * other.size for one, other in groups) * matrix.taps
        return BlockPart(
            block.source,
            block.target,
            columns,
            [(one, other + columns.start) for one, other in groups],
            self.network.taps_of_norms(block),
            matrix.taps,
            *(sums.statistics(weights_in_all, self.network.taps_of_norms(block)) if self._with_statistics else ()),
        )


class _Sums:
    """Sums over a matrix, in float64 and in one order. Pairs that no weight joins count as zeros, which change none of them."""

    def __init__(self, nodes: int, targets: int) -> None:
        self._total = 0.0
        self._of_nodes, self._of_targets = np.zeros(nodes), np.zeros(targets)

    def add(self, targets: slice, weights: np.ndarray) -> None:
        """weights: float64 [targets, taps, nodes]."""
        with np.errstate(over="ignore"):
            squares = weights**2
            self._total += float(weights.sum())
            self._of_nodes += squares.sum(axis=(0, 1))
            self._of_targets[targets] = squares.sum(axis=(1, 2))

    def statistics(self, count: int, taps: int) -> tuple[float, np.ndarray, np.ndarray]:
        """(deviation, of one tap where weights are norms of so many; norms of nodes; norms of targets)"""
        square = float(self._of_targets.sum()) / count
        mean = self._total / count
        variance = square - mean * mean if taps == 1 else square / taps
        return float(np.sqrt(max(variance, 0.0))), np.sqrt(self._of_nodes), np.sqrt(self._of_targets)


def _groups(matrix: WeightMatrix, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(nodes, positions in `rows`) that weights of a matrix join, by group, int64."""
    targets, nodes = matrix.size
    groups = matrix.layout.groups
    if groups == 1:
        return [(np.arange(nodes), np.arange(rows.size))]
    of_nodes, of_rows = np.arange(nodes) // (nodes // groups), rows // (targets // groups)
    return [(np.flatnonzero(of_nodes == group), np.flatnonzero(of_rows == group)) for group in range(groups)]


class _WholeWalk(Walk):
    def __init__(self, blocks: Blocks, skips: bool, number: int, redrawing: Redrawing | None) -> None:
        network = blocks.network
        super().__init__(network.sizes, [layer.name for layer in network.source_layers], redrawing)
        self._blocks, self._draw = blocks, number
        for source in self.sources:
            self.targets[source] = [block.target for block in blocks.outgoing(source)]
        for source, target, here, there in whole_links(network, skips):
            self.links.setdefault(source, []).append((target, here, there))

    def block(self, layer: str) -> np.ndarray:
        return self._blocks.block(layer, self._draw, self.redrawing)


def whole_links(network: NeuronNetwork, skips: bool) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """(source layer, target layer, neurons of the source, neurons of the target) of every link, int64; against the links' own
    direction in a network that is read from its targets.
    """
    links = []
    for link in network.links:
        if link.skip and not skips:
            continue
        here = np.arange(network.sizes[link.source])
        there = link.targets(here)
        links.append(
            (link.target, link.source, there, here) if network.incoming else (link.source, link.target, here, there)
        )
    return links


def whole_path_histograms(
    network: NeuronNetwork,
    k: int,
    radii: IntegerRadii,
    redrawings: Sequence[Redrawing | None] = (None,),
    threads: int = 1,
    skips: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """For every source layer, in order, the nodes that each of its neurons reaches across k layers, by rounded distance.

    Yields (layer, one int32 [neurons, k * radii.count + 1] for each of redrawings); as `shortest_paths.path_histograms`, whose
    counts these are for k > 1 where a sample holds every neuron. redrawings: null models, None for the network itself. threads:
    results do not depend on it. Raises CheckpointError: what reading raises; unsupported, where blocks do not fit into memory.
    """
    with_statistics = any(redrawing is not None for redrawing in redrawings)
    blocks = Blocks(network, radii, with_statistics, max_bytes)
    walks = [_WholeWalk(blocks, skips, number, redrawing) for number, redrawing in enumerate(redrawings, 1)]
    for layer in walks[0].sources:
        check_fits(network, walks[0], layer, k, max_bytes)
    step = radius_step(radii.transfer, radii.max_distance)
    with ThreadPoolExecutor(threads) as pool:
        for layer in walks[0].sources:
            size = network.sizes[layer]
            counts = [np.zeros((size, k * radii.count + 1), np.int32) for _ in walks]

            def count(task: tuple[int, int], layer: str = layer, counts: list[np.ndarray] = counts) -> None:
                number, first = task
                some = slice(first, first + NODES_AT_ONCE)
                for reached in walks[number].from_layer(layer, k, some).values():
                    count_distances(reached, step, counts[number][some])

            tasks = [(number, first) for number in range(len(walks)) for first in range(0, size, NODES_AT_ONCE)]
            if threads == 1:
                for task in tasks:
                    count(task)
            else:
                list(pool.map(count, tasks))
            yield layer, counts


def check_fits(network: NeuronNetwork, walk: Walk, layer: str, k: int, max_bytes: int = MAX_BYTES) -> None:
    """Raises CheckpointError (unsupported) where paths from a layer need more memory than they may take."""
    sizes = network.sizes

    def width(name: str) -> int:
        return sum(sizes[target] for target in walk.targets[name])

    through = walk.reaches(layer, k)
    largest = max((8 * sizes[name] * width(name), name) for names in through for name in names)
    reached = 8 * min(NODES_AT_ONCE, sizes[layer]) * sum(width(name) for names in through for name in names)
    needed = 2 * largest[0] + 3 * reached  # a block and what is drawn of it; ends, the shortest so far, a product
    if needed > max_bytes:
        raise CheckpointError(
            "unsupported",
            f"paths across {k} whole layers from {layer} take {needed / 1e9:.1f} GB (the block of {largest[1]} alone "
            f"{largest[0] / 1e9:.1f}), more than {max_bytes / 1e9:.1f}; give nodes_per_layer a number, for samples",
        )
