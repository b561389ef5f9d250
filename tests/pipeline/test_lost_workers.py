"""Local workers that are gone for good are replaced: a run never waits for workers that will not come."""

import os
import threading
import time
from contextlib import ExitStack
from typing import NamedTuple

import dask
import pytest
from distributed import Nanny
from forked import dask_workers

from ninscope_pipeline.execution import dask_cluster as execute
from ninscope_pipeline.execution.dask_cluster import connected
from ninscope_pipeline.execution.graph import job_graph
from ninscope_pipeline.outcome import Outcome

pytestmark = pytest.mark.slow


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setattr(execute, "REPLACE_SECONDS", 0.2)
    with connected(None, 1) as client:
        yield client


@pytest.fixture
def forked():
    """The workers of this test are: that a replacement has the environment of the one it replaces, another test shows."""
    with dask_workers():
        yield


@pytest.fixture
def no_start(monkeypatch, tmp_path):
    """no_start(what): from now on every process that is spawned does this before all else."""

    def spoil(what):
        code = f"import os, sys, time\nif 'spawn_main' in ' '.join(sys.orig_argv): {what}\n"
        (tmp_path / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    return spoil


@pytest.mark.parametrize(
    ("what", "seconds", "reason"),
    [
        ("time.sleep(60)", 3, "one has not started within 3 s"),
        ("os._exit(3)", 120, "RuntimeError: Nanny failed to start"),
    ],
)
def test_workers_that_do_not_start_are_not_waited_for_for_ever(monkeypatch, no_start, what, seconds, reason):
    monkeypatch.setattr(execute, "START_SECONDS", seconds)
    no_start(what)
    match = f"no local worker process can be started .{reason}.*fewer workers"
    with pytest.raises(execute.ClusterError, match=match), connected(None, 2):
        pass


def test_nor_are_those_that_do_not_start_again(monkeypatch, no_start):
    monkeypatch.setattr(execute, "START_SECONDS", 3)
    monkeypatch.setattr(execute, "REPLACE_SECONDS", 0.2)

    def work():
        with ExitStack() as stack:
            with dask_workers():  # the first one, which is to be there within 3 s beside other tests too
                client = stack.enter_context(connected(None, 1))
                client.wait_for_workers(1, timeout=60)
            no_start("os._exit(3)")
            client.submit(os._exit, 1)
            time.sleep(1)
            execute.execute(job_graph([Work("some", "first")], "", ok_here), client, lambda *ended: None)

    with pytest.raises(
        execute.ClusterError, match=r"all are gone, and no other could be started within 3 s.; try with"
    ):
        work()


class Work(NamedTuple):
    """A job of no stage."""

    stage: str
    key: str
    needs: tuple = ()

    @property
    def id(self) -> tuple:
        return self.stage, self.key


def ok_here(root, job, needs) -> Outcome:
    """The work of such a job: says in which process it was done."""
    return Outcome("ok", str(os.getpid()))


def thread_dies(dask_worker) -> int:
    """The worker's thread is one that has ended, and no other is started: what is left where one could not be."""
    ended = threading.Thread(target=int)
    ended.start()
    ended.join()
    dask_worker.executors["default"]._threads = {ended}
    return os.getpid()


def test_a_worker_whose_thread_died_is_replaced(monkeypatch):
    """Its process lives, and so its tasks would wait for ever."""
    monkeypatch.setattr(execute, "WATCH_SECONDS", 0.3)
    with dask_workers(), connected(None, 1) as client:
        client.wait_for_workers(1, timeout=60)
        (process,) = client.run(thread_dies).values()
        jobs = [Work("some", "first"), Work("some", "second")]
        outcomes: dict = {}
        run = threading.Thread(
            target=lambda: outcomes.update(execute.execute(job_graph(jobs, "", ok_here), client, lambda *ended: None)),
            daemon=True,  # without a replacement it would wait for ever
        )
        run.start()
        run.join(60)
    assert len(outcomes) == 2
    assert {outcome.status for outcome in outcomes.values()} == {"ok"}
    assert str(process) not in {outcome.message for outcome in outcomes.values()}


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


def test_one_that_cannot_be_started_is_tried_again(forked, client, monkeypatch):
    begin, failures = Nanny.start_unsafe, []

    async def start(self):
        if not failures:
            failures.append(self)
            raise OSError("no memory to start a process in")
        return await begin(self)

    monkeypatch.setattr(Nanny, "start_unsafe", start)  # from now on: the first worker is there
    assert_replaced(client, lost(client))
    assert len(failures) == 1
