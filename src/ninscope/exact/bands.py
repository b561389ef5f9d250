"""What the exact analysis reads, and in which pieces: tensors in the order of the node layers, each in bands of slices."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ninscope.architectures.layout import Architecture, WeightBlock
from ninscope.checkpoints.matrix import WeightMatrix
from ninscope.checkpoints.read_ahead import ReadAhead
from ninscope.errors import CheckpointError
from ninscope.networks.bin_table import MAX_EDGES_OF_A_NODE

BAND_BYTES = 8_000_000  # read and counted at a time by one thread: small beside memory, large beside a disk's latency

# Neurons by node layer, sorted int64; None is the whole network.
Chosen = Mapping[str, np.ndarray] | None


@dataclass(frozen=True)
class Outgoing:
    """All edges that leave one node layer through one matrix, for each network that is looked at.

    targets, nodes: one entry a network: sorted int64 numbers in the matrix, or None for all of it. leads_to: the targets that
    belong to each layer that it leads to, by the layer's name.
    """

    layer: str
    matrix: WeightMatrix
    targets: tuple[np.ndarray | None, ...]
    nodes: tuple[np.ndarray | None, ...]
    leads_to: Mapping[str, np.ndarray]

    def spans(self, band_bytes: int) -> Iterator[tuple[int, int]]:
        """Half-open spans of slice numbers of about band_bytes each."""
        total = self.matrix.slices
        height = max(band_bytes // max(self.matrix.slice_bytes, 1), 1)
        for first in range(0, total, height):
            yield first, min(first + height, total)


@dataclass(frozen=True)
class Band:
    """Slices first..last-1 of the tensor through which edges leave a layer."""

    part: Outgoing
    first: int
    last: int

    @property
    def bytes(self) -> int:
        return (self.last - self.first) * self.part.matrix.slice_bytes

    @property
    def place(self) -> tuple[str, str, int]:
        """What no other band of a network has."""
        return self.part.layer, self.part.matrix.name, self.first


class BandReader:
    """The weights of bands that are read once each, about in this order, by any thread."""

    def __init__(self, bands: Sequence[Band]):
        self._numbers = {band.place: number for number, band in enumerate(bands)}
        self._reads = ReadAhead([band.part.matrix.byte_ranges(band.first, band.last) for band in bands])

    def raw(self, band: Band) -> list[memoryview]:
        """Its bytes. Raises CheckpointError."""
        return self._reads.take(self._numbers[band.place])


def outgoing(
    architecture: Architecture, matrices: Mapping[str, WeightMatrix], networks: Sequence[Chosen] = (None,)
) -> list[Outgoing]:
    """Which matrices hold the edges of each node layer, and which part of them, layers in the architecture's order.

    Raises CheckpointError (unsupported) for a layer whose neurons may have more edges than their distances can be summed for.
    """
    grouped: dict[tuple[str, str], list[WeightBlock]] = {}
    edges: dict[str, int] = {}
    sizes = {layer.name: layer.size for layer in architecture.layers}
    for block in architecture.blocks:
        grouped.setdefault((block.source, block.tensor), []).append(block)
        edges[block.source] = edges.get(block.source, 0) + sizes[block.target] * matrices[block.tensor].taps
        if edges[block.source] > MAX_EDGES_OF_A_NODE:
            raise CheckpointError(
                "unsupported",
                f"a neuron of {block.source} may have {edges[block.source]} edges, more than {MAX_EDGES_OF_A_NODE}",
            )
    order = {layer.name: number for number, layer in enumerate(architecture.layers)}
    found = []
    for (source, name), blocks in grouped.items():
        targets, nodes = [], []
        for chosen in networks:
            of_blocks = [np.arange(sizes[b.target]) if chosen is None else chosen[b.target] for b in blocks]
            taken = np.sort(np.concatenate([b.rows.rows(t) for b, t in zip(blocks, of_blocks, strict=True)]))
            targets.append(None if taken.size == matrices[name].size[0] else taken)
            nodes.append(None if chosen is None or chosen[source].size == sizes[source] else chosen[source])
        leads_to = {block.target: block.rows.rows(np.arange(sizes[block.target])) for block in blocks}
        found.append(Outgoing(source, matrices[name], tuple(targets), tuple(nodes), leads_to))
    return sorted(found, key=lambda part: order[part.layer])


def bands_of(parts: Sequence[Outgoing], number: int = 0, count: int = 1) -> tuple[list[Band], list[Band]]:
    """(every band in the order of layers and slices, those of piece `number` of `count`).

    Pieces are consecutive bands of about the same number of bytes, and together all of them.
    """
    total = sum(part.matrix.bytes for part in parts)
    band_bytes = min(BAND_BYTES, -(-total // count))
    bands = [Band(part, first, last) for part in parts for first, last in part.spans(band_bytes)]
    before, piece = 0, []
    for band in bands:
        if before * count // max(total, 1) == number:
            piece.append(band)
        before += band.bytes
    return bands, piece
