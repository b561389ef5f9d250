"""Reading ahead: what is begun when, how much of it at once, and that every piece reaches whoever asks for it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ninscope.checkpoints import read_ahead
from ninscope.checkpoints.read_ahead import ByteRanges, ReadAhead, bytes_to_fetch
from ninscope.errors import CheckpointError

CONTENT = bytes(range(256)) * 40


class File:
    """Bytes that arrive when they are waited for; remembers what was begun and how much of it was not waited for yet."""

    name, size = "file", len(CONTENT)

    def __init__(self, free=False, bad=None):
        self.reads_are_free, self.bad = free, bad
        self.begun: list[list[tuple[int, int]]] = []

    def read_ranges(self, ranges):
        return self.start_ranges(ranges)()

    def start_ranges(self, ranges):
        self.begun.append(list(ranges))

        def finish():
            if self.bad in ranges:
                raise CheckpointError("missing", "gone")
            return [memoryview(CONTENT[start:stop]) for start, stop in ranges]

        return finish

    def spans(self, ranges):
        return [(min(start for start, _ in ranges), max(stop for _, stop in ranges))]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(read_ahead, "UNIT_BYTES", 100)
    monkeypatch.setattr(read_ahead, "AHEAD_BYTES", 250)


def wanted(*files, count=40, width=30):
    return [
        ByteRanges(files[n % len(files)], [(100 * n, 100 * n + width), (100 * n + 50, 100 * n + 51)])
        for n in range(count)
    ]


def right(one, pieces):
    return [bytes(piece) for piece in pieces] == [CONTENT[start:stop] for start, stop in one.ranges]


@pytest.mark.parametrize("files", [1, 2, 3])
@pytest.mark.parametrize("free", [False, True])
def test_every_piece_is_the_one_that_was_asked_for(files, free):
    asked = wanted(*(File(free) for _ in range(files)))
    reads = ReadAhead(asked)
    assert all(right(one, reads.take(number)) for number, one in enumerate(asked))


def test_a_local_file_is_read_when_it_is_used():
    file = File(free=True)
    asked = wanted(file)
    reads = ReadAhead(asked)
    assert file.begun == []
    reads.take(3)
    assert file.begun == [asked[3].ranges]


def test_so_much_is_begun_ahead_and_no_more():
    file = File()
    asked = wanted(file)
    reads = ReadAhead(asked)
    for number, one in enumerate(asked):
        reads.take(number)
        begun = sum(stop - start for unit in file.begun for start, stop in unit)
        used = sum(each.bytes for each in asked[: number + 1])
        assert begun - used <= 250
        assert begun >= min(used + 100, sum(each.bytes for each in asked)), "the next is on its way"
        assert right(one, [memoryview(CONTENT[start:stop]) for start, stop in one.ranges])
    assert all(sum(stop - start for start, stop in unit) <= 100 for unit in file.begun)
    assert len(file.begun) == 14  # three at a time


def test_what_is_larger_than_all_that_may_be_ahead_is_read_nevertheless():
    file = File()
    asked = wanted(file, count=5, width=1000)
    reads = ReadAhead(asked)
    assert all(right(one, reads.take(number)) for number, one in enumerate(asked))
    assert len(file.begun) == 5


def test_many_threads_take_each_their_own():
    asked = wanted(File(), File(), count=100)
    reads, together = ReadAhead(asked), threading.Barrier(8)

    def take(number):
        if number < 8:
            together.wait()
        return right(asked[number], reads.take(number))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(take, range(100)))


def test_a_read_that_fails_is_told_to_whoever_asks_for_its_neighbours():
    asked = wanted(File(bad=(400, 430)))
    reads = ReadAhead(asked)
    assert right(asked[0], reads.take(0))
    for number in (3, 4, 5):
        with pytest.raises(CheckpointError, match="gone"):
            reads.take(number)
    assert right(asked[6], reads.take(6))


def test_bytes_to_fetch_are_those_of_the_spans_that_would_be_asked_for():
    file = File()
    asked = wanted(file, count=6)
    assert bytes_to_fetch(asked) == 2 * 251
    assert bytes_to_fetch(wanted(File(free=True))) == 0
    assert file.begun == []


def test_nothing_wanted_is_nothing_read():
    ReadAhead([])
    assert bytes_to_fetch([]) == 0
