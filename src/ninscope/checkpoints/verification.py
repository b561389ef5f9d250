"""Whether the bytes that a measurement used are those whose hash is known.

A local file was hashed when it was identified. Of a file on a Hub only ranges are fetched, and a hash is of a whole file: where
nearly all of it is used, the rest is fetched too and the hash is checked; elsewhere the measurement says that it is unverified.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from ninscope.checkpoints.formats.weight_file import FileSpan
from ninscope.checkpoints.matrix import WeightMatrix
from ninscope.checkpoints.spans import Span, bytes_in, common
from ninscope.checkpoints.tensors import Tensor
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

    @property
    def held(self) -> Sequence[Span]:
        """What was read already, and a check counts: first the head, of which nothing is fetched again."""

    def begin_check(self, repeated: bool) -> None:
        """Hash what is read from now on; repeated: some of it may come more than once."""

    def end_check(self, most: int) -> None:
        """Fetch what was not read, if it is at most so many bytes. Raises CheckpointError (corrupt): its hash is another."""


class Verification:
    """Of a reading of tensors, all of each: make it before, and call `finish` when all is read.

    least: the share of a file that must be read of it for the rest to be fetched too.
    """

    def __init__(self, tensors: Iterable[Tensor], least: float = NEARLY_ALL) -> None:
        self._reads, self._least = _reads(tensors), least
        self._checked = [read for read in self._reads if read.share >= least]
        for read in self._checked:
            read.file.begin_check(read.is_repeated)

    def finish(self) -> str:
        """One clause that says what is unverified; empty where nothing is. Raises CheckpointError (corrupt)."""
        for read in self._checked:
            read.file.end_check(int((1 - self._least) * read.file.size))
        return _unverified([read.file for read in self._reads])


def rest_bytes(matrices: Iterable[WeightMatrix]) -> int:
    """What a `Verification` fetches beside the matrices."""
    return sum(
        read.file.size - read.own_bytes
        for read in _reads(matrix.tensor for matrix in matrices)
        if read.share >= NEARLY_ALL and not read.file.is_verified  # one that came whole with its header is
    )


@dataclass
class _Read:
    """What is read of one file that is fetched."""

    file: Checkable
    spans: list[FileSpan] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of the file, with what was read before."""
        return bytes_in([*self.file.held, *_bounds(self.spans)]) / max(self.file.size, 1)

    @property
    def is_repeated(self) -> bool:
        return any(span.is_repeated for span in self.spans) or any(
            any(common(_bounds(self.spans), *early)) for early in self.file.held[1:]
        )

    @property
    def own_bytes(self) -> int:
        """Those that stand for weights of the matrices themselves."""
        return bytes_in(_bounds(span for span in self.spans if not span.is_beside))


def _bounds(spans: Iterable[FileSpan]) -> list[Span]:
    return [(span.start, span.stop) for span in spans]


def _reads(tensors: Iterable[Tensor]) -> list[_Read]:
    """What is read of each file that is fetched."""
    reads: dict[int, _Read] = {}
    for tensor in tensors:
        for span in _fetched(FileSpan(tensor.file, tensor.entry.start, tensor.entry.stop)):
            if isinstance(span.file, Checkable):
                reads.setdefault(id(span.file), _Read(span.file)).spans.append(span)
    return list(reads.values())


def _fetched(span: FileSpan) -> Iterator[FileSpan]:
    """What is fetched for these bytes of a file."""
    if isinstance(span.file, Checkable):
        yield span
    elif beneath := getattr(span.file, "beneath", None):
        for part in beneath(span.start, span.stop):
            is_beside, is_repeated = span.is_beside or part.is_beside, span.is_repeated or part.is_repeated
            yield from _fetched(replace(part, is_beside=is_beside, is_repeated=is_repeated))


def unverified(matrices: Iterable[WeightMatrix]) -> str:
    """The clause for what was read in parts."""
    return _unverified([read.file for read in _reads(matrix.tensor for matrix in matrices)])


def without_unverified(message: str) -> str:
    """A message without that clause, which holds of nearly every row of a Hub: the tables tell it."""
    return joined_clauses(*(clause for clause in message.split("; ") if not clause.startswith(_UNVERIFIED)))


def _unverified(files: Sequence[Checkable]) -> str:
    names = [file.name.rpartition("/")[2] for file in files if not file.is_verified]
    if not names:
        return ""
    return f"{_UNVERIFIED}only parts of {first_names(names, 1)} were read, and hashes are of whole files"
