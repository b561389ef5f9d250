"""Whether the bytes that a measurement used are those whose hash is known.

A local file was hashed when it was identified. Of a file on a Hub only ranges are fetched, and a hash is of a whole file: where
nearly all of it is used, the rest is fetched too and the hash is checked; elsewhere the measurement says that it is unverified.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from ninscope.checkpoints.formats.weight_file import WeightFile
from ninscope.checkpoints.matrix import WeightMatrix
from ninscope.wording import first_names, joined_clauses

_UNVERIFIED = "unverified: "  # begins a clause of a message
NEARLY_ALL = 0.98  # of a file: the rest stays within what a reading may fetch beside its tensors


@runtime_checkable
class Checkable(Protocol):
    """A file of which ranges are fetched."""

    name: str
    size: int

    @property
    def is_verified(self) -> bool:
        """Whether all that was read of it is known to be right."""

    def begin_check(self) -> None:
        """Hash what is read from now on."""

    def end_check(self, most: int) -> None:
        """Fetch what was not read, if it is at most so many bytes. Raises CheckpointError (corrupt): its hash is another."""


class Verification:
    """Of a reading of matrices, whole and each once: make it before, and call `finish` when all is read."""

    def __init__(self, matrices: Iterable[WeightMatrix]) -> None:
        self._used = _used(matrices)
        self._checked = [file for file, used in self._used if _is_nearly_all(file, used)]
        for file in self._checked:
            file.begin_check()

    def finish(self) -> str:
        """One clause that says what is unverified; empty where nothing is. Raises CheckpointError (corrupt)."""
        for file in self._checked:
            file.end_check(int((1 - NEARLY_ALL) * file.size))
        return _unverified([file for file, _ in self._used])


def rest_bytes(matrices: Iterable[WeightMatrix]) -> int:
    """What a `Verification` fetches beside the matrices."""
    return sum(
        file.size - used
        for file, used in _used(matrices)
        if _is_nearly_all(file, used) and not file.is_verified  # one that came whole with its header is
    )


def _used(matrices: Iterable[WeightMatrix]) -> list[tuple[Checkable, int]]:
    """(file that is fetched, bytes of it that the matrices are)"""
    entries: dict[int, tuple[Checkable, dict[int, int]]] = {}
    for matrix in matrices:
        entry = getattr(matrix.tensor, "computed_from", matrix.tensor).entry
        for file in _fetched_files(matrix.tensor.file):
            entries.setdefault(id(file), (file, {}))[1][entry.start] = entry.stop - entry.start
    return [(file, sum(sizes.values())) for file, sizes in entries.values()]


def _is_nearly_all(file: Checkable, used: int) -> bool:
    return NEARLY_ALL * file.size <= used <= file.size


def unverified(matrices: Iterable[WeightMatrix]) -> str:
    """The clause for what was read in parts."""
    files = {id(file): file for matrix in matrices for file in _fetched_files(matrix.tensor.file)}
    return _unverified(list(files.values()))


def without_unverified(message: str) -> str:
    """A message without that clause, which holds of nearly every row of a Hub: the tables tell it."""
    return joined_clauses(*(clause for clause in message.split("; ") if not clause.startswith(_UNVERIFIED)))


def _unverified(files: Sequence[Checkable]) -> str:
    names = [file.name.rpartition("/")[2] for file in files if not file.is_verified]
    if not names:
        return ""
    return f"{_UNVERIFIED}only parts of {first_names(names, 1)} were read, and hashes are of whole files"


def _fetched_files(file: WeightFile) -> Iterator[Checkable]:
    """The files that are fetched where this one is read."""
    if isinstance(file, Checkable):
        yield file
    for beneath in getattr(file, "beneath", ()):
        yield from _fetched_files(beneath)
