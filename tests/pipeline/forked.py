"""Processes of `ninscope` and of Dask that one process forks off which has imported what they need, for tests that kill many.

Each is a process of its own, killed as any other. Its commands draw no pictures.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path

import dask

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "distributed.cli.dask_scheduler",
        "distributed.cli.dask_worker",
        "ninscope_pipeline.execution.dask_cluster",
        "ninscope_pipeline.run_command",
        "ninscope_pipeline.stages.registry",
    ]
)


def ninscope(*arguments: str) -> None:
    """`ninscope ARGUMENTS` in this process, which draws nothing."""
    import undrawn

    from ninscope_pipeline.cli import main

    undrawn.figures.draw = undrawn.draw
    main(list(arguments))


def of_dask(what: str, *arguments: str) -> None:
    """`dask scheduler ARGUMENTS` or `dask worker ARGUMENTS` in this process."""
    from distributed.cli import dask_scheduler, dask_worker

    {"scheduler": dask_scheduler, "worker": dask_worker}[what].main(list(arguments))


def _begin(work: Callable[..., None], arguments: tuple[str, ...], out: Path | None, place: Path | None) -> None:
    written = os.open(os.devnull if out is None else out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(written, stream)
    if place is not None:
        os.chdir(place)
    sys.argv = [work.__name__, *arguments]
    work(*arguments)


@contextmanager
def dask_workers() -> Iterator[None]:
    """Worker processes of Dask that begin meanwhile are forked off too; what the environment then says does not reach them."""
    forkserver.ensure_running()  # before Dask says what it is to import, which is less
    first = CONTEXT.Process(target=int)  # once this one has ended, all is imported
    first.start()
    first.join()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


class Forked:
    """What of subprocess.Popen the tests need. out: file for both output streams."""

    def __init__(
        self, work: Callable[..., None], *arguments: object, out: Path | None = None, place: Path | None = None
    ):
        self._process = CONTEXT.Process(target=_begin, args=(work, tuple(map(str, arguments)), out, place))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked process", seconds)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()
