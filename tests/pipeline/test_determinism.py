"""The same bytes whatever the workers and wherever they are; the Dask graph itself; clusters that are not there."""

import contextlib
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import pytest
from dask.base import collections_to_expr
from distributed import LocalCluster
from driving import COMMAND, command, contents, process, write_dag
from own_cluster import OwnCluster
from suites import write_suite

import ninscope
from ninscope_pipeline.execution.dask_cluster import OnCluster, connected
from ninscope_pipeline.execution.graph import job_graph
from ninscope_pipeline.prepared_run import perform, prepare, start
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.stages import network

SHAPE = {"blocks": 2, "width": 24, "heads": 3}
STEPS = (0, 1, 2, 4, 8)


@pytest.fixture(scope="module")
def dag(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("determinism")
    write_suite(place / "tiny", STEPS, **SHAPE)
    return write_dag(place / "tiny.toml", Path("tiny"), nodes_per_layer=20)


@pytest.fixture(scope="module", autouse=True)
def unanswered(dag):
    """(address, runs folder, how a run ended and how long it took): it waits while the other tests go on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    runs = dag.parent / "unanswered"

    def wait():
        before = time.monotonic()
        return process("run", dag, "--runs-dir", runs, "--scheduler", address), time.monotonic() - before

    with ThreadPoolExecutor(1) as waiting:
        yield address, runs, waiting.submit(wait)


def ran(dag: Path, *arguments) -> Path:
    """The folder of a first run of its own, by a process of its own."""
    runs = dag.parent / f"runs-{len(list(dag.parent.iterdir()))}"
    ended = process("run", dag, "--runs-dir", runs, *arguments)
    assert (ended.code, ended.says) == (0, [])
    return runs / "tiny"


@pytest.fixture(scope="module")
def beside_another(dag):
    """A run of one worker while Dask's own port, 8787, is taken, as wherever another cluster runs: how it ended."""
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.socket())
        with contextlib.suppress(OSError):  # taken already
            taken.bind(("", 8787))
            taken.listen()
        return process("run", dag, "--runs-dir", dag.parent / "one-worker", "--workers", 1)


@pytest.fixture(scope="module")
def one_worker(dag, beside_another) -> Path:
    assert (beside_another.code, beside_another.says) == (0, [])
    return dag.parent / "one-worker" / "tiny"


def assert_same(run: Path, reference: Path) -> None:
    for part in ("tables", "store.zarr", "figures"):
        assert contents(run / part) == contents(reference / part)


@pytest.mark.slow
def test_two_workers_make_the_bytes_that_one_makes(dag, one_worker):
    assert_same(ran(dag, "--workers", 2), one_worker)


@pytest.mark.slow
def test_a_cluster_of_processes_makes_the_bytes_that_one_worker_makes(dag, one_worker, tmp_path):
    with OwnCluster(tmp_path) as cluster:
        assert_same(ran(dag, "--scheduler", cluster.address), one_worker)


@pytest.mark.slow
def test_threads_of_one_worker_make_the_same_bytes(dag, one_worker, tmp_path):
    with LocalCluster(
        n_workers=1, threads_per_worker=4, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp"
    ) as cluster:
        ended = command("run", dag, "--runs-dir", tmp_path, "--scheduler", cluster.scheduler_address)
    assert ended.code == 0
    assert_same(tmp_path / "tiny", one_worker)


@pytest.mark.slow
def test_a_run_in_two_halves_makes_the_bytes_of_one(dag, one_worker, tmp_path, scheduler):
    """Half of the revisions first, then all: what is stored does not depend on what was asked before."""
    arguments = ("--runs-dir", tmp_path, "--scheduler", scheduler)
    half = write_dag(tmp_path / "tiny.toml", dag.parent / "tiny", nodes_per_layer=20, revisions=["step0", "step4"])
    assert command("run", half, *arguments).code == 0
    assert command("run", dag, *arguments).code == 0
    run, reference = tmp_path / "tiny", one_worker
    assert contents(run / "tables") == contents(reference / "tables")
    for stage in ("nin", "spectra"):
        assert contents(run / "store.zarr" / stage) == contents(reference / "store.zarr" / stage)


@pytest.mark.slow
def test_two_runs_of_one_folder_at_once_disturb_nothing(dag, one_worker, tmp_path, scheduler):
    arguments = [*COMMAND, "run", str(dag), "--runs-dir", str(tmp_path), "--scheduler", scheduler]
    started = [subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    ended = [(one.communicate(timeout=60), one.returncode) for one in started]
    assert [code for _, code in ended] == [0, 0], ended
    assert_same(tmp_path / "tiny", one_worker)


@pytest.mark.slow
def test_two_runs_on_one_cluster_at_once_are_two_runs(dag, one_worker, tmp_path, scheduler):
    """Two users of one cluster: the same suite, each into a folder of their own."""
    started = [
        subprocess.Popen(
            [*COMMAND, "run", str(dag), "--runs-dir", str(tmp_path / name), "--scheduler", scheduler],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    ended = [(one.communicate(timeout=60), one.returncode) for one in started]
    assert [code for _, code in ended] == [0, 0], ended
    for name in "ab":
        assert_same(tmp_path / name / "tiny", one_worker)


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


@pytest.mark.slow
def test_a_checkpoint_that_kills_its_worker_stops_no_other(dag, tmp_path):
    """What a worker looks like when the system kills it for memory, over step 4."""
    preload = tmp_path / "deadly.py"
    preload.write_text(
        "import os\n"
        "from ninscope_pipeline.stages.network import NetworkStage\n"
        "real = NetworkStage.make\n"
        "def make(self, store, job, real=real):\n"
        "    if job.checkpoint.revision == 'step4':\n"
        "        os._exit(1)\n"
        "    return real(self, store, job)\n"
        "NetworkStage.make = make\n"
    )
    prepared = prepare(load_dag(dag), tmp_path)
    start(prepared)
    with dask.config.set({"distributed.worker.preload": [str(preload)]}), connected(None, 2) as client:
        outcomes = perform(prepared, OnCluster(client), lambda *_: None)
    assert len(outcomes) == 13
    run = ninscope.open_run(prepared.folder.root)
    assert run.table("emergence")["revision"].tolist() == ["step0", "step1", "step2", "step8"]
    rows = run.table("checkpoints").set_index("revision")
    assert rows.loc["step4", "status"] != "ok"
    assert rows.loc["step4", "message"] != ""


# Clusters that are not there


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_one_line_in_reasonable_time(unanswered):
    address, runs, waiting = unanswered
    ended, seconds = waiting.result()
    assert seconds < 40
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert line.startswith(f"ninscope: no Dask scheduler answers at {address}")
    assert not runs.exists()


@pytest.mark.parametrize("address", ["carrier-pigeon://127.0.0.1:1", "tcp://"])
def test_an_address_that_is_none_is_one_line_at_once(dag, tmp_path, address):
    """In a process of its own: clients that failed to start can block the next one in the same process."""
    before = time.monotonic()
    ended = process("run", dag, "--runs-dir", tmp_path / "runs", "--scheduler", address)
    assert time.monotonic() - before < 15
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("ninscope: ")
    assert address in line


@pytest.mark.slow
def test_a_run_beside_another_dask_cluster_says_nothing_of_it(beside_another):
    assert beside_another.code == 0
    assert "arning" not in beside_another.err
    assert "8787" not in beside_another.err
