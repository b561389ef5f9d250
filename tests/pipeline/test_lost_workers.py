"""Local workers that are gone for good are replaced: a run never waits for workers that will not come."""

import os
from functools import partial

import dask
import pytest
from distributed import Nanny
from ninscope.pipeline.workers import execute
from ninscope.pipeline.workers.execute import connected

pytestmark = pytest.mark.slow


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setattr(execute, "REPLACE_SECONDS", 0.2)
    with connected(None, 1) as client:
        yield client


def lost(client) -> int:
    """The process of the one worker, which Dask has given up: it died once more before it had quite come back."""
    process = client.submit(os.getpid, pure=False).result(timeout=60)
    (nanny,) = client.cluster.workers.values()
    client.cluster.sync(nanny.close, reason="nanny-instantiate-failed")
    return process


def assert_replaced(client, process: int) -> None:
    assert client.submit(os.getpid, pure=False).result(timeout=60) != process
    assert len(client.scheduler_info()["workers"]) == len(client.cluster.worker_spec) == 1
    # Is set up as the first was.
    assert client.submit(dask.config.get, "distributed.worker.profile.enabled", pure=False).result(timeout=60) is False
    assert client.submit(partial(os.environ.get, "MALLOC_TRIM_THRESHOLD_"), pure=False).result(timeout=60) is None


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
