"""One cluster for all tests that need results, not a cluster of their own: starting one takes seconds."""

import logging

import pytest
from distributed import LocalCluster


@pytest.fixture(scope="session")
def scheduler() -> str:
    """Address of a running Dask scheduler with two worker processes, for --scheduler."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster.scheduler_address
