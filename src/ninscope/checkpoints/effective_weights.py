"""Weights that a model computes from what is stored, computed as their rows are read: g * v / |v|, W / sigma, W * mask.

The formulas are those of torch.nn.utils: weight_norm (Salimans and Kingma 2016), spectral_norm (Miyato et al. 2018) with the
vectors that the file holds, as the model in eval mode uses them, and prune. Sums are taken in float64, and the weight is rounded
to the type in which the tensor is stored (to BF16 by way of float32). A norm of rows follows from the rows themselves; any other
factor takes one pass over the tensor, when it is first needed.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ninscope.checkpoints.formats.weight_file import FileSpan
from ninscope.checkpoints.tensors import STORED_TYPES, Tensor, as_float, as_stored
from ninscope.errors import CheckpointError

ADVICE = "remove the parametrization (torch.nn.utils.parametrize.remove_parametrizations) and save again"
ADVICE_IN_MEMORY = (
    "remove the parametrization (torch.nn.utils.parametrize.remove_parametrizations), or measure a copy without it"
)
_BAND_BYTES = 8_000_000
_NEAR = 0.5  # cosine of u and W v: near 1 along the right axis, near 0 along another


def untold(tensor: Tensor, stored: str = "") -> str:
    """ "its file does not tell (a, b); ...": what cannot be known of a tensor, and what to do. stored: what there is of it."""
    in_memory = getattr(tensor.file, "is_in_memory", False)
    holder, advice = ("the model's tensors do", ADVICE_IN_MEMORY) if in_memory else ("its file does", ADVICE)
    return f"{holder} not tell{f' ({stored})' if stored else ''}; {advice}"


class Formula(Protocol):
    """How the rows of a weight follow from those of the tensor that is stored."""

    @property
    def stored(self) -> Tensor: ...

    @property
    def reads_twice(self) -> bool:
        """Whether `prepared` reads the tensor that is stored."""

    def prepared(self) -> np.ndarray:
        """What all rows need, float64; made once. Raises CheckpointError."""

    def rows(self, values: np.ndarray, first: int, prepared: np.ndarray) -> np.ndarray:
        """The weight's rows first, first + 1, ...; values: those of the tensor, float64 [rows, further axes]."""


@dataclass(frozen=True)
class Normed:
    """g * v / |v|. axis: along which each entry has a norm of its own (0: each row); None: the tensor has one norm."""

    stored: Tensor
    g: Tensor
    axis: int | None

    @property
    def reads_twice(self) -> bool:
        return self.axis != 0

    def prepared(self) -> np.ndarray:
        g = whole(self.g)
        if self.axis == 0:
            return g
        others = tuple(axis for axis in range(len(self.stored.shape)) if axis != self.axis)
        squares = np.zeros(g.size)
        for _, band in _bands(self.stored):
            squares += (band * band).sum(axis=others).reshape(-1)
        return g / np.sqrt(squares)

    def rows(self, values: np.ndarray, first: int, prepared: np.ndarray) -> np.ndarray:
        if self.axis != 0:
            return values * _along(self.axis or 0, prepared, values.ndim)
        flat = values.reshape(len(values), -1)
        factors = prepared[first : first + len(values)] / np.sqrt((flat * flat).sum(axis=1))
        return values * _along(0, factors, values.ndim)


@dataclass(frozen=True)
class SpectrallyNormed:
    """W / (u W v), where one axis of W is the first of a matrix and all others are the second.

    axes: those that u and v fit. Of several it is the one along which u is about W v, as power iteration leaves it.
    """

    stored: Tensor
    u: Tensor
    v: Tensor
    axes: tuple[int, ...]
    reads_twice = True

    def prepared(self) -> np.ndarray:
        u = whole(self.u)
        products = [self._times_v(axis) for axis in self.axes]
        sigmas = [float(u @ product) for product in products]
        if len(products) == 1:
            return np.array(sigmas[0])
        near = [
            sigma
            for sigma, product in zip(sigmas, products, strict=True)
            if abs(sigma) > _NEAR * np.linalg.norm(u) * np.linalg.norm(product)
        ]
        if len(near) != 1:
            raise CheckpointError(
                "unsupported",
                f"tensor {self.stored.name} is under spectral_norm along an axis that {untold(self.stored)}",
            )
        return np.array(near[0])

    def _times_v(self, axis: int) -> np.ndarray:
        """W v, with this axis the first of W."""
        shape = list(self.stored.shape)
        shape[axis] = 1
        v = whole(self.v).reshape(shape)
        others = tuple(number for number in range(len(shape)) if number != axis)
        product = np.zeros(self.stored.shape[axis])
        for first, band in _bands(self.stored):
            rows = slice(first, first + len(band))
            if axis == 0:
                product[rows] = (band * v).sum(axis=others)
            else:
                product += (band * v[rows]).sum(axis=others)
        return product

    def rows(self, values: np.ndarray, first: int, prepared: np.ndarray) -> np.ndarray:
        return values / prepared


