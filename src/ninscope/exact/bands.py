"""What the exact analysis reads, and in which pieces: tensors in the order of the node layers, each in bands of slices."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ninscope.architectures.layout import WeightBlock
from ninscope.checkpoints.matrix import WeightMatrix
from ninscope.checkpoints.read_ahead import ReadAhead
from ninscope.errors import CheckpointError
from ninscope.networks.bin_table import MAX_EDGES_OF_A_NODE
from ninscope.networks.neuron_network import NeuronNetwork

BAND_BYTES = 8_000_000  # read and counted at a time by one thread: small beside memory, large beside a disk's latency

# Neurons by node layer, sorted int64; None is the whole network.
ChosenNeurons = Mapping[str, np.ndarray] | None


@dataclass(frozen=True)
class Outgoing:
    """All edges that leave one node layer through one matrix, for each network that is analysed.

    targets, nodes: one entry a network: sorted int64 numbers in the matrix, or None for all of it. leads_to: by the name of each
    target layer, the matrix's targets that belong to it, int64.
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
    def key(self) -> tuple[str, str, int]:
        """Tells it from every other band of a network."""
        return self.part.layer, self.part.matrix.name, self.first


class BandReader:
    """The weights of bands, each read once, about in this order, by any thread."""

    def __init__(self, bands: Sequence[Band]) -> None:
        self._numbers = {band.key: number for number, band in enumerate(bands)}
        self._reads = ReadAhead([band.part.matrix.byte_ranges(band.first, band.last) for band in bands])

    def raw(self, band: Band) -> list[memoryview]:
        """The bytes of a band. Raises CheckpointError."""
        return self._reads.take(self._numbers[band.key])


def outgoing(network: NeuronNetwork, choices: Sequence[ChosenNeurons] = (None,)) -> list[Outgoing]:
    """Which matrices hold the edges of each node layer, and which part of them, layers in the network's order.

    choices: the neurons of each network that is analysed. Raises CheckpointError (unsupported) for a layer whose neurons may
    have more edges than their distances can be summed for.
    """
    grouped: dict[tuple[str, str], list[WeightBlock]] = {}
    edges: dict[str, int] = {}
    sizes, matrices = network.sizes, network.matrices
    for block in network.blocks:
        grouped.setdefault((block.source, block.tensor), []).append(block)
        edges[block.source] = edges.get(block.source, 0) + sizes[block.target] * matrices[block.tensor].taps
        if edges[block.source] > MAX_EDGES_OF_A_NODE:
            raise CheckpointError(
                "unsupported",
                f"a neuron of {block.source} may have {edges[block.source]} edges, more than {MAX_EDGES_OF_A_NODE}",
            )
    order = {layer.name: number for number, layer in enumerate(network.layers)}
    parts = []
    for (source, name), blocks in grouped.items():
        targets, nodes = [], []
        for chosen in choices:
            neurons = [np.arange(sizes[b.target]) if chosen is None else chosen[b.target] for b in blocks]
            rows = np.sort(np.concatenate([b.rows.rows(n) for b, n in zip(blocks, neurons, strict=True)]))
            targets.append(None if rows.size == matrices[name].size[0] else rows)
            nodes.append(None if chosen is None or chosen[source].size == sizes[source] else chosen[source])
        leads_to = {block.target: block.rows.rows(np.arange(sizes[block.target])) for block in blocks}
        parts.append(Outgoing(source, matrices[name], tuple(targets), tuple(nodes), leads_to))
    return sorted(parts, key=lambda part: order[part.layer])


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
