"""Local workers that are gone for good are replaced: a run never waits for workers that will not come."""

import os

import dask
import pytest
from distributed import Nanny

from ninscope_pipeline.execution import dask_cluster as execute
from ninscope_pipeline.execution.dask_cluster import connected

pytestmark = pytest.mark.slow


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setattr(execute, "REPLACE_SECONDS", 0.2)
    with connected(None, 1) as client:
        yield client


def set_up() -> tuple:
    """What is told of by a worker of how it was started."""
    return dask.config.get("distributed.worker.profile.enabled"), os.environ.get("MALLOC_TRIM_THRESHOLD_")


def lost(client) -> tuple:
    """(process of the one worker, how it was started); Dask has given it up, as one that died again before it had come back."""
    worker = (
        client.submit(os.getpid, pure=False).result(timeout=60),
        client.submit(set_up, pure=False).result(timeout=60),
    )
    (nanny,) = client.cluster.workers.values()
    client.cluster.sync(nanny.close, reason="nanny-instantiate-failed")
    return worker


def assert_replaced(client, worker: tuple) -> None:
    process, how = worker
    assert client.submit(os.getpid, pure=False).result(timeout=60) != process
    assert len(client.scheduler_info()["workers"]) == len(client.cluster.worker_spec) == 1
    assert how[0] is False
    assert client.submit(set_up, pure=False).result(timeout=60) == how


def test_a_worker_that_is_not_started_again_is_replaced(client):
    assert_replaced(client, lost(client))


def test_one_that_cannot_be_started_is_tried_again(client, monkeypatch):
    begin, failures = Nanny.start_unsafe, []

    async def start(self):
        if not failures:
            failures.append(self)
            raise OSError("no memory to start a process in")
        return await begin(self)

    monkeypatch.setattr(Nanny, "start_unsafe", start)  # from now on: the first worker is there
    assert_replaced(client, lost(client))
    assert len(failures) == 1
