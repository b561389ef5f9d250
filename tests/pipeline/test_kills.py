"""kill -9 of a worker, of the scheduler or of the command, at any moment: the same command again makes the same bytes."""

import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from driving import UNDRAWN, Finished, command, contents, write_dag
from forked import Forked, ninscope
from own_cluster import OwnCluster
from suites import write_suite

from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

STEPS = tuple(range(6))
KILLS = int(os.environ.get("NINSCOPE_TEST_KILLS", "3"))
STAGES = ("nin", "spectra", "exact", "nulls", "emergence")


@pytest.fixture(scope="module")
def dag(tmp_path_factory) -> Path:
    """Every stage there is, exact analyses in parts among them."""
    place = tmp_path_factory.mktemp("kills")
    write_suite(place / "tiny", STEPS, blocks=2, width=32, heads=4)
    return asking(place / "tiny.toml", place / "tiny")


@pytest.fixture(scope="module")
def dag_of_processes(dag) -> Path:
    """The same by worker processes."""
    (dag.parent / "processes").mkdir()
    cluster = {"kind": "local", "workers": 2, "processes": True}
    return asking(dag.parent / "processes" / "tiny.toml", dag.parent / "tiny", cluster=cluster)


def asking(path: Path, suite: Path, **changes) -> Path:
    nulls = {"models": ["shuffled"], "samples": 2}
    return write_dag(
        path, suite, exact=True, nulls=nulls, nodes_per_layer=24, execution={"part_bytes": 20_000}, **changes
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[OwnCluster]:
    """Call its start() in each test: some of its processes may have been killed."""
    with OwnCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(dag, undrawn) -> Path:
    assert command("run", dag, "--runs-dir", dag.parent / "undisturbed").code == 0
    return dag.parent / "undisturbed" / "tiny"


class Command:
    """The command as a process of its own. forked: off one that has imported what it needs."""

    def __init__(self, dag: Path, runs: Path, *options: str, forked: bool = True):
        self._out = runs.parent / "out.txt"
        self._out.write_text("")
        arguments = ["run", str(dag), "--runs-dir", str(runs), *options]
        if forked:
            self.process = Forked(ninscope, *arguments, out=self._out)
        else:
            with open(self._out, "w") as out:
                self.process = subprocess.Popen([*UNDRAWN, *arguments], stdout=out, stderr=out)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait(self) -> Finished:
        code = self.process.wait(90)
        return Finished(code, "", self._out.read_text())


def wait_for(moment: str, running: Command, run: Path, rng: np.random.Generator, seconds: float) -> None:
    """Until a moment of a command that needs so many seconds once it has written down what it will do."""
    began, end = time.time(), time.monotonic() + 60

    def waiting() -> bool:
        return running.running and time.monotonic() < end

    if moment == "while it starts":
        end = time.monotonic() + rng.uniform(0, 2)
    while waiting() and not ((run / "plan.json").exists() and (run / "plan.json").stat().st_mtime > began - 1):
        time.sleep(0.002)
    if moment == "while it works":
        end = time.monotonic() + rng.uniform(0, seconds)
        while waiting():
            time.sleep(0.002)
    while waiting() and moment == "at the tables" and not any((run / "tables").glob("*.parquet")):
        time.sleep(0.002)


def moments(rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """(victim, moment) for ever: every victim, all the time that a command takes."""
    work = ["while it works"] * 5
    for _ in itertools.count():
        of = {
            "worker": [*work, "at the tables"],
            "scheduler": ["while it works"] * 3 + ["at the tables"],
            "command": ["while it starts", *work[:4], "at the tables"],
        }
        # In turn, so that few kills are of all three.
        for turn in itertools.zip_longest(*(rng.permutation(listed) for listed in of.values())):
            yield from ((victim, moment) for victim, moment in zip(of, turn, strict=True) if moment is not None)


def assert_whole(run: Path, undisturbed: Path) -> None:
    for part in ("tables", "figures"):
        assert contents(run / part) == contents(undisturbed / part)
    store = ArtefactStore(RunFolder(run), thorough=True)
    for stage in STAGES:
        assert contents(run / "store.zarr" / stage) == contents(undisturbed / "store.zarr" / stage)
        assert all(store.has(stage, key) for key in store.keys(stage))
    assert not store.keys("parts")
    assert not [path for path in run.glob("log/*") if path.name != "lost-workers.txt"]


def test_killed_again_and_again_at_random_moments(dag, undisturbed, tmp_path, rng, cluster):
    killed = []
    victims = moments(rng)
    runs = (tmp_path / str(number) / "runs" for number in itertools.count())
    while len(killed) < KILLS:
        place = next(runs)  # each is run to its end, however often that takes
        place.parent.mkdir()
        ended = None
        while ended is None or ended.code != 0:
            cluster.start()
            running = Command(dag, place, "--scheduler", cluster.address)
            last = None
            while running.running and last in (None, "worker") and len(killed) < KILLS:
                last, moment = next(victims)
                wait_for(moment, running, place / "tiny", rng, 2)
                if not running.running:
                    break
                victim = {"worker": cluster.workers[0], "scheduler": cluster.scheduler, "command": running.process}
                victim[last].kill()
                victim[last].wait(20)
                killed.append(last)
                if last == "worker":
                    cluster.start()
            ended = running.wait()
            if ended.code not in (0, -signal.SIGKILL):
                (line,) = ended.says
                assert line.startswith(("the Dask scheduler at", "no Dask scheduler answers at")[ended.code - 1]), ended
                assert "Traceback" not in ended.err, ended
        assert_whole(place / "tiny", undisturbed)
    assert {"worker", "scheduler", "command"} == set(killed)


def test_a_scheduler_that_dies_is_one_line(dag, tmp_path, cluster):
    cluster.start()
    running = Command(dag, tmp_path / "runs", "--scheduler", cluster.address)
    while running.running and not list((tmp_path / "runs").glob("tiny/checksums/*/*.json")):
        time.sleep(0.01)
    cluster.scheduler.kill()
    ended = running.wait()
    assert ended.code == 1
    assert ended.says == [
        f"the Dask scheduler at {cluster.address} is gone; start it and run the same command again, which goes on from there"
    ]
    noise = [line for line in ended.err.splitlines() if not line.startswith(("tiny ", "tiny: ", "ninscope: "))]
    assert noise == []


def test_a_local_worker_that_dies_is_replaced_and_named_in_the_log(dag, undisturbed, tmp_path):
    """The only one there is, so that nothing is done until another has begun."""
    cluster = {"kind": "local", "workers": 1, "processes": True}
    asked = asking(tmp_path / "tiny.toml", dag.parent / "tiny", cluster=cluster)
    running = Command(asked, tmp_path / "runs", forked=False)
    while running.running and not list((tmp_path / "runs").glob("tiny/checksums/*/*.json")):
        time.sleep(0.01)
    children = psutil.Process(running.process.pid).children(recursive=True)
    next(child for child in children if "spawn_main" in " ".join(child.cmdline())).kill()
    ended = running.wait()
    assert (ended.code, ended.says) == (0, [])
    assert_whole(tmp_path / "runs" / "tiny", undisturbed)
    lines = (tmp_path / "runs" / "tiny" / "log" / "lost-workers.txt").read_text().splitlines()
    assert lines
    assert all(" died with " in line for line in lines)


def test_what_a_killed_command_left_is_cleared(dag, dag_of_processes, undisturbed, tmp_path):
    """Worker processes when parts are stored, then threads at the tables; each time the command alone is killed."""
    run = tmp_path / "runs" / "tiny"
    for asked, moment in ((dag_of_processes, "checksums/parts/*.json"), (dag, "tables/*.parquet")):
        running = Command(asked, tmp_path / "runs", forked=asked is dag)
        while running.running and not list(run.glob(moment)):
            time.sleep(0.005)
        workers = psutil.Process(running.process.pid).children(recursive=True)
        running.process.kill()
        running.wait()
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert not alive  # they see to it that they end
        store = ArtefactStore(RunFolder(run), thorough=True)
        for stage in STAGES:
            for key in store.keys(stage):
                assert contents(run / "store.zarr" / stage / key) == contents(undisturbed / "store.zarr" / stage / key)
        for part in ("tables", "figures"):
            assert contents(run / part).items() <= contents(undisturbed / part).items()
    left = run / ".partial" / f"{socket.gethostname()}-{running.process.pid}-left"  # if none was caught at writing
    left.mkdir()
    (left / "zarr.json").write_text("{}")
    ended = command("run", dag, "--runs-dir", tmp_path / "runs")
    assert (ended.code, ended.says) == (0, [])
    assert_whole(run, undisturbed)
    assert not list(run.glob(".partial/*"))
    assert not list(run.glob(".locks/run-*"))