@dataclass(frozen=True)
class Masked:
    """W * mask."""

    stored: Tensor
    mask: Tensor
    reads_twice = False

    def prepared(self) -> np.ndarray:
        return np.empty(0)

    def rows(self, values: np.ndarray, first: int, prepared: np.ndarray) -> np.ndarray:
        return values * _rows(self.mask, first, first + len(values))


class EffectiveFile:
    """A file of which one tensor is read as the weight that a formula makes of it; nothing else is read through it."""

    def __init__(self, formula: Formula):
        file = formula.stored.file
        self.name, self.size, self.reads_are_free = file.name, file.size, file.reads_are_free
        self._file, self._formula = file, formula
        self._lock = threading.Lock()
        self._prepared: np.ndarray | None = None

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return self._computed(ranges, self._file.read_ranges(ranges))

    def start_ranges(self, ranges: Sequence[tuple[int, int]]) -> Callable[[], list[memoryview]]:
        ranges = list(ranges)
        read = self._file.start_ranges(ranges)
        return lambda: self._computed(ranges, read())

    def spans(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """The spans of the tensors that are stored; vectors, and passes for norms of other axes than rows, come on top."""
        return self._file.spans(ranges)

    def beneath(self, start: int, stop: int) -> list[FileSpan]:
        """What is read of the tensor, and beside it all of the others."""
        formula = self._formula
        others = [part for part in vars(formula).values() if isinstance(part, Tensor) and part is not formula.stored]
        return [
            FileSpan(self._file, start, stop, is_repeated=formula.reads_twice),
            *(FileSpan(part.file, part.entry.start, part.entry.stop, is_beside=True) for part in others),
        ]

    def _computed(self, ranges: Sequence[tuple[int, int]], pieces: Sequence[memoryview]) -> list[memoryview]:
        return [self._of(start, stop, piece) for (start, stop), piece in zip(ranges, pieces, strict=True)]

    def _of(self, start: int, stop: int, piece: memoryview) -> memoryview:
        """The weight's bytes; the tensor is read in whole rows."""
        stored = self._formula.stored
        first, beside = divmod(start - stored.entry.start, stored.row_bytes)
        if beside or (stop - start) % stored.row_bytes:
            raise CheckpointError(
                "unsupported", f"tensor {stored.name} holds several matrices and is reparametrised as one; {ADVICE}"
            )
        computed = bytearray(stop - start)
        height = _height(stored)
        with np.errstate(all="ignore"):  # what is not finite is found where weights are checked
            prepared = self._preparation()
            for begin in range(0, stop - start, height * stored.row_bytes):
                part = slice(begin, begin + height * stored.row_bytes)
                band = first + begin // stored.row_bytes
                rows = self._formula.rows(_floats(stored, piece[part]), band, prepared)
                computed[part] = as_stored(rows, stored.dtype).tobytes()
        return memoryview(computed)

    def _preparation(self) -> np.ndarray:
        with self._lock:
            if self._prepared is None:
                self._prepared = self._formula.prepared()
            return self._prepared


def whole(tensor: Tensor) -> np.ndarray:
    """All numbers of a tensor of any shape, float64 [numbers]. Raises CheckpointError."""
    (piece,) = tensor.file.read_ranges([(tensor.entry.start, tensor.entry.stop)])
    return _numbers(tensor, piece)


def _along(axis: int, vector: np.ndarray, axes: int) -> np.ndarray:
    """A vector that stands along one of several axes, the others of length 1."""
    return vector.reshape([-1 if number == axis else 1 for number in range(axes)])


def _bands(tensor: Tensor) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows as float64 [rows, further axes]) of a tensor, some at a time. Raises CheckpointError."""
    height = _height(tensor)
    for first in range(0, tensor.shape[0], height):
        yield first, _rows(tensor, first, min(first + height, tensor.shape[0]))


def _height(tensor: Tensor) -> int:
    """How many rows are held as float64 at a time."""
    return max(_BAND_BYTES // tensor.row_bytes, 1)


def _rows(tensor: Tensor, first: int, last: int) -> np.ndarray:
    (piece,) = tensor.file.read_ranges(tensor.ranges_of_span(first, last).ranges)
    return _floats(tensor, piece)


def _floats(tensor: Tensor, piece: memoryview) -> np.ndarray:
    """The bytes of whole rows as float64 [rows, further axes]."""
    return _numbers(tensor, piece).reshape(-1, *tensor.shape[1:])


def _numbers(tensor: Tensor, piece: memoryview) -> np.ndarray:
    stored = np.frombuffer(bytes(piece), STORED_TYPES[tensor.dtype])
    return as_float(stored, tensor.dtype).astype(np.float64)
