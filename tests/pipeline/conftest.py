"""What makes the tests of runs cheap: one cluster for all that need one, and runs that draw nothing."""

import logging
from collections.abc import Iterator

import dask
import pytest
from distributed import LocalCluster
from forked import dask_workers


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Runs in this process write digests for pictures."""
    from undrawn import draw

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ninscope_pipeline.figures.draw", draw)
        yield


@pytest.fixture(scope="module")
def scheduler() -> str:
    """Address of a running Dask scheduler with two worker processes, for --scheduler.

    Of a file, not of the whole session: idle processes of Dask take several seconds of CPU a minute.
    """
    with (
        dask_workers(),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def threads():
    """A cluster in this process, where the client is the tests' own.

    Without Dask's profiler: it asks Python for every thread's frame, which in Python 3.11 may not return when the garbage
    collector runs meanwhile.
    """
    with (
        dask.config.set({"distributed.worker.profile.enabled": False}),
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            protocol="tcp://",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        yield cluster.scheduler_address
