"""Jobs of a real SLURM: the same bytes, no job left behind whatever ends the command, and lost jobs come again."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from driving import COMMAND, UNDRAWN, Finished, contents, process, write_dag
from single_node import CannotStart, queue, single_node
from suites import write_suite

from ninscope_pipeline.execution import batch_jobs as jobs
from ninscope_pipeline.execution.workers import connected_to
from ninscope_pipeline.request.cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

DEMO = Path(__file__).parents[2] / "dags" / "demo.toml"
PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
JOB = {"queue": "short", "cores": 1, "memory": "1GB", "interface": "lo", "walltime": "00:10:00"}


@pytest.fixture(scope="module")
def slurm():
    """The environment of commands that submit to it."""
    try:
        with single_node() as environment:
            yield environment
    except CannotStart as reason:
        pytest.skip(f"no SLURM: {reason}")


@pytest.fixture(autouse=True)
def no_job_is_left(slurm):
    yield
    assert until(lambda: not queue(slurm), 20), queue(slurm)


def until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def cluster(minimum: int = 0, maximum: int = 2, **job) -> dict:
    return {"kind": "slurm", "minimum": minimum, "maximum": maximum, "job": JOB | job}


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    """Twelve checkpoints of which each takes long enough to be caught at work."""
    return write_suite(tmp_path_factory.mktemp("slurm") / "tiny", range(12), blocks=3, width=48, heads=4)


def asked(place: Path, suite: Path, cluster: dict) -> Path:
    return write_dag(place / "tiny.toml", suite, nodes_per_layer=32, samples=8, cluster=cluster)


@pytest.fixture(scope="module")
def undisturbed(suite) -> Path:
    """The run of these checkpoints on this machine."""
    dag = asked(suite.parent, suite, {"kind": "local", "workers": 2})
    assert process("run", dag, "--runs-dir", suite.parent / "runs", program=UNDRAWN).code == 0
    return suite.parent / "runs" / "tiny"


@pytest.fixture
def started(slurm, no_job_is_left):
    """Starts a run in the background, which Ctrl-C would reach as in a terminal; it says what it says to said.txt.

    It draws no pictures, which would take longer than its jobs, unless `program` is COMMAND.
    """
    running = []

    def start(dag: Path, runs: Path, program: tuple[str, ...] = UNDRAWN) -> subprocess.Popen:
        with open(dag.parent / "said.txt", "w") as said:
            run = subprocess.Popen(
                [*program, "run", str(dag), "--runs-dir", str(runs)],
                stdout=subprocess.DEVNULL, stderr=said, env=slurm, start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
        running.append(run)
        return run

    yield start
    for run in running:  # where a test failed
        run.kill()
        run.wait()


def ended(run: subprocess.Popen, dag: Path) -> Finished:
    code = run.wait(timeout=90)
    return Finished(code, "", (dag.parent / "said.txt").read_text())


def at_its_work(run: Path) -> bool:
    """Whether a network is there and the tables are not."""
    return any((run / "store.zarr" / "nin").glob("*/zarr.json"))


def assert_same(run: Path, reference: Path) -> None:
    for part in ("tables", "figures"):
        assert contents(run / part) == contents(reference / part)


def test_the_demo_on_slurm_makes_the_bytes_of_this_machine(slurm, started, tmp_path):
    """Although one of the two workers of its job is killed, which is then started again in its job."""
    revisions = 'revisions = ["step0", "step16", "step128", "step1000", "step4000"]'
    text = (
        DEMO.read_text()
        .replace("../data", str(DEMO.parents[1] / "data"))
        .replace("evaluations =", f"{revisions}\nevaluations =")
    )
    job = 'queue = "short"\ncores = 2\nmemory = "2GB"\ninterface = "lo"\n'
    (tmp_path / "here.toml").write_text(text)
    (tmp_path / "there.toml").write_text(f'{text}\n[cluster]\nkind = "slurm"\nmaximum = 2\n[cluster.job]\n{job}')
    there = tmp_path / "there" / "demo"
    run = started(dag := tmp_path / "there.toml", there.parent, COMMAND)
    assert until(lambda: at_its_work(there), 60)
    ((number, _),) = queue(slurm)
    workers = workers_of(number)
    assert len(workers) == 2
    workers[0].kill()
    finished = ended(run, dag)
    assert finished.code == 0, finished.err
    assert all(line.startswith("waiting for the first worker: 1 job") for line in finished.says)
    assert process("run", tmp_path / "here.toml", "--runs-dir", tmp_path / "here").code == 0
    for part in ("tables", "figures", "store.zarr"):
        assert contents(there / part) == contents(tmp_path / "here" / "demo" / part)
    printed = (there / "log" / f"ninscope-{number}.err").read_text()
    assert printed.count("Start worker at") == 3
    text = (there / "run.toml").read_text()
    assert 'kind = "slurm"' in text
    assert 'queue = "short"' in text


def workers_of(job: str) -> list[psutil.Process]:
    """The processes that do the work of a job: children of `dask worker`."""
    return [
        child
        for one in psutil.process_iter()
        if is_of_job(one, job) and "distributed.cli.dask_worker" in one.cmdline()
        for child in one.children()
        if "spawn_main" in " ".join(child.cmdline())
    ]


def is_of_job(one: psutil.Process, job: str) -> bool:
    try:
        return one.environ().get("SLURM_JOB_ID") == job
    except psutil.Error:  # gone, or not to be looked into
        return False


def test_the_example_of_the_page_runs(slurm, suite, tmp_path):
    """docs/cluster.md: its DAG file, but for names and size of the site, and its commands."""
    example = re.search(r"```toml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)[1]
    site = {
        "/shared/checkpoints/mine-1b": str(suite),
        '"cpu"': '"short"\ninterface = "lo"',
        "40": "2",
        "cores = 4": "cores = 2",
    }
    for its, ours in site.items():
        assert its in example
        example = example.replace(its, ours)
    (tmp_path / "mine.toml").write_text(example)
    for command in ("run mine.toml --dry-run", "run mine.toml", "status runs/mine"):
        assert f"\n    ninscope {command} " in PAGE.read_text()
        finished = process(*command.split(), program=UNDRAWN, cwd=tmp_path, env=slurm)
        assert finished.code == 0, finished.err
    assert "mine: finished" in finished.out


def test_a_scheduler_at_an_address_makes_the_bytes_of_this_machine(suite, undisturbed, scheduler, tmp_path):
    dag = asked(tmp_path, suite, {"kind": "address", "address": scheduler})
    finished = process("run", dag, "--runs-dir", tmp_path, program=UNDRAWN)
    assert (finished.code, finished.says) == (0, [])
    assert_same(tmp_path / "tiny", undisturbed)


def test_nothing_is_submitted_where_nothing_is_to_run(slurm, suite, undisturbed):
    dag = asked(suite.parent, suite, cluster(queue="closed"))
    new = process("run", dag, "--runs-dir", suite.parent / "new", "--dry-run", env=slurm)
    again = process("run", dag, "--runs-dir", undisturbed.parent, program=UNDRAWN, env=slurm)
    assert (new.code, new.err, again.code, again.err) == (0, "", 0, "")
    assert "all results are stored already" in again.out
    assert not (undisturbed / "log").exists()


@pytest.mark.parametrize("place", ["closed", "short"])
def test_ctrl_c_cancels_the_jobs(slurm, started, suite, undisturbed, tmp_path, place):
    dag = asked(tmp_path, suite, cluster(queue=place))
    run = started(dag, tmp_path)
    if place == "closed":
        stuck = "ninscope: waiting for the first worker: 2 jobs pending (PartitionDown)"
        assert until(lambda: stuck in (tmp_path / "said.txt").read_text(), 40)
    else:
        assert until(lambda: at_its_work(tmp_path / "tiny"), 40)
    os.killpg(run.pid, signal.SIGINT)
    finished = ended(run, dag)
    assert finished.code == 130
    assert finished.says[0] == "waiting for the first worker: 2 jobs submitted"
    assert finished.says[-1].startswith("interrupted: ")
    assert {state for _, state in queue(slurm)} <= {"COMPLETING"}


def test_a_command_that_is_killed_leaves_jobs_that_end_by_themselves(slurm, started, suite, undisturbed, tmp_path):
    dag = asked(tmp_path, suite, cluster(maximum=1))
    run = started(dag, tmp_path)
    assert until(lambda: at_its_work(tmp_path / "tiny"), 40)
    run.kill()
    run.wait()
    assert until(lambda: not queue(slurm), 20)
    finished = process("run", dag, "--runs-dir", tmp_path, program=UNDRAWN, env=slurm)
    assert finished.code == 0, finished.err
    assert_same(tmp_path / "tiny", undisturbed)


def test_a_job_that_is_cancelled_comes_again(slurm, started, suite, undisturbed, tmp_path):
    run = started(dag := asked(tmp_path, suite, cluster(maximum=1)), tmp_path)
    assert until(lambda: at_its_work(tmp_path / "tiny"), 40)
    ((job, _),) = queue(slurm)
    subprocess.run(["scancel", job], env=slurm, check=True)
    finished = ended(run, dag)
    assert finished.code == 0, finished.err
    assert "waiting for a worker: 1 job submitted" in finished.says
    assert len(list((tmp_path / "tiny" / "log").glob("ninscope-*.err"))) == 2
    assert_same(tmp_path / "tiny", undisturbed)


def test_a_job_that_ends_before_its_worker_comes_is_one_line(slurm, suite, tmp_path):
    dag = asked(tmp_path, suite, cluster(maximum=1, python="/bin/false"))
    finished = process("run", dag, "--runs-dir", tmp_path, program=UNDRAWN, env=slurm)
    assert finished.code == 2
    *_, last = finished.says
    assert last.endswith(f"ended before its worker came; what it printed is in {tmp_path / 'tiny' / 'log'}")


def test_workers_follow_the_work_and_are_of_one_thread(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "IDLE_SECONDS", 1.0)
    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)  # another test's cluster, of this process, has set it
    told = []
    wanted = Cluster(kind="slurm", minimum=1, maximum=4, job=JOB | {"cores": 2, "processes": 2})
    with connected_to(wanted, 40, tmp_path, told.append) as client:
        client.wait_for_workers(4, timeout=40)
        assert set(client.nthreads().values()) == {1}
        environments = client.run(lambda: dict(os.environ)).values()
        assert {one["OMP_NUM_THREADS"] for one in environments} == {"1"}
        assert not any("MALLOC_TRIM_THRESHOLD_" in one for one in environments)
        assert client.submit(lambda: 3).result() == 3
        assert until(lambda: len(queue(slurm)) == 1, 20)  # a job of two: the minimum of one, whole
        assert until(lambda: len(client.scheduler_info()["workers"]) == 2, 20)
    assert told[0] == "waiting for the first worker: 2 jobs submitted"
