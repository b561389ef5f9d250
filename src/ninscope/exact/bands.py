"""What the exact analysis reads, and in which pieces: tensors in the order of the node layers, each in bands of slices."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ninscope.architectures.layout import WeightBlock
from ninscope.checkpoints.finite import first_nonfinite
from ninscope.checkpoints.held_pieces import HeldPiece, bits_of, is_spread, lies_on_device, lying_pieces
from ninscope.checkpoints.matrix import WeightMatrix, WeightTile
from ninscope.checkpoints.read_ahead import ReadAhead
from ninscope.devices import kernel_of
from ninscope.errors import CheckpointError
from ninscope.networks.bin_table import MAX_EDGES_OF_A_NODE
from ninscope.networks.neuron_network import NeuronNetwork

BAND_BYTES = 8_000_000  # read and counted at a time by one thread: small beside memory, large beside a disk's latency
DEVICE_BAND_BYTES = (
    64_000_000  # counted at a time where weights lie on a device: what is copied of them there stays below that
)

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
    """Slices first..last-1 of the tensor through which edges leave a layer: all that they hold, or what a piece holds of them.

    piece: the box of the tensor that lies in memory here, which is counted where it is; None: its bytes are read.
    """

    part: Outgoing
    first: int
    last: int
    piece: HeldPiece | None = None

    @property
    def is_counted_in_place(self) -> bool:
        """Whether its weights lie on a device that counts them."""
        return self.piece is not None and self.part.matrix.has_two_axes and counted_in_place(self.piece.values)

    def tiles(self, raw: Sequence[memoryview]) -> Iterator[WeightTile]:
        """Its weights. raw: its bytes, none of a piece."""
        if self.piece is None:
            yield from self.part.matrix.tiles(raw, self.first)
        else:
            yield from _tiles_of_piece(self.part.matrix, self.piece, self.first, self.last)

    def check_stored(self, raw: Sequence[memoryview]) -> None:
        """Raises CheckpointError (nonfinite), with the place, where a number of it is not finite."""
        matrix = self.part.matrix
        if self.piece is None:
            matrix.check_stored(raw, self.first)
            return
        dtype = matrix.tensor.dtype
        held = bits_of(_slices(self.piece, self.first, self.last), dtype)
        position = first_nonfinite(held, dtype)
        if position >= 0:
            index = np.unravel_index(position, held.shape)
            start = (self.first, *self.piece.start[1:])
            raise matrix.tensor.nonfinite([int(first + at) for first, at in zip(start, index, strict=True)])

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
        read = [band for band in bands if band.piece is None]
        self._numbers = {band.key: number for number, band in enumerate(read)}
        self._reads = ReadAhead([band.part.matrix.byte_ranges(band.first, band.last) for band in read])

    def raw(self, band: Band) -> list[memoryview]:
        """The bytes of a band; none where it lies in memory as a piece. Raises CheckpointError."""
        return [] if band.piece is not None else self._reads.take(self._numbers[band.key])


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


def held_bands(parts: Sequence[Outgoing], counts_whole: bool = True) -> list[Band]:
    """The bands of what lies in memory here, in the order of layers and slices, and of all that is read from elsewhere.

    counts_whole: whether this process counts what ranks do not share (files, adapters merged as they are read, tensors that every
    rank holds whole); of several ranks one does.
    """
    bands = []
    for part in parts:
        if not counts_whole and not is_spread(part.matrix.tensor):
            continue
        pieces = lying_pieces(part.matrix.tensor)
        if pieces is None:
            bands += [Band(part, first, last) for first, last in part.spans(BAND_BYTES)]
            continue
        for piece in pieces:
            bands += [Band(part, first, last, piece) for first, last in _spans_of_piece(part.matrix, piece)]
    return bands


def _spans_of_piece(matrix: WeightMatrix, piece: HeldPiece) -> Iterator[tuple[int, int]]:
    rows = piece.shape[0]
    if 0 in piece.shape:
        return
    row_bytes = matrix.slice_bytes * math.prod(piece.shape[1:]) // max(matrix.tensor.columns, 1)
    height = max((DEVICE_BAND_BYTES if lies_on_device(piece.values) else BAND_BYTES) // max(row_bytes, 1), 1)
    for first in range(0, rows, height):
        yield piece.start[0] + first, piece.start[0] + min(first + height, rows)


def _slices(piece: HeldPiece, first: int, last: int) -> Any:
    return piece.values[first - piece.start[0] : last - piece.start[0]]


def _tiles_of_piece(matrix: WeightMatrix, piece: HeldPiece, first: int, last: int) -> Iterator[WeightTile]:
    """Raises CheckpointError (unsupported): a part of a convolution's channels, or of a group's."""
    weights, dtype = _slices(piece, first, last), matrix.tensor.checked_float_type()
    if matrix.has_two_axes:
        bits = weights.detach() if counted_in_place(weights) else bits_of(weights, dtype)
        yield matrix.tile_of_box(bits, first, piece.start[1])
        return
    if piece.shape[1:] != matrix.tensor.shape[1:]:
        raise CheckpointError(
            "unsupported",
            f"tensor {matrix.name} {list(matrix.tensor.shape)} is cut across its kernels or groups; shard it along its first axis",
        )
    bits = bits_of(weights, dtype)
    yield from matrix.tiles([bits.reshape(-1).view(np.uint8).data], first)


def counted_in_place(weights: Any) -> bool:
    """Whether there are kernels for weights, where they lie."""
    if not lies_on_device(weights):
        return False
    engine = kernel_of(weights.device.type)
    return engine is not None and engine.takes(weights)
