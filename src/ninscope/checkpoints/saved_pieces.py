"""Weights of a network kept for later, piece by piece: in files that are read where they lie, or as copies in memory.

A training changes its weights in place, so what the first of them were must be kept. Each rank writes the pieces that it holds
(`held_pieces`), as they are stored, into a safetensors file of its own, rank<i>-of-<n>.safetensors: no rank needs another's. Where
a piece is not all of its tensor, the file's metadata say the tensor's shape and where the piece begins.

The library of safetensors writes from bytes that are all in memory; here a band at a time is, whatever the size of the model.
"""

import json
import mmap
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ninscope.checkpoints.formats.safetensors import MAX_HEADER_BYTES, read_header
from ninscope.checkpoints.formats.weight_file import TensorEntry
from ninscope.checkpoints.held_pieces import HeldPiece, bits_of, held_pieces, is_spread
from ninscope.checkpoints.tensors import STORED_TYPES, Tensor
from ninscope.errors import CheckpointError

_NAME = re.compile(r"rank(\d{1,9})-of-(\d{1,9})\.safetensors")
_METADATA = "ninscope_pieces"
_ADVICE = "a new folder has them"
_MOST_AXES = 8  # corners of a piece are counted, 2 to this power of them
_BAND_BYTES = 64_000_000

_Described = tuple[str, tuple[int, ...]]  # of a tensor its stored type and its shape


@dataclass(frozen=True)
class SavedPieces:
    """tensors: by the names they were saved under, of each what this rank took. files: that they are read from; none of copies."""

    tensors: Mapping[str, Tensor]
    files: Sequence["_MappedFile"] = ()

    def check(self) -> None:
        """To be called before they are read: a mapped file that is gone ends a process. Raises CheckpointError (missing)."""
        for file in self.files:
            file.check()


def copied_pieces(tensors: Mapping[str, Tensor]) -> SavedPieces:
    """Copies in memory of what lies here of some tensors. Raises CheckpointError: a tensor cannot be read."""
    copies = {}
    for name, tensor in tensors.items():
        stored = STORED_TYPES[tensor.checked_float_type()]
        kept = [HeldPiece(start, np.array(bits).view(stored)) for start, bits in _bits_here(tensor)]
        copies[name] = _tensor(name, tensor.dtype, tensor.shape, kept, is_spread(tensor))
    return SavedPieces(copies)


def save_pieces(folder: Path, tensors: Mapping[str, Tensor], number: int = 0, count: int = 1) -> SavedPieces:
    """Write what lies here of some tensors; the file is whole or not there. Returns what was written, read from the file.

    tensors: by the names to save them under; one that ranks do not share, an adapter merged as it is read or a whole tensor, is
    written by rank 0. number, count: which rank this is, of how many; rank 0 removes files of another number of ranks. Raises
    OSError, and CheckpointError: a tensor cannot be read, or there are too many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rank{number}-of-{count}.safetensors"
    entries = _planned(tensors, number)
    header = _header(entries)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for entry in entries:
                for bits in entry.bands():
                    file.write(bits.reshape(-1).view(np.uint8).data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if number == 0:
        for other, (_, ranks) in _files(folder).items():
            if ranks != count:
                other.unlink()
    return _opened([_read(path)], {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}, count > 1)


def open_pieces(folder: Path, number: int = 0, count: int = 1) -> SavedPieces:
    """What all ranks of `save_pieces` wrote, read where it lies; of several files rank `number` of `count` takes each count-th.

    Raises CheckpointError: missing (no files, or not those of all ranks), corrupt (a file is damaged, pieces of a tensor are not
    all of it, each number once), unsupported.
    """
    files = _files(folder)
    numbers = {ranks for _, ranks in files.values()}
    if numbers != {len(files)} or {rank for rank, _ in files.values()} != set(range(len(files))):
        raise CheckpointError("missing", f"{folder}: the weights of the baseline are not all there; {_ADVICE}")
    read = [_read(path) for path in sorted(files, key=lambda path: files[path])]
    described = _checked_whole(folder, [piece for file in read for piece in file.pieces])
    return _opened(read[number::count], described, count > 1)


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    """(rank, ranks) by path, of the files of that name. Raises CheckpointError (missing): the folder cannot be read."""
    try:
        matches = {path: _NAME.fullmatch(path.name) for path in folder.iterdir()}
    except OSError as error:
        raise CheckpointError(
            "missing", f"{folder}: cannot be read ({error.strerror or type(error).__name__})"
        ) from None
    return {path: (int(match[1]), int(match[2])) for path, match in matches.items() if match is not None}


@dataclass(frozen=True)
class _Planned:
    """A piece to be written. held: None of a tensor that is read whole."""

    name: str
    tensor: Tensor
    held: HeldPiece | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape if self.held is None else self.held.shape

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.tensor.item_bytes

    def bands(self) -> Iterator[np.ndarray]:
        """Its numbers as unsigned integers, in order. Raises CheckpointError."""
        row_bytes = max(self.bytes // max(self.shape[0], 1), 1)
        height = max(_BAND_BYTES // row_bytes, 1)
        for first in range(0, self.shape[0], height):
            last = min(first + height, self.shape[0])
            if self.held is not None:
                yield bits_of(self.held.values[first:last], self.tensor.dtype)
            else:
                asked = self.tensor.ranges_of_span(first, last)
                yield np.ascontiguousarray(self.tensor.bits_in(asked.file.read_ranges(asked.ranges)))


def _planned(tensors: Mapping[str, Tensor], number: int) -> list[_Planned]:
    """Largest items first, so that every piece begins at a multiple of its items' size. Raises CheckpointError."""
    entries = []
    for name, tensor in tensors.items():
        tensor.checked_float_type()
        if number and not is_spread(tensor):
            continue  # every rank holds all of it
        held = held_pieces(tensor)
        if held is not None:
            entries += [_Planned(name, tensor, piece) for piece in held if 0 not in piece.shape]
        else:
            entries.append(_Planned(name, tensor, None))
    return sorted(entries, key=lambda entry: -entry.tensor.item_bytes)


