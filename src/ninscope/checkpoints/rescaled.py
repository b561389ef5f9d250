"""A matrix whose rows and columns are multiplied by factors as its rows are read, and the norms that decide such factors.

Products are taken in float64, first with the column's factor, and kept as F32 (of F64 tensors as F64), however a tensor is
stored: F16 and BF16 would round each weight by up to 1/2,048 and 1/256 of itself.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ninscope.checkpoints.formats.weight_file import FileSpan, TensorEntry
from ninscope.checkpoints.matrix import WeightMatrix
from ninscope.checkpoints.tensors import STORED_TYPES, Tensor, as_float
from ninscope.errors import CheckpointError

_BAND_BYTES = 4_000_000

# (factors of targets, factors of nodes), float64; found when they are first needed
Factors = Callable[[], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class RescaledTensor(Tensor):
    """computed_from: the tensor that is read."""

    computed_from: Tensor


def rescaled(matrix: WeightMatrix, factors: Factors) -> WeightMatrix:
    """The matrix with each edge multiplied by the factors of its target and of its node; nothing is read yet."""
    stored = matrix.tensor
    dtype = "F64" if stored.checked_float_type() == "F64" else "F32"
    size = np.dtype(STORED_TYPES[dtype]).itemsize * stored.columns * stored.shape[0]
    entry = TensorEntry(stored.name, dtype, stored.shape, 0, size)
    return replace(matrix, tensor=RescaledTensor(entry, _RescaledFile(matrix, dtype, factors), stored))


def squared_norms(matrix: WeightMatrix, targets: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(of each target, of each node): the sum of the squares of its weights, each times two factors; float64.

    targets, nodes: the factors, float64. A kernel's weights are all of its taps. Raises CheckpointError: nonfinite, with the
    place; unsupported, where weights are finite and their squares are not.
    """
    nodes_first = matrix.layout.nodes_first
    of_slices, of_others = (nodes, targets) if nodes_first else (targets, nodes)
    slices, others = np.empty(of_slices.size), np.zeros(of_others.size)
    for first, band in _bands(matrix.tensor):
        last = first + len(band)
        with np.errstate(over="ignore"):
            squares = _scaled(band, of_slices[first:last], of_others)
            squares *= squares
            squares = squares.sum(axis=2) if squares.shape[2] > 1 else squares[:, :, 0]
            slices[first:last] = squares.sum(axis=1)
            others += squares.sum(axis=0)
    if not np.isfinite(slices).all():
        raise CheckpointError(
            "unsupported", f"tensor {matrix.name} holds weights so large that their squares are not finite"
        )
    return (others, slices) if nodes_first else (slices, others)


class _RescaledFile:
    """The bytes of one tensor, computed."""

    def __init__(self, matrix: WeightMatrix, dtype: str, factors: Factors):
        self._matrix, self._stored, self._dtype, self._factors = matrix, matrix.tensor, dtype, factors
        file = matrix.tensor.file
        self.name, self.size, self.reads_are_free = file.name, file.size, file.reads_are_free
        self._row_bytes = np.dtype(STORED_TYPES[dtype]).itemsize * matrix.tensor.columns

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return self.start_ranges(ranges)()

    def start_ranges(self, ranges: Sequence[tuple[int, int]]) -> Callable[[], list[memoryview]]:
        ranges = list(ranges)
        read = self._stored.file.start_ranges(self._beneath(ranges))
        return lambda: [self._of(start, piece) for (start, _), piece in zip(ranges, read(), strict=True)]

    def spans(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """The spans of the tensor that is stored; the pass for the norms comes on top."""
        return self._stored.file.spans(self._beneath(ranges))

    def beneath(self, start: int, stop: int) -> list[FileSpan]:
        """The rows that are stored, which the pass for the norms has read before."""
        ((first, last),) = self._beneath([(start, stop)])
        return [FileSpan(self._stored.file, first, last, is_repeated=True)]

    def _beneath(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Where the rows lie that are stored; tensors are read in whole rows."""
        rows = [(start // self._row_bytes, -(-stop // self._row_bytes)) for start, stop in ranges]
        return [self._stored.ranges_of_span(first, last).ranges[0] for first, last in rows]

    def _of(self, start: int, piece: memoryview) -> memoryview:
        targets, nodes = self._factors()
        of_slices, of_others = (nodes, targets) if self._matrix.layout.nodes_first else (targets, nodes)
        stored, first = self._stored, start // self._row_bytes
        count = len(piece) // stored.row_bytes
        computed = np.empty((count, stored.columns), STORED_TYPES[self._dtype])
        height = _height(stored)
        for begin in range(0, count, height):
            end = min(begin + height, count)
            band = _floats(stored, piece[begin * stored.row_bytes : end * stored.row_bytes])
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found where weights are checked
                rows = _scaled(band, of_slices[first + begin : first + end], of_others)
                computed[begin:end] = rows.reshape(end - begin, -1)
        return computed.reshape(-1).view(np.uint8).data


def _scaled(band: np.ndarray, slices: np.ndarray, others: np.ndarray) -> np.ndarray:
    """band: float64 [slices, others, taps]. Rounded the same way whichever axis is stored first, but for the last bit."""
    scaled = band * others[None, :, None]
    scaled *= slices[:, None, None]
    return scaled


def _bands(tensor: Tensor) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows as float64 [rows, second axis, further axes in one]), checked. Raises CheckpointError."""
    height = _height(tensor)
    for first in range(0, tensor.shape[0], height):
        last = min(first + height, tensor.shape[0])
        (piece,) = tensor.file.read_ranges(tensor.ranges_of_span(first, last).ranges)
        values = np.frombuffer(piece, STORED_TYPES[tensor.dtype]).reshape(last - first, -1)
        tensor.check_finite(values, np.arange(first, last))
        yield first, _floats(tensor, piece)


def _height(tensor: Tensor) -> int:
    """How many rows are held as float64 at a time."""
    return max(_BAND_BYTES // tensor.row_bytes, 1)


def _floats(tensor: Tensor, piece: memoryview) -> np.ndarray:
    stored = np.frombuffer(bytes(piece), STORED_TYPES[tensor.dtype])
    values = as_float(stored, tensor.dtype).astype(np.float64)
    return values.reshape(-1, tensor.shape[1], max(tensor.columns // max(tensor.shape[1], 1), 1))
