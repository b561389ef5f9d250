"""Counting one band of rows: edges per node and radius, and the sum of their distances."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ninscope.architectures.layout import Architecture
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.errors import CheckpointError
from ninscope.exact.bands import Band, BandReader, bands_of, outgoing
from ninscope.exact.blocks import BlockTally, block_tally, merged
from ninscope.multifractal.boxes import column_histogram
from ninscope.networks.bin_table import BinTable, bin_table, magnitude_range
from ninscope.networks.radii import IntegerRadii, Radii, log_radii
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

    def __init__(self, nodes: int, table: BinTable):
        needed = 4 * nodes * table.width
        if needed > MAX_TALLY_BYTES:
            raise CheckpointError(
                "unsupported",
                f"counts of a layer of {nodes} neurons at {table.radius_count} radii would take {needed / 1e9:.0f} GB, more "
                f"than {MAX_TALLY_BYTES / 1e9:.0f}; ask for fewer radii (max_distance, or radii = {{ log = K }})",
            )
        self._histogram = np.zeros((nodes, table.width), np.int32)
        self._distances = np.zeros(nodes, np.int64)
        self._kept = table.radius_count + 1
        self._nonfinite = table.nonfinite

    def add(self, bits: np.ndarray, table: BinTable) -> bool:
        """Count weights, unsigned integers [rows, nodes]; false where one of them is not finite."""
        column_histogram(bits, table, self._histogram, self._distances)
        return not self._histogram[:, self._nonfinite].any()

    @property
    def counts(self) -> LayerCounts:
        return LayerCounts(self._histogram[:, : self._kept], self._distances)


def radii_of(checkpoint: Checkpoint, architecture: Architecture, parameters: Parameters, workers: int = 1) -> Radii:
    """The grid of radii of a checkpoint's whole network; a logarithmic one takes a pass over its weights, in threads.

    Raises CheckpointError.
    """
    if parameters.log_count is None:
        return parameters.integer_radii
    return log_radii(parameters.log_count, magnitudes(checkpoint, architecture, workers=workers))


def magnitudes(
    checkpoint: Checkpoint, architecture: Architecture, number: int = 0, count: int = 1, workers: int = 1
) -> np.ndarray:
    """The smallest and largest |w| of every band of a piece of a checkpoint, float64 [n]. Raises CheckpointError."""
    _, bands = bands_of(outgoing(architecture, architecture.tensors(checkpoint.tensors)), number, count)
    reader = BandReader(bands)
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda band: magnitudes_of(band, reader.bits(band)), bands)
        return np.array(list(found), dtype=np.float64).reshape(-1)


def magnitudes_of(band: Band, bits: np.ndarray) -> tuple[float, float]:
    """The smallest |w| above 0 and the largest |w| of a band; 0 where there is none. Raises CheckpointError (nonfinite)."""
    tensor = band.part.tensor
    (rows,) = band.part.rows
    if rows is not None:
        bits = bits[band.inside(rows) - band.first]
    smallest, largest = magnitude_range(bits, tensor.checked_float_type())
    if not np.isfinite(largest):
        raise _nonfinite(band, bits, rows, None, bin_table(tensor.checked_float_type(), IntegerRadii()))
    return smallest, largest


def count_band(
    band: Band, bits: np.ndarray, table: BinTable, tallies: Sequence[Tally], matrices: bool = False
) -> dict[str, BlockTally]:
    """Add one band, of these weights, to the tallies, one for each network that is looked at; matrices: returns what null
    models need of it.

    Raises CheckpointError (nonfinite).
    """
    part = band.part
    for rows, columns, tally in zip(part.rows, part.columns, tallies, strict=True):
        chosen = bits if rows is None else bits[band.inside(rows) - band.first]
        chosen = chosen if columns is None else chosen.take(columns, axis=1)
        if not tally.add(chosen, table):
            raise _nonfinite(band, chosen, rows, columns, table)
    return _block_tallies(band, bits, table) if matrices else {}


def _nonfinite(band: Band, bits: np.ndarray, rows, columns, table: BinTable) -> CheckpointError:
    """bits: the band's weights at these rows and columns (None for all), one of which is not finite."""
    bad = int(np.flatnonzero((bits & table.magnitude) >= table.starts[-2])[0])
    row, column = divmod(bad, bits.shape[1])
    row = band.first + row if rows is None else int(band.inside(rows)[row])
    column = column if columns is None else int(columns[column])
    return CheckpointError(
        "nonfinite",
        f"tensor {band.part.tensor.name} holds NaN or infinity, first at row {row}, column {column}; "
        "its network has no distances there",
    )


def _block_tallies(band: Band, bits: np.ndarray, table: BinTable) -> dict[str, BlockTally]:
    found = {}
    for target, rows in band.part.targets.items():
        inside = band.inside(rows)
        if inside.size:
            tally = block_tally(band.part.layer, target, bits[inside - band.first], band.part.tensor.dtype, table)
            found[tally.name] = tally
    return found
