"""A store that cannot be written: one line, nothing broken, and the same command goes on once it can be."""

import resource
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from dask.delayed import delayed
from distributed import Client
from driving import COMMAND, Finished, command, contents, process, write_dag
from suites import write_suite

from ninscope.errors import RequestError
from ninscope_pipeline.execution.dask_cluster import execute
from ninscope_pipeline.execution.graph import Graph
from ninscope_pipeline.outcome import Outcome, attempt
from ninscope_pipeline.storing.runfolder import RunFolder, StoreError
from ninscope_pipeline.storing.store import ArtefactStore

pytestmark = pytest.mark.usefixtures("undrawn")

SHAPE = {"blocks": 2, "width": 32, "heads": 4}
STEPS = tuple(range(8))


@pytest.fixture(scope="module")
def dag(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("full-disk")
    write_suite(place / "tiny", STEPS, **SHAPE)
    return write_dag(place / "tiny.toml", Path("tiny"), nodes_per_layer=32, samples=20)


@pytest.fixture(scope="module")
def undisturbed(dag, undrawn) -> Path:
    runs = dag.parent / "undisturbed"
    assert command("run", dag, "--runs-dir", runs).code == 0
    return runs / "tiny"


@contextmanager
def mounted(place: Path, size: str):
    """A file system of its own of so many bytes; the test is skipped where that is not permitted."""
    place.mkdir()
    asked = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def assert_says_once(ended, run: Path, says: str) -> None:
    assert ended.code == 1
    (line,) = ended.says
    assert line.startswith(f"{run}: {says}")
    assert line.endswith("and run the same command again")
    assert "Traceback" not in ended.err


def assert_nothing_is_broken(run: Path, undisturbed: Path) -> None:
    """What is there is whole, and no file of a task that could not be written is left."""
    folder = RunFolder(run)
    store = ArtefactStore(folder, thorough=True)
    for stage in store.stages():
        for key in store.keys(stage):
            assert contents(folder.store / stage / key) == contents(undisturbed / "store.zarr" / stage / key)
            assert store.has(stage, key)
    assert contents(folder.tables).items() <= contents(undisturbed / "tables").items()
    assert not folder.log.exists()


def assert_completes(dag: Path, run: Path, undisturbed: Path) -> None:
    ended = command("run", dag, "--runs-dir", run.parent)
    assert (ended.code, ended.says) == (0, [])
    for part in ("tables", "store.zarr", "figures"):
        assert contents(run / part) == contents(undisturbed / part)


@pytest.mark.slow
def test_a_disk_that_fills_up(dag, undisturbed, tmp_path):
    runs = tmp_path / "small"
    with mounted(runs, "600k"):
        ended = command("run", dag, "--runs-dir", runs)
        assert_says_once(ended, runs / "tiny", "the disk is full (No space left on device); free space")
        assert_nothing_is_broken(runs / "tiny", undisturbed)
        stored = len(ArtefactStore(RunFolder(runs / "tiny")).keys("nin"))
        assert 0 < stored < len(STEPS)  # it was in the middle
        again = command("run", dag, "--runs-dir", runs)
        assert_says_once(again, runs / "tiny", "the disk is full")
        remount(runs, "size=50m")
        assert_completes(dag, runs / "tiny", undisturbed)


@pytest.mark.slow
def test_a_store_that_becomes_read_only_in_the_middle_of_a_run(dag, undisturbed, tmp_path):
    runs, closed = tmp_path / "runs", tmp_path / "closed"
    runs.mkdir()
    with mounted(closed, "1m"):  # or it is skipped
        pass
    run = runs / "tiny"
    arguments = [*COMMAND, "run", str(dag), "--runs-dir", str(runs), "--workers", "1"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        while running.poll() is None and not list(run.glob("checksums/nin/*.json")):
            time.sleep(0.01)
        subprocess.run(["mount", "--bind", str(runs), str(closed)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(closed)], check=True)
        subprocess.run(
            ["mount", "--bind", str(closed), str(runs)], check=True
        )  # over it, for paths looked up from now on
        try:
            out, err = running.communicate(timeout=60)
            ended = Finished(running.returncode, out, err)
            assert_says_once(ended, run, "it cannot be written any more (Read-only file system); make it writable")
            again = command("run", dag, "--runs-dir", runs)
            assert again.code == 2
            assert again.says == [
                f"{run}: the run folder cannot be written (Read-only file system); choose another with --runs-dir"
            ]
            assert command("status", run).code == 0
        finally:
            subprocess.run(["umount", "--lazy", str(runs)], check=True)
            subprocess.run(["umount", "--lazy", str(closed)], check=True)
    assert_nothing_is_broken(run, undisturbed)
    assert len(ArtefactStore(RunFolder(run)).keys("spectra")) < len(STEPS)  # it was in the middle
    assert_completes(dag, run, undisturbed)


def limited() -> None:
    """What a process may write into one file: less than a network of these checkpoints takes, more than its plan."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))


@pytest.mark.slow
def test_files_that_may_not_grow(dag, undisturbed, tmp_path):
    """As a full disk, wherever tests run."""
    ended = process("run", dag, "--runs-dir", tmp_path, "--workers", 2, preexec_fn=limited)
    assert_says_once(ended, tmp_path / "tiny", "a file would be larger than is allowed here (File too large)")
    assert_nothing_is_broken(tmp_path / "tiny", undisturbed)
    assert_completes(dag, tmp_path / "tiny", undisturbed)


# What concerns all tasks


def stopping(root: str, error: str, *waited_for) -> Outcome:
    """A task that finds what concerns all."""

    def work() -> None:
        raise {"request": RequestError, "store": StoreError}[error](f"{root}: {error}")

    return attempt("nin", "key", work)


def long(root: str) -> Outcome:
    time.sleep(1)
    return Outcome()


@pytest.mark.slow
@pytest.mark.parametrize(("error", "kind"), [("request", RequestError), ("store", StoreError)])
def test_what_concerns_all_tasks_stops_them(scheduler, error, kind):
    graph: Graph = {
        ("nin", "key"): delayed(stopping, pure=False)("runs/x", error),
        **{("nin", str(number)): delayed(long, pure=False)("runs/x") for number in range(20)},
    }
    graph["spectra", "key"] = delayed(stopping, pure=False)("runs/x", error, graph["nin", "key"])
    with Client(scheduler, set_as_default=False) as client:
        with pytest.raises(kind, match=f"^runs/x: {error}$"):
            execute(graph, client, lambda *_: None)
        deadline = time.monotonic() + 20
        while any(client.processing().values()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(client.processing().values())


@pytest.mark.slow
@pytest.mark.parametrize(("error", "code"), [("RequestError", 2), ("StoreError", 1)])
def test_what_concerns_all_jobs_does_not_wait_for_those_that_threads_have_begun(dag, tmp_path, error, code):
    """A job of minutes, as an exact analysis of a large checkpoint is, keeps the command from ending no second."""
    program = (
        "import sys, threading, time\n"
        "from ninscope.errors import RequestError\n"
        "from ninscope_pipeline.cli import main\n"
        "from ninscope_pipeline.stages.network import NetworkStage\n"
        "from ninscope_pipeline.storing.runfolder import StoreError\n"
        "begun = threading.Barrier(2)\n"
        "def make(self, store, job):\n"
        "    if begun.wait(60):\n"
        "        time.sleep(600)\n"
        f"    raise {error}('it concerns all')\n"
        "NetworkStage.make = make\n"
        "main(sys.argv[1:])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "run", str(dag), "--runs-dir", str(tmp_path), "--workers", "2"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert Finished(ended.returncode, ended.stdout, ended.stderr).says == ["it concerns all"]
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr
