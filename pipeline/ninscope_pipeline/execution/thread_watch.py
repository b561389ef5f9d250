"""A worker whose thread has died while its process lives on: it takes tasks and never ends them, and nobody notices.

Threads die where one cannot be started (ulimit -u, -v) or where memory runs out between two tasks. The process then ends itself,
so that its nanny starts another, and what it was at is tried again, or fails as a task of any worker that died.
"""

import os
import sys

from distributed import Worker, WorkerPlugin
from tornado.ioloop import PeriodicCallback

_DEAD = 3  # looks in a row at a task without a thread: it may be about to begin, or to be told of


class ThreadWatch(WorkerPlugin):
    """Looks at a worker's threads from its event loop, every so many seconds."""

    name = "ninscope-thread-watch"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def setup(self, worker: Worker) -> None:
        self._worker, self._dead = worker, 0
        self._callback = PeriodicCallback(self._look, 1000 * self._seconds)
        self._callback.start()

    def teardown(self, worker: Worker) -> None:
        self._callback.stop()

    def _look(self) -> None:
        self._dead = self._dead + 1 if _lacks_threads(self._worker) else 0
        if self._dead >= _DEAD:
            print("ninscope: this worker's thread has died; its process ends", file=sys.stderr, flush=True)
            os._exit(1)  # nothing that it holds is of use


def _lacks_threads(worker: Worker) -> bool:
    """Whether more tasks are being executed than there are threads to do so."""
    threads = getattr(worker.executors.get("default"), "_threads", None)
    if threads is None:
        return False
    return worker.state.executing_count > sum(thread.is_alive() for thread in list(threads))
