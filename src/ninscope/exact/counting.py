"""Counting one band of rows: edges per node and radius, and the sum of their distances."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ninscope.checkpoints.matrix import WeightTile
from ninscope.errors import CheckpointError
from ninscope.exact.bands import Band, BandReader, Outgoing, bands_of, outgoing
from ninscope.exact.blocks import BlockTally, block_tally, merged
from ninscope.multifractal.boxes import column_histogram, row_histogram
from ninscope.networks.bin_table import BinTable, magnitude_range
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.networks.radii import Radii, log_radii
from ninscope.parameters import Parameters


@dataclass(frozen=True)
class LayerCounts:
    """Counted edges of the nodes of one layer, or of a part of its tensors' rows. Counts are integers, so they add exactly.

    histogram: int32 [nodes, K + 1], edges per distance bin; distances: int64 [nodes], the sum of their distances in units of
    2**-distance_shift(radii); matrices: what null models need, by the matrix's name, where it is asked for.
    """

    histogram: np.ndarray
    distances: np.ndarray
    matrices: Mapping[str, BlockTally] = field(default_factory=dict)

    def __add__(self, other: "LayerCounts") -> "LayerCounts":
        matrices = merged(self.matrices, other.matrices)
        return LayerCounts(self.histogram + other.histogram, self.distances + other.distances, matrices)


MAX_TALLY_BYTES = 4_000_000_000  # a layer of 20,480 neurons at 10,000 radii, the most there may be, takes 0.8e9


class Tally:
    """Counts of a layer that grow band by band, as one thread makes them.

    Raises CheckpointError (unsupported) for a layer of so many neurons that their counts would not fit into memory.
    """

    def __init__(self, nodes: int, table: BinTable, distances: bool = True):
        """distances: whether to sum them."""
        needed = 4 * nodes * table.width
        if needed > MAX_TALLY_BYTES:
            raise CheckpointError(
                "unsupported",
                f"counts of a layer of {nodes} neurons at {table.radius_count} radii would take {needed / 1e9:.0f} GB, more "
                f"than {MAX_TALLY_BYTES / 1e9:.0f}; ask for fewer radii (max_distance, or radii = {{ log = K }})",
            )
        self._histogram = np.zeros((nodes, table.width), np.int32)
        self._distances, self._sums_distances = np.zeros(nodes, np.int64), distances
        self._kept = table.radius_count + 1
        self._nonfinite = table.nonfinite

    def add(self, bits: Any, table: BinTable, nodes: slice, nodes_first: bool) -> bool:
        """Count weights of some of the nodes, unsigned integers [edges, nodes], or nodes_first [nodes, edges]; false where one of
        them is not finite. bits: as of a `WeightTile`, on the CPU or on a device.
        """
        counts = self._histogram[nodes]
        distances = self._distances[nodes] if self._sums_distances else None
        if not isinstance(bits, np.ndarray):
            from ninscope.devices import column_counts

            there, lengths = column_counts(bits, table, nodes_first, distances is not None)
            counts += there
            if distances is not None:
                distances += lengths
        else:
            count = row_histogram if nodes_first else column_histogram
            count(bits, table, counts, distances)
        return not counts[:, self._nonfinite].any()

    @property
    def every_bin(self) -> np.ndarray:
        """int32 [nodes, table.width]: what does not count, and what is not finite, with it."""
        return self._histogram

    @property
    def counts(self) -> LayerCounts:
        return LayerCounts(self._histogram[:, : self._kept], self._distances)


def radii_of(network: NeuronNetwork, parameters: Parameters, workers: int = 1) -> Radii:
    """The grid of radii of a whole network; a logarithmic one takes a pass over its weights, in `workers` threads.

    Raises CheckpointError.
    """
    if parameters.log_count is None:
        return parameters.integer_radii
    return log_radii(parameters.log_count, magnitudes(network, workers=workers))


def magnitudes(network: NeuronNetwork, number: int = 0, count: int = 1, workers: int = 1) -> np.ndarray:
    """The smallest and largest |w| of every band of piece `number` of `count` of a network, float64 [n].

    Raises CheckpointError.
    """
    _, bands = bands_of(outgoing(network), number, count)
    reader = BandReader(bands)

    def range_of(band: Band) -> tuple[float, float]:
        return magnitudes_of(band, reader.raw(band))

    if workers == 1:
        return np.array([range_of(band) for band in bands], dtype=np.float64).reshape(-1)
    with ThreadPoolExecutor(workers) as pool:
        return np.array(list(pool.map(range_of, bands)), dtype=np.float64).reshape(-1)


def magnitudes_of(band: Band, raw: Sequence[memoryview]) -> tuple[float, float]:
    """The smallest |w| above 0 and the largest |w| of a band; 0 where there is none. Raises CheckpointError (nonfinite)."""
    matrix = band.part.matrix
    (targets,) = band.part.targets
    ranges = []
    for tile in matrix.tiles(raw, band.first):
        bits, _ = tile.chosen(targets, None)
        if bits.size:
            ranges.append(magnitude_range(bits, matrix.dtype))
    if not all(np.isfinite(largest) for _, largest in ranges):
        matrix.check_stored(raw, band.first)
    smallest = min((low for low, _ in ranges if low > 0), default=0.0)
    return smallest, max((high for _, high in ranges), default=0.0)


def count_band(
    band: Band,
    raw: Sequence[memoryview],
    table: BinTable,
    tallies: Sequence[Tally],
    matrices: bool = False,
    see_along: Callable[[WeightTile], object] | None = None,
) -> dict[str, BlockTally]:
    """Add one band, whose bytes are `raw`, to the tallies, one for each network that is analysed.

    matrices: whether to return what null models need of the band, by the matrix's name. see_along: is shown every tile that was
    counted. Raises CheckpointError (nonfinite).
    """
    part = band.part
    blocks: dict[str, BlockTally] = {}
    for tile in band.tiles(raw):
        for targets, nodes, tally in zip(part.targets, part.nodes, tallies, strict=True):
            bits, counted = tile.chosen(targets, nodes)
            if 0 not in bits.shape and not tally.add(bits, table, counted, tile.nodes_first):
                band.check_stored(raw)
        if matrices:
            blocks = merged(blocks, _block_tallies(part, tile, table))
        if see_along is not None:
            see_along(tile)
    return blocks


def _block_tallies(part: Outgoing, tile: WeightTile, table: BinTable) -> dict[str, BlockTally]:
    tallies = {}
    for target, targets in part.leads_to.items():
        bits, _ = tile.chosen(targets, None)
        if bits.size:
            # As it is stored, so that what is averaged first does not depend on where a band begins.
            tally = block_tally(part.layer, target, np.ascontiguousarray(bits), part.matrix.dtype, table)
            tallies[tally.name] = tally
    return tallies
