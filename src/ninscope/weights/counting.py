"""Counting the weights of a whole network, matrix by matrix: beside the exact analysis, in its pass, or in a pass of its own."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from ninscope.checkpoints.matrix import WeightTile
from ninscope.checkpoints.verification import Verification
from ninscope.exact.bands import Band, BandReader, Outgoing, bands_of, outgoing
from ninscope.exact.blocks import matrix_name
from ninscope.exact.whole import Passenger
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.weights.patterns import PatternCounts, count_rows
from ninscope.weights.statistics import WeightStatistics, statistics_of, together

WHOLE = "all"  # what tables call the network as one matrix

# Counts of one matrix by the stored type: a matrix may be made of several tensors.
CountsOfTypes = Mapping[str, PatternCounts]


@dataclass(frozen=True)
class NetworkWeights:
    """Statistics of every matrix of a network by its name, in the order of the blocks, and of all of them ("all"), last.

    unverified: a clause on files from a Hub whose hash could not be checked, or empty.
    """

    statistics: Mapping[str, WeightStatistics]
    unverified: str = ""

    @property
    def rms(self) -> dict[str, float]:
        """Root mean square of the weights of each matrix, by its name."""
        return {name: one.rms for name, one in self.statistics.items() if name != WHOLE}


@dataclass(frozen=True)
class CountedPiece:
    """What a piece of the work on a network found.

    statistics: of the matrices that were seen whole; whole: counts of all these together; counts: of the others, by name.
    """

    statistics: Mapping[str, WeightStatistics] = field(default_factory=dict)
    counts: Mapping[str, CountsOfTypes] = field(default_factory=dict)
    whole: CountsOfTypes = field(default_factory=dict)


class WeightCounter:
    """Counts the weights of a network as its tiles come by, in any order, from any threads.

    The statistics of a matrix are taken when its last weight has been seen, so that counts of few matrices are in memory.
    """

    def __init__(self, network: NeuronNetwork, known: CountedPiece | None = None) -> None:
        """known: what other pieces have found."""
        self._left = Counter(weights_of_matrices(network))
        self._order = list(self._left)
        known = CountedPiece() if known is None else known
        self._statistics = dict(known.statistics)
        self._counts: dict[str, dict[str, PatternCounts]] = {}
        self._whole = {dtype: replace(all_, counts=all_.counts.astype(np.int64)) for dtype, all_ in known.whole.items()}
        self._lock = threading.Lock()
        for name in known.statistics:
            del self._left[name]
        for name, counts in known.counts.items():
            self._add(name, list(counts.values()))

    def see(self, part: Outgoing, tile: WeightTile, dtype: str) -> bool:
        """Count the weights of a tile, which comes once; false where one of them is not finite. dtype: of its weights."""
        for names, bits, slots in rows_of_matrices(part, tile):
            counted = count_rows(bits, dtype, slots, len(names))
            if not all(counts.finite for counts in counted):
                return False
            for name, counts in zip(names, counted, strict=True):
                if counts.weights:
                    with self._lock:
                        self._add(name, [counts])
        return True

    def _add(self, name: str, some: Sequence[PatternCounts]) -> None:
        mine = self._counts.setdefault(name, {})
        for counts in some:
            self._counts[name] = mine = _joined(mine, counts)
            self._left[name] -= counts.weights
        if self._left[name] == 0:
            all_counts = self._counts.pop(name)
            for counts in all_counts.values():
                self._add_to_whole(counts)
            self._statistics[name] = statistics_of(together(list(all_counts.values())))

    def _add_to_whole(self, counts: PatternCounts) -> None:
        whole = self._whole.get(counts.dtype)
        if whole is None:
            self._whole[counts.dtype] = replace(counts, counts=counts.counts.astype(np.int64))
            return
        np.add(whole.counts, counts.counts, out=whole.counts)  # once for every matrix
        self._whole[counts.dtype] = replace(whole, **whole.sums_with(counts))

    @property
    def piece(self) -> CountedPiece:
        """What was found so far."""
        return CountedPiece(dict(self._statistics), dict(self._counts), dict(self._whole))

    def weights(self) -> NetworkWeights:
        """Of a network that was seen whole. Raises ValueError: it was not."""
        if missing := [name for name in self._order if name not in self._statistics]:
            raise ValueError(f"{len(missing)} matrices were not seen whole, first {missing[0]}")
        whole = statistics_of(together(list(self._whole.values())))
        return NetworkWeights({name: self._statistics[name] for name in self._order} | {WHOLE: whole})


def network_weights(network: NeuronNetwork, workers: int = 1) -> NetworkWeights:
    """Read a network and count its weights. workers: threads. Raises CheckpointError."""
    counter = WeightCounter(network)
    verification = Verification(network.tensors)
    count_piece(network, counter, 0, 1, workers)
    return replace(counter.weights(), unverified=verification.finish())


def count_piece(network: NeuronNetwork, counter: Passenger, number: int, count: int, workers: int = 1) -> None:
    """Show piece `number` of `count` of a network's weights, cut as the exact analysis cuts them, to a counter.

    Raises CheckpointError.
    """
    _, bands = bands_of(outgoing(network), number, count)
    reader = BandReader(bands)

    def see(band: Band) -> None:
        raw, matrix = reader.raw(band), band.part.matrix
        for tile in matrix.tiles(raw, band.first):
            if not counter.see(band.part, tile, matrix.dtype):
                matrix.check_stored(raw, band.first)

    if workers == 1:
        for band in bands:
            see(band)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(see, bands))


def joined_pieces(pieces: Sequence[CountedPiece]) -> CountedPiece:
    """What several pieces of the work on one network found, none of it twice."""
    statistics: dict[str, WeightStatistics] = {}
    counts: dict[str, dict[str, PatternCounts]] = {}
    whole: dict[str, PatternCounts] = {}
    for piece in pieces:
        statistics |= piece.statistics
        for name, of_types in piece.counts.items():
            for some in of_types.values():
                counts[name] = _joined(counts.get(name, {}), some)
        for some in piece.whole.values():
            whole = _joined(whole, some)
    return CountedPiece(statistics, counts, whole)


def weights_of_matrices(network: NeuronNetwork) -> dict[str, int]:
    """How many weights each matrix has, by its name, in the order of the network's blocks."""
    found: dict[str, int] = {}
    for block in network.blocks:
        edges, nodes = network.edges_of(block)
        name = matrix_name(block.source, block.target)
        found[name] = found.get(name, 0) + edges * nodes
    return found


