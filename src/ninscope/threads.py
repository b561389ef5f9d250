"""How many threads to work with."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ninscope.errors import RequestError

_lock = threading.Lock()
_users, _limits = 0, list[Any]()  # of `one_thread_each`: who is at it now, and what sets the threads back


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of(workers: int | None) -> int:
    """The number of threads to work with (default: one a core). Raises RequestError."""
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise RequestError(f"workers is {workers!r}; a positive number of threads was expected")
    return workers or cores()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Meanwhile every call of linear algebra takes one thread, in this whole process: whoever computes beside others has that one.

    With more, jobs side by side would wait for each other, and the order in which numbers are added would depend on their number.
    """
    from threadpoolctl import threadpool_limits

    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _limits.append(threadpool_limits(limits=1, user_api="blas"))
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limits.pop().restore_original_limits()
