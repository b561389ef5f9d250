"""Reads in the order of their use: from a local file when they are used, from elsewhere begun ahead, several at a time."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ninscope.checkpoints.formats.weight_file import WeightFile

AHEAD_BYTES = 64_000_000  # begun and not yet used; what is used next is begun whatever its size
UNIT_BYTES = 8_000_000  # neighbours of about so much together are asked for together


@dataclass(frozen=True)
class ByteRanges:
    """Some ranges of a file, half-open, in bytes."""

    file: WeightFile
    ranges: Sequence[tuple[int, int]]

    @property
    def bytes(self) -> int:
        return sum(stop - start for start, stop in self.ranges)


class ReadAhead:
    """What is wanted, each to be taken once, about in order, by any thread."""

    def __init__(self, wanted: Sequence[ByteRanges]):
        self._wanted = wanted
        self._units = (
            [] if all(one.file.reads_are_free for one in wanted) else [_Unit(*unit) for unit in _units(wanted)]
        )
        self._unit_of = {number: place for place, unit in enumerate(self._units) for number in unit.left}
        self._started = self._ahead = 0
        self._lock = threading.Lock()

    def take(self, number: int) -> list[memoryview]:
        """The bytes of the ranges of wanted[number]. Raises CheckpointError."""
        if not self._units:
            one = self._wanted[number]
            return one.file.read_ranges(one.ranges)
        place = self._unit_of[number]
        self._start(place)
        unit = self._units[place]
        pieces = unit.take(number)
        with self._lock:
            unit.left.discard(number)
            self._ahead -= 0 if unit.left else unit.bytes
        self._start(place)
        return pieces

    def _start(self, needed: int) -> None:
        """Begin every unit up to the one that is needed now, and more of them while there is room."""
        with self._lock:
            while self._started < len(self._units):
                unit = self._units[self._started]
                if self._started > needed and self._ahead + unit.bytes > AHEAD_BYTES:
                    return
                unit.start()
                self._ahead += unit.bytes
                self._started += 1


class _Unit:
    """Consecutive reads that are asked for together, file by file."""

    def __init__(self, first: int, wanted: Sequence[ByteRanges]):
        self.bytes = sum(one.bytes for one in wanted)
        self.left = set(range(first, first + len(wanted)))
        self._of_files = list(_by_file(first, wanted))
        self._reads: list[Callable[[], list[memoryview]]] = []
        self._arrived: dict[int, list[memoryview]] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        self._reads = [file.start_ranges(ranges) for file, ranges, _ in self._of_files]

    def take(self, number: int) -> list[memoryview]:
        with self._lock:
            if not self._arrived:
                for read, (_, _, counts) in zip(self._reads, self._of_files, strict=True):
                    arrived = iter(read())
                    self._arrived |= {owner: [next(arrived) for _ in range(count)] for owner, count in counts.items()}
                self._reads = []
            pieces = self._arrived[number]
            self._arrived[number] = []
            return pieces


def bytes_to_fetch(wanted: Sequence[ByteRanges]) -> int:
    """Bytes of the very spans that `ReadAhead` asks for, of files that say what they fetch; nothing is read."""
    return sum(
        stop - start
        for first, unit in _units(wanted)
        for file, ranges, _ in _by_file(first, unit)
        if not file.reads_are_free
        for start, stop in file.spans(ranges)
    )


def _units(wanted: Sequence[ByteRanges]) -> Iterator[tuple[int, Sequence[ByteRanges]]]:
    """(number of the first, consecutive ones of about UNIT_BYTES)"""
    first = total = 0
    for number, one in enumerate(wanted):
        if number > first and total + one.bytes > UNIT_BYTES:
            yield first, wanted[first:number]
            first, total = number, 0
        total += one.bytes
    if first < len(wanted):
        yield first, wanted[first:]


def _by_file(first: int, wanted: Sequence[ByteRanges]) -> Iterator[tuple[WeightFile, list, dict[int, int]]]:
    """(file, its ranges, how many of them belong to each number)"""
    files: dict[int, tuple[WeightFile, list, dict[int, int]]] = {}
    for number, one in enumerate(wanted, first):
        _, ranges, counts = files.setdefault(id(one.file), (one.file, [], {}))
        ranges += one.ranges
        counts[number] = len(one.ranges)
    yield from files.values()
