"""Local workers that are gone for good are replaced: a run never waits for workers that will not come."""

import os

import dask
import pytest
from ninscope.pipeline import execute
from ninscope.pipeline.execute import connected


@pytest.mark.slow
def test_a_worker_that_is_not_started_again_is_replaced(monkeypatch):
    """Dask gives up a worker that dies once more before it has quite come back."""
    monkeypatch.setattr(execute, "REPLACE_SECONDS", 0.2)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "0.2s"}), connected(None, 1) as client:
        first = client.submit(os.getpid, pure=False).result(timeout=60)
        (nanny,) = client.cluster.workers.values()
        client.cluster.sync(nanny.close, reason="nanny-instantiate-failed")
        second = client.submit(os.getpid, pure=False).result(timeout=60)
        assert first != second
        assert len(client.scheduler_info()["workers"]) == len(client.cluster.worker_spec) == 1
