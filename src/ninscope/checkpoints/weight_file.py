"""What every file of weights can do, wherever it lies."""

from typing import Protocol


class WeightFile(Protocol):
    """A file of weights that can be read in pieces."""

    name: str
    size: int
    reads_are_free: bool  # True where unused rows cost nothing (a local file)

    def read_ranges(self, ranges: list[tuple[int, int]]) -> list[memoryview]:
        """The bytes [start, stop) of every range, exactly; raises CheckpointError when they cannot be had."""
