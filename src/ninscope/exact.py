"""The exact analysis: every neuron and every weight of a checkpoint, streamed from where it lies; nothing is sampled or kept.

Counts are integers, so a tensor may be read in bands of rows, by any number of threads, in any order; partition sums of the
node layers are added in the architecture's order. So the result does not depend on how the work was split, to the last bit.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from ninscope.architectures.layout import Architecture, WeightBlock
from ninscope.checkpoints.tensors import Checkpoint, Tensor
from ninscope.errors import CheckpointError
from ninscope.multifractal.boxes import column_histogram
from ninscope.multifractal.node_dimension import mass_radius_fits
from ninscope.multifractal.partition import PartitionSums, partition_sums
from ninscope.multifractal.spectrum import Spectrum, mass_quality, spectrum_of_sums
from ninscope.networks.bin_table import BinTable, bin_table

BAND_BYTES = 8_000_000  # read and counted at a time by one thread: small beside memory, large beside a disk's latency


@dataclass(frozen=True)
class Outgoing:
    """All edges that leave one node layer through one tensor: whole rows of it, or the listed ones."""

    layer: str
    tensor: Tensor
    rows: np.ndarray | None  # sorted int64, None for all

    def bands(self) -> Iterator[tuple[int, int]]:
        """Half-open spans of row numbers of about BAND_BYTES each."""
        total, columns = self.tensor.shape
        height = max(BAND_BYTES // max(columns * self.tensor.item_bytes, 1), 1)
        for first in range(0, total, height):
            yield first, min(first + height, total)


@dataclass(frozen=True)
class LayerSums:
    """What the exact analysis keeps of one node layer. r2: of ln N on ln r per counted node; edges: within the bounds."""

    layer: str
    nodes: int
    edges: int
    sums: PartitionSums
    r2: np.ndarray


def exact_spectrum(
    checkpoint: Checkpoint,
    architecture: Architecture,
    q: np.ndarray,
    transfer: str,
    max_distance: float,
    min_degree: int,
    derivative: str = "exact",
    workers: int = 1,
) -> tuple[Spectrum, int, int]:
    """(spectrum, nodes, edges in bounds) of the whole network. workers: threads. Raises CheckpointError."""
    leaving = outgoing(architecture, architecture.tensors(checkpoint.tensors))
    sizes = {layer.name: layer.size for layer in architecture.layers}
    by_layer: dict[str, list[Outgoing]] = {}
    for part in leaving:
        by_layer.setdefault(part.layer, []).append(part)

    with ThreadPoolExecutor(workers) as pool:
        started = [
            _LayerWork(name, sizes[name], parts, transfer, max_distance, min_degree, q).start(pool)
            for name, parts in by_layer.items()
        ]
        try:
            layers = [work.result() for work in started]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    quality = mass_quality(np.concatenate([layer.r2 for layer in layers]))
    total = layers[0].sums
    for layer in layers[1:]:
        total = total + layer.sums
    spectrum = spectrum_of_sums(total, q, derivative, **quality)
    silent = [layer.layer for layer in layers if layer.sums.nodes == 0]
    if silent and not spectrum.message:
        spectrum = replace(spectrum, message=uncounted_layers(silent))
    return spectrum, sum(sizes.values()), sum(layer.edges for layer in layers)


def uncounted_layers(names: list[str]) -> str:
    """One clause that says in which node layers no node had enough edges to count."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"no node of {shown} has enough edges within the distance bounds; the rest was analysed without"


def outgoing(architecture: Architecture, tensors: dict[str, Tensor]) -> list[Outgoing]:
    """Which rows of which tensors hold the edges of each node layer, layers in the architecture's order."""
    grouped: dict[tuple[str, str], list[WeightBlock]] = {}
    for block in architecture.blocks:
        grouped.setdefault((block.source, block.tensor), []).append(block)
    sizes = {layer.name: layer.size for layer in architecture.layers}
    order = {layer.name: number for number, layer in enumerate(architecture.layers)}
    found = []
    for (source, name), blocks in grouped.items():
        rows = np.sort(np.concatenate([block.rows.rows(np.arange(sizes[block.target])) for block in blocks]))
        whole = rows.size == tensors[name].shape[0]
        found.append(Outgoing(source, tensors[name], None if whole else rows))
    return sorted(found, key=lambda part: order[part.layer])


def count_band(part: Outgoing, span: tuple[int, int], table: BinTable) -> np.ndarray:
    """Edges per source node and bin in one band of rows, int32 [columns, table.width]. Raises CheckpointError (nonfinite)."""
    first, last = span
    bits = part.tensor.row_bits(first, last)
    if part.rows is not None:
        inside = part.rows[np.searchsorted(part.rows, first) : np.searchsorted(part.rows, last)]
        bits = bits[inside - first]
    counts = np.zeros((bits.shape[1], table.width), np.int32)
    column_histogram(bits, table, counts)
    if counts[:, table.nonfinite].any():
        bad = np.flatnonzero((bits & table.magnitude) >= table.starts[-2])[0]
        row, column = divmod(int(bad), bits.shape[1])
        row = int(row + first if part.rows is None else inside[row])
        raise CheckpointError(
            "nonfinite",
            f"tensor {part.tensor.name} holds NaN or infinity, first at row {row}, column {column}; "
            "its network has no distances there",
        )
    return counts


class _LayerWork:
    """The bands of one node layer, counted by the pool's threads; whoever finishes the last one takes the sums."""

    def __init__(self, name, size, parts, transfer, max_distance, min_degree, q):
        self.name, self.size, self.parts = name, size, parts
        self.transfer, self.max_distance, self.min_degree, self.q = transfer, max_distance, min_degree, q
        self._lock = threading.Lock()
        self._counts: np.ndarray | None = None
        self._futures: list = []
        self._sums: LayerSums | None = None

    def start(self, pool: ThreadPoolExecutor) -> "_LayerWork":
        bands = [(part, span) for part in self.parts for span in part.bands()]
        self._left = len(bands)
        self._futures = [pool.submit(self._count, part, span) for part, span in bands]
        return self

    def result(self) -> LayerSums:
        for future in self._futures:
            future.result()
        return self._sums if self._sums is not None else self._finish(np.zeros((self.size, 1), np.int32))

    def _count(self, part: Outgoing, span: tuple[int, int]) -> None:
        table = bin_table(part.tensor.checked_float_type(), self.transfer, self.max_distance)
        counts = count_band(part, span, table)[:, : table.radius_count + 1]
        with self._lock:
            self._counts = counts if self._counts is None else self._counts + counts
            self._left -= 1
            last = self._left == 0
        if last:
            self._sums = self._finish(self._counts)
            self._counts = None

    def _finish(self, counts: np.ndarray) -> LayerSums:
        return layer_sums(self.name, counts, self.min_degree, self.q)


def layer_sums(name: str, counts: np.ndarray, min_degree: int, q: np.ndarray) -> LayerSums:
    """Partition sums and fit quality of one node layer from its counts, int32 [nodes, K + 1]."""
    counts = np.ascontiguousarray(counts)
    _, r2 = mass_radius_fits(counts, min_degree)
    edges = int(counts.sum(dtype=np.int64))
    return LayerSums(name, len(counts), edges, partition_sums(counts, min_degree, q), r2[~np.isnan(r2)])
