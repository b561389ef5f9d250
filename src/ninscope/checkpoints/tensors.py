"""Tensors that are read when asked for: whole slices of the first axis (rows), as stored, from whatever holds the file.

`values` below are arrays in the stored type, little-endian: F16 -> float16, F32 -> float32, F64 -> float64, and BF16,
which numpy lacks, as its uint16 bits until `as_float` widens it to float32 (exactly: bfloat16 is float32's upper half).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ninscope.checkpoints.finite import first_nonfinite
from ninscope.checkpoints.formats.weight_file import TensorEntry, WeightFile
from ninscope.checkpoints.read_ahead import ByteRanges
from ninscope.errors import CheckpointError

STORED_TYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint: shape and type now, values when `rows` is called."""

    entry: TensorEntry
    file: WeightFile

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape

    @property
    def dtype(self) -> str:
        return self.entry.dtype

    def rows(self, row_numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the rows `row_numbers`, slices of the first axis, checked for NaN and infinity.

        row_numbers: sorted distinct row numbers, int64 [k].
        Returns (values [m, columns], position int64 [k]) with row row_numbers[i] at values[position[i]], all further axes in one.
        From a local file values is the whole tensor, so every weight of it is checked; from elsewhere it is the rows that were
        fetched, and those are checked.

        Raises CheckpointError: unsupported (a type that holds no plain floats), corrupt (fewer than 2 dimensions),
        nonfinite, and what the file raises.
        """
        row_numbers = np.asarray(row_numbers, dtype=np.int64)
        return self.rows_in(self.file.read_ranges(self.ranges_of_rows(row_numbers).ranges), row_numbers)

    def ranges_of_rows(self, row_numbers: np.ndarray) -> ByteRanges:
        """What `rows` reads. Raises CheckpointError as `rows` does for a tensor's type and shape."""
        return ByteRanges(self.file, [self._bytes_of(first, last) for first, last in self._row_spans(row_numbers)])

    def rows_in(self, pieces: Sequence[memoryview], row_numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What `rows` returns, from the bytes of `ranges_of_rows`. Raises CheckpointError (nonfinite)."""
        stored = np.dtype(STORED_TYPES[self.checked_float_type()])
        columns = self.columns
        spans = self._row_spans(row_numbers)
        if not spans:
            return np.empty((0, columns), stored), np.zeros(0, np.int64)
        arrays = [_array(piece, stored).reshape(-1, columns) for piece in pieces]
        values = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        fetched = np.concatenate([np.arange(first, last) for first, last in spans])
        self.check_finite(values, fetched)
        return values, np.searchsorted(fetched, row_numbers)

    def ranges_of_span(self, first: int, last: int) -> ByteRanges:
        """What `bits_in` makes the rows first..last-1 of. Raises CheckpointError: unsupported or corrupt, as `rows`."""
        return ByteRanges(self.file, [self._bytes_of(first, last)])

    def bits_in(self, pieces: Sequence[memoryview]) -> np.ndarray:
        """Rows as the unsigned integers [rows, columns] that they are stored as; nothing is checked."""
        (piece,) = pieces
        return _array(piece, np.dtype(f"<u{self.item_bytes}")).reshape(-1, self.columns)

    def _row_spans(self, row_numbers: np.ndarray) -> list[tuple[int, int]]:
        """Half-open spans of row numbers, all of them where that costs nothing."""
        return [(0, self.shape[0])] if self.file.reads_are_free else row_spans(row_numbers, self.row_bytes)

    def _bytes_of(self, first: int, last: int) -> tuple[int, int]:
        return self.entry.start + first * self.row_bytes, self.entry.start + last * self.row_bytes

    @property
    def columns(self) -> int:
        """Numbers in one row: all axes but the first."""
        return math.prod(self.shape[1:])

    @property
    def row_bytes(self) -> int:
        return self.item_bytes * self.columns

    @property
    def item_bytes(self) -> int:
        return np.dtype(STORED_TYPES[self.checked_float_type()]).itemsize

    def checked_float_type(self) -> str:
        """The stored type, of a matrix or kernels of plain floats. Raises CheckpointError: unsupported or corrupt."""
        if self.dtype not in STORED_TYPES:
            raise CheckpointError(
                "unsupported",
                f"tensor {self.name} is of type {self.dtype}; only F16, BF16, F32 and F64 weights can be measured",
            )
        if len(self.shape) < 2:
            raise CheckpointError(
                "corrupt", f"tensor {self.name} has {len(self.shape)} dimensions where a matrix was expected"
            )
        return self.dtype

    def check_readable(self) -> None:
        """Raises CheckpointError (corrupt) for a tensor of floats that holds none: what a sharded save leaves of a weight."""
        if 0 in self.shape and self.dtype in STORED_TYPES:
            raise CheckpointError(
                "corrupt",
                f"tensor {self.name} has shape {list(self.shape)}, a placeholder without numbers; save the model with its weights "
                "gathered (ZeRO-3: stage3_gather_16bit_weights_on_model_save, or zero_to_fp32.py)",
            )

    def check_finite(self, values: np.ndarray, row_numbers: np.ndarray) -> None:
        """values: rows as stored, [m, columns]; row_numbers: which they are, int64 [m]. Raises CheckpointError (nonfinite)."""
        position = first_nonfinite(values, self.dtype)
        if position >= 0:
            row, column = divmod(position, values.shape[1])
            raise self.nonfinite((int(row_numbers[row]), *map(int, np.unravel_index(column, self.shape[1:]))))

    def nonfinite(self, place: Sequence[int]) -> CheckpointError:
        """What to raise where a number is not finite. place: its index in the tensor."""
        where = f"row {place[0]}, column {place[1]}" if len(place) == 2 else f"{list(place)}"
        return CheckpointError(
            "nonfinite",
            f"tensor {self.name} holds NaN or infinity, first at {where}; its network has no distances there",
        )

    def slice(self, index: int) -> "Tensor":
        """One slice of the first axis as a tensor of its own, named `name[index]`."""
        slice_bytes = (self.entry.stop - self.entry.start) // self.shape[0]
        start = self.entry.start + index * slice_bytes
        entry = TensorEntry(f"{self.name}[{index}]", self.dtype, self.shape[1:], start, start + slice_bytes)
        return replace(self, entry=entry)


def _array(piece: memoryview, stored: np.dtype) -> np.ndarray:
    array = np.frombuffer(piece, dtype=stored)
    return array if array.flags.aligned else array.copy()


def as_float(values: np.ndarray, dtype: str) -> np.ndarray:
    """Stored values as floats numpy can compute with: BF16 bits become the float32 they stand for."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values


def as_stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 or float64 values in a stored type, rounded to the nearest (ties to even); what is too large becomes infinite."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(STORED_TYPES[dtype])
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    upper = bits >> np.uint32(16)
    rounded = (bits + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
    # NaN stays NaN: its other bits may all be in the lower half, or carry.
    return np.where(np.isnan(values), upper | np.uint32(0x40), rounded).astype(np.uint16)


# A request costs about a kilobyte of headers, so a smaller gap is cheaper fetched than skipped; beyond that, gaps are
# closed (smallest first) while the total stays within this factor of the rows needed, to keep requests few.
SMALL_GAP_BYTES = 1024
OVERFETCH = 1.28


def row_spans(row_numbers: np.ndarray, row_bytes: int) -> list[tuple[int, int]]:
    """Half-open spans [first, last) of row numbers that cover the rows `row_numbers` (sorted, distinct, int64).

    Few spans and few spare bytes: gaps of at most SMALL_GAP_BYTES are read through, larger ones as far as OVERFETCH allows.
    """
    row_numbers = np.asarray(row_numbers, dtype=np.int64)
    if row_numbers.size == 0:
        return []
    gaps = np.diff(row_numbers) - 1
    join = gaps * row_bytes <= SMALL_GAP_BYTES
    spare = int(row_numbers.size * (OVERFETCH - 1)) - int(gaps[join].sum())
    for index in np.argsort(gaps, kind="stable"):
        if join[index]:
            continue
        spare -= int(gaps[index])
        if spare < 0:
            break
        join[index] = True
    cuts = np.flatnonzero(~join)
    firsts = np.concatenate(([0], cuts + 1))
    lasts = np.concatenate((cuts, [row_numbers.size - 1]))
    return [(int(row_numbers[first]), int(row_numbers[last]) + 1) for first, last in zip(firsts, lasts, strict=True)]


@dataclass(frozen=True)
class Checkpoint:
    """One revision of one model: its configuration and a lazy mapping tensor name -> Tensor."""

    revision: str
    step: int | None
    config: dict
    tensors: Mapping[str, Tensor]

    @property
    def parameters(self) -> int:
        """Numbers stored in the checkpoint, embeddings and biases included."""
        return sum(int(np.prod(tensor.shape, dtype=object)) for tensor in self.tensors.values())
