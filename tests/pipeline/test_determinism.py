"""The same bytes whatever the workers and wherever they are; the Dask graph itself; clusters that are not there."""

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import pytest
from dask.base import collections_to_expr
from distributed import Client
from driving import command, contents, process, write_dag
from suites import write_suite

from ninscope_pipeline.execution.dask_cluster import OnCluster
from ninscope_pipeline.execution.graph import job_graph
from ninscope_pipeline.prepared_run import finish, perform, prepare, start
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.stages import network

SHAPE = {"blocks": 2, "width": 24, "heads": 3}
STEPS = (0, 1, 2, 4, 8)
PROCESSES = {"kind": "local", "workers": 1, "processes": True}


@pytest.fixture(scope="module")
def dag(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("determinism")
    write_suite(place / "tiny", STEPS, **SHAPE)
    return write_dag(place / "tiny.toml", Path("tiny"), nodes_per_layer=20)


@pytest.fixture(scope="module")
def one_worker(dag) -> Path:
    ended = command("run", dag, "--runs-dir", dag.parent / "one-worker", "--workers", 1)
    assert (ended.code, ended.says) == (0, [])
    return dag.parent / "one-worker" / "tiny"


def assert_same(run: Path, reference: Path) -> None:
    for part in ("tables", "store.zarr", "figures"):
        assert contents(run / part) == contents(reference / part)


def test_threads_make_the_bytes_that_one_makes(dag, one_worker, tmp_path):
    assert command("run", dag, "--runs-dir", tmp_path, "--workers", 4).code == 0
    assert_same(tmp_path / "tiny", one_worker)


@pytest.mark.slow
def test_worker_processes_make_the_same_bytes_and_say_nothing_of_another_dask_cluster(dag, one_worker, tmp_path):
    """Dask's own port, 8787, is taken, as wherever another cluster runs."""
    asked = write_dag(tmp_path / "tiny.toml", dag.parent / "tiny", nodes_per_layer=20, cluster=PROCESSES)
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # taken already
            taken.bind(("", 8787))
            taken.listen()
        ended = process("run", asked, "--runs-dir", tmp_path)
    assert (ended.code, ended.says) == (0, [])
    assert "arning" not in ended.err
    assert "8787" not in ended.err
    assert_same(tmp_path / "tiny", one_worker)


def test_a_run_in_two_halves_makes_the_bytes_of_one(dag, one_worker, tmp_path):
    """Half of the revisions first, then all: what is stored does not depend on what was asked before."""
    half = write_dag(tmp_path / "tiny.toml", dag.parent / "tiny", nodes_per_layer=20, revisions=["step0", "step4"])
    assert command("run", half, "--runs-dir", tmp_path).code == 0
    assert command("run", dag, "--runs-dir", tmp_path).code == 0
    run, reference = tmp_path / "tiny", one_worker
    assert contents(run / "tables") == contents(reference / "tables")
    for stage in ("nin", "spectra"):
        assert contents(run / "store.zarr" / stage) == contents(reference / "store.zarr" / stage)


@pytest.mark.slow
def test_two_runs_on_one_cluster_at_once_are_two_runs(dag, one_worker, tmp_path, scheduler):
    """Two users of one cluster of processes: the same suite, each into a folder of their own."""

    def run(name: str) -> Path:
        with Client(scheduler, set_as_default=False) as client:
            prepared = prepare(load_dag(dag), tmp_path / name, client)
            start(prepared)
            outcomes = perform(prepared, OnCluster(client), lambda *_: None)
        assert all(outcome.ok for outcome in outcomes.values())
        finish(prepared)
        return prepared.folder.root

    with ThreadPoolExecutor(2) as users:
        for folder in users.map(run, "ab"):
            for part in ("tables", "store.zarr"):  # matplotlib is not made for two threads that draw
                assert contents(folder / part) == contents(one_worker / part)


# The graph


@pytest.fixture
def prepared(dag, tmp_path):
    return prepare(load_dag(dag), tmp_path)


def whole_graph(prepared) -> dict:
    """Every job of a plan, as if all checkpoints will be ok."""
    return job_graph(prepared.plan.to_run, str(prepared.folder.root))


def test_building_the_graph_computes_nothing(prepared, monkeypatch):
    def computed(*_, **__):
        raise AssertionError("something was computed while the graph was built")

    monkeypatch.setattr(dask, "compute", computed)
    for function in ("dask.threaded.get", "dask.local.get_sync", "dask.multiprocessing.get"):
        monkeypatch.setattr(function, computed)
    monkeypatch.setattr(network, "sample_network", computed)
    whole_graph(prepared)
    assert not prepared.folder.root.exists()


def test_the_graph_has_one_task_for_every_job_of_the_plan(prepared):
    graph = whole_graph(prepared)
    names = [stage for stage, _ in graph]
    assert {name: names.count(name) for name in names} == {"nin": 5, "spectra": 5, "emergence": 1}
    assert [*names, "tables", "figures"] == [stage for stage, _ in prepared.listed]
    # Dask's own count: nothing is added.
    assert len(collections_to_expr(list(graph.values()), optimize_graph=False).__dask_graph__()) == len(graph)


def test_the_graph_of_a_finished_run_is_empty(dag, one_worker):
    prepared = prepare(load_dag(dag), one_worker.parent)
    assert (whole_graph(prepared), prepared.listed) == ({}, [])
    request = prepared.plan.request
    assert all(request.outcome(job).ok for job in request.jobs())


def test_jobs_of_different_runs_have_different_names(dag, tmp_path):
    """A shared scheduler takes equal names for one task: of two runs one would lose what the other cancels."""
    names = []
    for folder in ("a", "b", "a"):
        prepared = prepare(load_dag(dag), tmp_path / folder)
        names.append({task.key for task in whole_graph(prepared).values()})
    assert len(names[0]) == 11
    assert len(set().union(*names)) == 33


# Clusters that are not there


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_one_line_in_reasonable_time(dag, tmp_path):
    """In a process of its own: clients that failed to start can block the next one in the same process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    before = time.monotonic()
    ended = process("run", dag, "--runs-dir", tmp_path / "runs", "--scheduler", address)
    assert time.monotonic() - before < 40
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert line.startswith(f"ninscope: no Dask scheduler answers at {address}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("address", ["carrier-pigeon://127.0.0.1:1", "tcp://"])
def test_an_address_that_is_none_is_one_line_at_once(dag, tmp_path, address):
    ended = command("run", dag, "--runs-dir", tmp_path / "runs", "--scheduler", address)
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("ninscope: ")
    assert address in line
