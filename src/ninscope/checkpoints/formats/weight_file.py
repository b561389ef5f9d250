"""What every file of weights can do, wherever it lies, and what is known of a tensor in it, whatever its format."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ninscope.errors import CheckpointError

MAX_DIMENSIONS = 64

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
    "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: dtype as safetensors names it, shape, and its bytes [start, stop) in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class WeightFile(Protocol):
    """A file of weights that can be read in pieces. Ranges and spans are half-open, in bytes.

    One that is made of others has a method `beneath(start, stop)`: the `FileSpan`s of them that are read for these bytes of it, so
    that `checkpoints.verification` finds what is fetched.
    """

    name: str
    size: int
    reads_are_free: bool  # True where unused rows cost nothing (a local file)

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """The bytes of every range, exactly; raises CheckpointError when they cannot be had."""

    def start_ranges(self, ranges: Sequence[tuple[int, int]]) -> Callable[[], list[memoryview]]:
        """Begin to read; what is returned waits, and gives what `read_ranges` does."""

    def spans(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """What is fetched for these ranges of an opened file. Only where reads are not free."""


@dataclass(frozen=True)
class FileSpan:
    """Bytes [start, stop) of a file that another one is made of.

    is_beside: they come on top of those that stand for the other file's own bytes (norms, masks, factors of an update).
    is_repeated: they may be read more than once.
    """

    file: WeightFile
    start: int
    stop: int
    is_beside: bool = False
    is_repeated: bool = False


@dataclass(frozen=True)
class Complaint:
    """Makes the errors that name a file from a reason."""

    where: str

    def corrupt(self, reason: str) -> CheckpointError:
        return CheckpointError("corrupt", f"{self.where}: {reason}; fetch the file again")

    def unsupported(self, reason: str) -> CheckpointError:
        return CheckpointError("unsupported", f"{self.where}: {reason}; convert it to safetensors")


def reader_of(file: WeightFile) -> Callable[[int, int], bytes]:
    """read(start, stop) gives exactly those bytes of a file. It raises CheckpointError where they cannot be had."""

    def read(start: int, stop: int) -> bytes:
        return bytes(file.read_ranges([(start, stop)])[0])

    return read
