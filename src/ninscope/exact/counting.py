"""Counting one band of rows: edges per node and radius, and the sum of their distances."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ninscope.checkpoints.held_pieces import bits_of
from ninscope.checkpoints.matrix import WeightTile
from ninscope.devices import Tally as DeviceTally
from ninscope.devices import kernel_of
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
        self._shape, self._sums_distances = (nodes, table.width), distances
        self._kept = table.radius_count + 1
        self._nonfinite = table.nonfinite
        self._arrays: tuple[np.ndarray, np.ndarray] | None = None  # made when something is counted
        self._on_devices: dict[str, DeviceTally] = {}  # what is not yet added to these
        self._used_devices = False

    def add(self, bits: Any, table: BinTable, nodes: slice, nodes_first: bool) -> bool:
        """Count weights of some of the nodes, unsigned integers [edges, nodes], or nodes_first [nodes, edges]; false where one of
        them is not finite.

        bits: as of a `WeightTile`, on the CPU or on a device. What a device counts it may still be counting: `all_finite` waits.
        """
        if not isinstance(bits, np.ndarray):
            if self._counted_on_device(bits, table, nodes, nodes_first):
                return True
            bits = bits_of(bits, "F32" if table.magnitude.itemsize == 4 else "BF16")
        histogram, sums = self._here()
        counts = histogram[nodes]
        count = row_histogram if nodes_first else column_histogram
        count(bits, table, counts, sums[nodes] if self._sums_distances else None)
        return not counts[:, self._nonfinite].any()

    def _here(self) -> tuple[np.ndarray, np.ndarray]:
        """(edges per bin, sums of distances) of what was counted here, to be added to."""
        if self._arrays is None:
            self._arrays = np.zeros(self._shape, np.int32), np.zeros(self._shape[0], np.int64)
        return self._arrays

    def _counted_on_device(self, values: Any, table: BinTable, nodes: slice, nodes_first: bool) -> bool:
        """Count weights where they lie; false where there is no kernel for them and the table."""
        engine = kernel_of(values.device.type)
        if engine is None or not engine.can_count(table, self._sums_distances):
            return False
        self._used_devices = True
        device = str(values.device)
        tally = self._on_devices.get(device) or engine.tally(*self._shape, values.device, self._sums_distances)
        if tally is not None:
            self._on_devices[device] = tally
            tally.add(values, table, nodes, nodes_first)
            return True
        histogram, sums = self._here()  # there is no room for them on the device at present
        counts, distances = engine.column_counts(values, table, nodes_first, self._sums_distances)
        histogram[nodes] += counts
        sums[nodes] += distances
        return True

    def _all(self) -> tuple[np.ndarray, np.ndarray]:
        """(edges per bin, sums of distances), with what devices counted."""
        tallies, self._on_devices = list(self._on_devices.values()), {}
        for tally in tallies:
            tally.start_copy()
        for tally in tallies:
            if self._arrays is None:
                self._arrays = tally.counts()
            else:
                for held, there in zip(self._arrays, tally.counts(), strict=True):
                    held += there
        return self._here()

    @property
    def all_finite(self) -> bool:
        """Whether all weights that devices counted are finite."""
        return not self._used_devices or not self._all()[0][:, self._nonfinite].any()

    @property
    def every_bin(self) -> np.ndarray:
        """int32 [nodes, table.width]: what does not count, and what is not finite, with it."""
        return self._all()[0]

    @property
    def counts(self) -> LayerCounts:
        histogram, sums = self._all()
        return LayerCounts(histogram[:, : self._kept], sums)


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


_one_band = threading.Lock()  # on devices: what they copy of its weights, to count it, they have for one band at a time


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
    with _one_band if band.is_counted_in_place else nullcontext():
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


def check_finite(tallies: Iterable[Tally], bands: Sequence[Band]) -> None:
    """Wait for what devices count of bands. Raises CheckpointError (nonfinite), with the place, where a weight is not finite."""
    if not all(tally.all_finite for tally in tallies):
        for band in bands:
            if band.is_counted_in_place:
                band.check_stored(())


def _block_tallies(part: Outgoing, tile: WeightTile, table: BinTable) -> dict[str, BlockTally]:
    tallies = {}
    for target, targets in part.leads_to.items():
        bits, _ = tile.chosen(targets, None)
        if bits.size:
            # As it is stored, so that what is averaged first does not depend on where a band begins.
            tally = block_tally(part.layer, target, np.ascontiguousarray(bits), part.matrix.dtype, table)
            tallies[tally.name] = tally
    return tallies
