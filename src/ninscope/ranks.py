"""Who counts a network together: processes that hold a piece of it each, or one that holds all of it.

Counts are integers, so they add in any order; nothing else is added up over processes.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from ninscope.errors import CheckpointError

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
    """What each rank makes for itself. Raises CheckpointError, on every rank, where one of them has an error."""
    made: list[T] = []
    error = None
    try:
        made.append(make())
    except CheckpointError as raised:
        error = raised
    ranks.added([], error)
    return made[0]
