"""Whether a task is still wanted: Dask forgets a task that is cancelled, and cannot stop the thread that is at work on it."""

import sys
import time
from collections.abc import Callable


class Cancelled(Exception):
    """Nobody waits for this task any more."""


def stop_if_cancelled() -> None:
    """Raises Cancelled in a task that its scheduler has given up; elsewhere nothing."""
    distributed = sys.modules.get("distributed")
    if distributed is None:  # no worker of a cluster
        return
    try:
        worker = distributed.get_worker()
    except ValueError:  # in no task
        return
    task = worker.state.tasks.get(worker.get_current_task())
    if task is None or task.state == "cancelled":
        raise Cancelled


class EverySecond:
    """A function, called with anything, that calls another at most once a second."""

    def __init__(self, call: Callable[[], None]):
        self._call, self._next = call, time.monotonic() + 1

    def __call__(self, *_: object) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + 1
            self._call()
