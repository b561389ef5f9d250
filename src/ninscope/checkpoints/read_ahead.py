"""Reads in the order of their use: from a local file when they are used, from elsewhere begun ahead, several at a time."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ninscope.checkpoints.formats.weight_file import WeightFile

AHEAD_BYTES = 64_000_000  # begun and not yet used; what is used next is begun whatever its size
UNIT_BYTES = 8_000_000  # neighbours of about this size together are one request


@dataclass(frozen=True)
class ByteRanges:
    """Some ranges of a file, half-open, in bytes."""

    file: WeightFile
    ranges: Sequence[tuple[int, int]]

    @property
    def bytes(self) -> int:
        return sum(stop - start for start, stop in self.ranges)


class ReadAhead:
    """Reads that are each taken once, about in order, by any thread."""

    def __init__(self, requests: Sequence[ByteRanges]):
        self._requests = requests
        self._units = (
            []
            if all(request.file.reads_are_free for request in requests)
            else [_Unit(*unit) for unit in _units(requests)]
        )
        self._unit_of = {number: unit_number for unit_number, unit in enumerate(self._units) for number in unit.left}
        self._started = self._ahead = 0
        self._lock = threading.Lock()

    def take(self, number: int) -> list[memoryview]:
        """The bytes of the ranges of requests[number]. Raises CheckpointError."""
        if not self._units:
            request = self._requests[number]
            return request.file.read_ranges(request.ranges)
        unit_number = self._unit_of[number]
        self._start(unit_number)
        unit = self._units[unit_number]
        pieces = unit.take(number)
        with self._lock:
            unit.left.discard(number)
            self._ahead -= 0 if unit.left else unit.bytes
        self._start(unit_number)
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

    def __init__(self, first: int, requests: Sequence[ByteRanges]):
        self.bytes = sum(request.bytes for request in requests)
        self.left = set(range(first, first + len(requests)))
        self._of_files = list(_by_file(first, requests))
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


def bytes_to_fetch(requests: Sequence[ByteRanges]) -> int:
    """Bytes of the very spans that `ReadAhead` asks for, of files that say what they fetch; nothing is read."""
    return sum(
        stop - start
        for first, unit in _units(requests)
        for file, ranges, _ in _by_file(first, unit)
        if not file.reads_are_free
        for start, stop in file.spans(ranges)
    )


def _units(requests: Sequence[ByteRanges]) -> Iterator[tuple[int, Sequence[ByteRanges]]]:
    """(number of the first, consecutive ones of about UNIT_BYTES)"""
    first = total = 0
    for number, request in enumerate(requests):
        if number > first and total + request.bytes > UNIT_BYTES:
            yield first, requests[first:number]
            first, total = number, 0
        total += request.bytes
    if first < len(requests):
        yield first, requests[first:]


def _by_file(first: int, requests: Sequence[ByteRanges]) -> Iterator[tuple[WeightFile, list, dict[int, int]]]:
    """(file, its ranges, how many of them belong to each number)"""
    files: dict[int, tuple[WeightFile, list, dict[int, int]]] = {}
    for number, request in enumerate(requests, first):
        _, ranges, counts = files.setdefault(id(request.file), (request.file, [], {}))
        ranges += request.ranges
        counts[number] = len(request.ranges)
    yield from files.values()