def _joined(of_types: CountsOfTypes, counts: PatternCounts) -> dict[str, PatternCounts]:
    known = of_types.get(counts.dtype)
    return {**of_types, counts.dtype: counts if known is None else known + counts}


def rows_of_matrices(part: Outgoing, tile: WeightTile) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """(names of matrices, rows of weights, which of the matrices each row belongs to, -1: none) of all matrices in a tile."""
    names = {matrix_name(part.layer, target): targets for target, targets in part.leads_to.items()}
    if not tile.nodes_first:
        slots = np.full(len(tile.bits), -1)
        chosen = [edges_inside(tile, targets) for targets in names.values()]
        for number, edges in enumerate(chosen):
            slots[edges] = number
        if np.count_nonzero(slots >= 0) == sum(edges.size for edges in chosen):
            yield list(names), tile.bits, slots
            return
    for name, targets in names.items():  # a row holds weights of several, or several share rows
        whole = tile.nodes_first and targets.size == part.matrix.size[0]
        bits = tile.bits if whole else np.ascontiguousarray(tile.chosen(targets, None)[0])
        if bits.size:
            yield [name], bits, np.zeros(len(bits), np.int64)


def edges_inside(tile: WeightTile, targets: np.ndarray) -> np.ndarray:
    """The edges of a tile, along its axis of targets, that lead to these targets, int64, sorted. targets: sorted, int64."""
    count = tile.bits.shape[1 if tile.nodes_first else 0] // tile.taps
    first, last = np.searchsorted(targets, (tile.first_target, tile.first_target + count))
    inside = targets[first:last] - tile.first_target
    return (inside[:, None] * tile.taps + np.arange(tile.taps)).reshape(-1)