def _header(entries: Sequence[_Planned]) -> bytes:
    """Raises CheckpointError (unsupported)."""
    described: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    stop = 0
    for number, entry in enumerate(entries):
        key = entry.name
        if entry.held is not None and not entry.held.is_all_of(entry.tensor.shape):
            key = f"{number} {entry.name}"  # a tensor may have several
            parts[key] = {"tensor": entry.name, "shape": entry.tensor.shape, "start": entry.held.start}
        start, stop = stop, stop + entry.bytes
        described[key] = {"dtype": entry.tensor.dtype, "shape": entry.shape, "data_offsets": [start, stop]}
    text = json.dumps({"__metadata__": {_METADATA: json.dumps(parts)}, **described}).encode()
    header = text + b" " * (-len(text) % 8)
    if len(header) > MAX_HEADER_BYTES:
        raise CheckpointError("unsupported", f"{len(entries)} pieces of tensors are more than one file can list")
    return header


def _bits_here(tensor: Tensor) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """(where it begins, its bits) of every piece here; all of a tensor that does not lie in memory. Raises CheckpointError."""
    held = held_pieces(tensor)
    if held is not None:
        yield from ((piece.start, bits_of(piece.values, tensor.dtype)) for piece in held)
        return
    bits = np.concatenate([band.reshape(-1) for band in _Planned(tensor.name, tensor, None).bands()])
    yield (0,) * len(tensor.shape), bits.reshape(tensor.shape)


@dataclass(frozen=True)
class _Piece:
    """A piece in a file. shape, start: of its tensor, and where it begins there."""

    name: str
    shape: tuple[int, ...]
    start: tuple[int, ...]
    entry: TensorEntry


@dataclass(frozen=True)
class _MappedFile:
    """A file of pieces, its bytes mapped into memory. stamp: by which another file of that name is told apart."""

    path: Path
    content: mmap.mmap
    stamp: tuple[int, int]
    pieces: Sequence[_Piece]

    def check(self) -> None:
        """Raises CheckpointError (missing) where the file is not there any more, or is another one."""
        try:
            found = _stamp(self.path.stat())
        except OSError:
            found = None
        if found != self.stamp:
            raise CheckpointError(
                "missing", f"{self.path}: the weights of the baseline are gone, or other ones lie there"
            )

    def values(self, piece: _Piece) -> np.ndarray:
        entry = piece.entry
        stored = np.dtype(STORED_TYPES[entry.dtype])
        return np.frombuffer(self.content, stored, prod(entry.shape), entry.start).reshape(entry.shape)


def _stamp(of: os.stat_result) -> tuple[int, int]:
    return of.st_ino, of.st_size


def _read(path: Path) -> _MappedFile:
    """Raises CheckpointError."""
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise _damaged(path, f"cannot be read ({error})") from None
    entries = read_header(lambda start, stop: content[start:stop], found.st_size, str(path))
    parts = _parts(path, content)
    if unknown := sorted(parts.keys() - entries.keys()):
        raise _damaged(path, f"its metadata speak of {unknown[0]!r}, which it does not hold")
    pieces = []
    for key, entry in entries.items():
        name, shape, start = parts.get(key, (key, entry.shape, (0,) * len(entry.shape)))
        inside = len(shape) == len(entry.shape) == len(start) and all(
            first + size <= whole for first, size, whole in zip(start, entry.shape, shape, strict=True)
        )
        if not inside or len(shape) > _MOST_AXES or entry.dtype not in STORED_TYPES:
            raise _damaged(path, f"tensor {key} is no piece of a tensor of weights")
        pieces.append(_Piece(name, shape, start, entry))
    return _MappedFile(path, content, _stamp(found), pieces)


