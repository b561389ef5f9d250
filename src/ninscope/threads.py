"""How many threads to work with."""

import os

from ninscope.errors import RequestError


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of(workers: int | None) -> int:
    """The number of threads to work with (default: one a core). Raises RequestError."""
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise RequestError(f"workers is {workers!r}; a positive number of threads was expected")
    return workers or cores()
