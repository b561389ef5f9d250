"""Who counts a network together: processes that hold a piece of it each, or one that holds all of it.

Counts are integers, so they add in any order; nothing else is added up over processes.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from ninscope.errors import CheckpointError, RequestError, one_line

T = TypeVar("T")


class Ranks(Protocol):
    """Processes that count one network together. Every one calls the same methods in the same order."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def number(self) -> int:
        """Which one this is; 0 is the one that tells of the result."""

    def added(self, arrays: Sequence[np.ndarray], error: CheckpointError | None = None) -> list[np.ndarray]:
        """The sums of arrays over all ranks, on every rank.

        arrays: int32 or int64, not below 0 where int32, of the same shapes and types everywhere; what is added up must fit the
        type. error: what went wrong on this rank, whose arrays then count for nothing. Raises CheckpointError, on every rank: the
        error of the lowest rank that has one.
        """


class _Alone:
    """One process."""

    count, number = 1, 0

    def added(self, arrays: Sequence[np.ndarray], error: CheckpointError | None = None) -> list[np.ndarray]:
        if error is not None:
            raise error
        return list(arrays)


ALONE: Ranks = _Alone()


def on_all_ranks(ranks: Ranks, make: Callable[[], T]) -> T:
    """What each rank makes for itself. Raises CheckpointError, on every rank, where one of them has an error; where this one has a
    RequestError, that.
    """
    made: list[T] = []
    error, request = None, None
    try:
        made.append(make())
    except CheckpointError as raised:
        error = raised
    except Exception as raised:
        error, request = _told(ranks, raised), raised if isinstance(raised, RequestError) else None
    try:
        ranks.added([], error)
    except CheckpointError:
        if request is not None:
            raise request from None
        raise
    return made[0]


def together(ranks: Ranks, make: Callable[[], T]) -> T:
    """What ranks make together. One that fails alone tells the others, who wait for it in their next sum.

    make: adds up over the ranks on its way; lets through what a sum raises, and raises no CheckpointError of this rank alone.
    Raises CheckpointError, on every rank.
    """
    try:
        made = make()
    except CheckpointError:
        raise
    except Exception as raised:
        ranks.added([], _told(ranks, raised))
        raise
    ranks.added([])
    return made


def _told(ranks: Ranks, raised: Exception) -> CheckpointError:
    """An error that nobody foresaw, as the other ranks hear of it. Alone it is raised as it is."""
    if ranks.count == 1:
        raise raised
    return CheckpointError(
        "unsupported", f"rank {ranks.number} failed ({type(raised).__name__}: {one_line(str(raised))})"
    )


def unlike_rank(ranks: Ranks, text: str) -> int | None:
    """The lowest rank that has another text than rank 0, if one has, on all ranks."""
    digests = np.zeros(ranks.count, np.int64)
    digests[ranks.number] = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")
    (digests,) = ranks.added([digests])
    unlike = np.flatnonzero(digests != digests[0])
    return int(unlike[0]) if unlike.size else None


def text_of_first(ranks: Ranks, text: str) -> str:
    """The text of rank 0, on all ranks."""
    own = np.frombuffer(text.encode(errors="surrogateescape"), np.uint8).astype(np.int64)
    (length,) = ranks.added([np.array([0 if ranks.number else own.size], np.int64)])
    (letters,) = ranks.added([np.zeros(int(length[0]), np.int64) if ranks.number else own])
    return letters.astype(np.uint8).tobytes().decode(errors="surrogateescape")
