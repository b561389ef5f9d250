"""What every file of weights can do, wherever it lies."""

from collections.abc import Callable, Sequence
from typing import Protocol


class WeightFile(Protocol):
    """A file of weights that can be read in pieces. Ranges and spans are half-open, in bytes."""

    name: str
    size: int
    reads_are_free: bool  # True where unused rows cost nothing (a local file)

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """The bytes of every range, exactly; raises CheckpointError when they cannot be had."""

    def start_ranges(self, ranges: Sequence[tuple[int, int]]) -> Callable[[], list[memoryview]]:
        """Begin to read; what is returned waits, and gives what `read_ranges` does."""

    def spans(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """What is fetched for these ranges of an opened file. Only where reads are not free."""