def _parts(path: Path, content: mmap.mmap) -> dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """(tensor, its shape, where the piece begins) of the pieces that are not all of a tensor. Raises CheckpointError (corrupt)."""
    length = int.from_bytes(content[:8], "little")  # as `read_header` has checked
    try:
        parts = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_METADATA])
        return {
            str(key): (str(part["tensor"]), _counts(part["shape"]), _counts(part["start"]))
            for key, part in parts.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise _damaged(path, "no file of pieces of tensors") from None


def _damaged(where: Path, reason: str) -> CheckpointError:
    return CheckpointError("corrupt", f"{where}: {reason}; {_ADVICE}")


def _counts(value: Any) -> tuple[int, ...]:
    """Raises ValueError."""
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 2**48 for item in value):
        raise ValueError(value)
    return tuple(value)


def _checked_whole(folder: Path, pieces: Sequence[_Piece]) -> dict[str, _Described]:
    """What every tensor is, whose pieces are all of it. Raises CheckpointError (corrupt)."""
    by_name: dict[str, list[_Piece]] = {}
    for piece in pieces:
        by_name.setdefault(piece.name, []).append(piece)
    described = {}
    for name, of_tensor in by_name.items():
        (shape, dtype), *others = {(piece.shape, piece.entry.dtype) for piece in of_tensor}
        if others:
            raise _damaged(folder, f"pieces of tensor {name} are of unlike tensors")
        if not _cover(shape, [(piece.start, piece.entry.shape) for piece in of_tensor]):
            raise _damaged(folder, f"pieces of tensor {name} are not all of it, each number once")
        described[name] = (dtype, shape)
    return described


def _cover(shape: Sequence[int], boxes: Sequence[tuple[Sequence[int], Sequence[int]]]) -> bool:
    """Whether boxes (start, shape) are all of a larger one, each number once.

    A box is a sum of quadrants, one from each of its corners on, with alternating signs, and quadrants are independent: so the
    boxes make up the whole if, and only if, their corners do.
    """
    whole, made = _corners([0] * len(shape), shape), Counter[tuple[int, ...]]()
    for start, size in boxes:
        made.update(_corners(start, size))
    whole.subtract(made)
    return not any(whole.values())


def _corners(start: Sequence[int], size: Sequence[int]) -> Counter[tuple[int, ...]]:
    corners = Counter[tuple[int, ...]]()
    for ends in product((0, 1), repeat=len(start)):
        corner = tuple(first + end * length for first, end, length in zip(start, ends, size, strict=True))
        corners[corner] += -1 if sum(ends) % 2 else 1
    return corners


def _opened(files: Sequence[_MappedFile], described: Mapping[str, _Described], is_spread: bool) -> SavedPieces:
    """Of every tensor what lies in these files."""
    held: dict[str, list[HeldPiece]] = {name: [] for name in described}
    for file in files:
        for piece in file.pieces:
            held[piece.name].append(HeldPiece(piece.start, file.values(piece)))
    return SavedPieces({name: _tensor(name, *described[name], held[name], is_spread) for name in described}, files)


class _KeptPieces:
    """What was kept of one tensor, as a file of weights (`HeldFile`)."""

    reads_are_free = True
    is_in_memory = True

    def __init__(self, name: str, size: int, pieces: Sequence[HeldPiece], shape: Sequence[int], is_spread: bool):
        self.name, self.size, self.pieces, self.is_spread = name, size, tuple(pieces), is_spread
        self._whole = next((piece for piece in pieces if piece.is_all_of(shape)), None)

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Raises CheckpointError (unsupported): not all of the tensor lies here in one piece."""
        if self._whole is None:
            raise CheckpointError("unsupported", f"tensor {self.name}: only a part of it was kept here")
        content = self._whole.values.reshape(-1).view(np.uint8).data
        return [content[start:stop] for start, stop in ranges]

    def start_ranges(self, ranges: Sequence[tuple[int, int]]) -> Callable[[], list[memoryview]]:
        ranges = list(ranges)
        return lambda: self.read_ranges(ranges)

    def spans(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return list(ranges)


def _tensor(name: str, dtype: str, shape: tuple[int, ...], pieces: Sequence[HeldPiece], is_spread: bool) -> Tensor:
    size = prod(shape) * np.dtype(STORED_TYPES[dtype]).itemsize
    entry = TensorEntry(name, dtype, shape, 0, size)
    return Tensor(entry, _KeptPieces(name, size, pieces, shape, is_spread))
