"""Processes of stages that run models: what becomes of a job whose process is killed, and that none outlives its run.

A stage of a package that the tests install does the work: it says which process it is in, and waits or dies as it is told.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from driving import COMMAND, write_dag
from suites import write_suite

from ninscope_pipeline.execution.here import DIED, ThreadsHere
from ninscope_pipeline.outcome import OK
from ninscope_pipeline.stages import registry
from ninscope_pipeline.stages.stage import Job

pytestmark = pytest.mark.slow

STAGE = '''
import os
import signal
import time
from pathlib import Path

import numpy as np

from ninscope.errors import RequestError
from ninscope_pipeline.request.models import Strict
from ninscope_pipeline.stages.stage import Job, Section, Stage
from ninscope_pipeline.storing.store import Artefact


class Waiting(Strict):
    """notes: the folder where each process writes its number, and the job that it begins."""

    notes: str


class WaitingStage(Stage):
    name, title, version = "waiting", "waits", 1
    section = Section("waiting", Waiting | None, None)
    runs_models = True

    def jobs(self, request):
        section = request.dag.section(self)
        if section is not None:
            yield Job(self.name, "0" * 32, "wait", (section.notes, "wait"))

    def make(self, store, job):
        notes, what = job.work
        notes = Path(notes)
        again = any(name.endswith(job.key) for name in os.listdir(notes))
        (notes / f"{os.getpid()}-{time.monotonic_ns()}-{job.key}").touch()
        if what == "die" or (what == "die once" and not again):
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "refuse":
            raise RequestError("no such wish")
        if what == "wait":
            time.sleep(600)
        return Artefact({"threads": np.array([int(os.environ["OMP_NUM_THREADS"])])}, {})


WAITING = WaitingStage()
'''


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Iterator[Path]:
    """A folder on the path that has a package with the stage."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "waiting_stage.py").write_text(STAGE)
    described = folder / "waiting_stage-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: waiting-stage\nVersion: 1\n")
    (described / "entry_points.txt").write_text(f"[{registry.GROUP}]\nwaiting = waiting_stage:WAITING\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        registry.stages.cache_clear()
        yield folder
    registry.stages.cache_clear()


@pytest.fixture(scope="module")
def threads(installed) -> Iterator[ThreadsHere]:
    """One thread, and so one process at a time."""
    threads = ThreadsHere(1)
    yield threads
    threads.close()


@pytest.fixture
def notes(tmp_path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


def processes(notes: Path) -> list[int]:
    """In the order in which they wrote."""
    named = [path.name.split("-") for path in notes.iterdir()]
    return [int(number) for number, *_ in sorted(named, key=lambda parts: int(parts[1]))]


def done(threads: ThreadsHere, tmp_path: Path, *wishes: str, first: int = 0):
    """Outcomes of jobs, one a wish."""
    jobs = [
        Job("waiting", f"{number:032}", wish, (str(tmp_path / "notes"), wish))
        for number, wish in enumerate(wishes, first)
    ]
    outcomes = threads.execute(str(tmp_path / "run"), jobs, lambda *_: None, lambda *_: None)
    return [outcomes[job.id] for job in jobs]


def until(true: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_job_whose_process_dies_is_tried_again_and_then_failed_and_the_others_go_on(threads, tmp_path, notes):
    wishes = ("fine", "die", "die once", "fine")
    fine, dead, lucky, after = [done(threads, tmp_path, wish, first=number)[0] for number, wish in enumerate(wishes)]
    assert (fine, lucky, after) == (OK, OK, OK)
    assert (dead.status, dead.lost) == ("failed", True)
    assert dead.message.startswith(DIED)
    assert "terminated abruptly" in dead.trace
    first, killed, again, lucky_first, lucky_again, last = processes(notes)
    assert first == killed  # one process for all jobs of a thread
    assert lucky_again == last
    assert len({first, again, lucky_first, last, os.getpid()}) == 5
    assert [psutil.pid_exists(process) for process in (first, again, lucky_first, last)] == [False, False, False, True]


def test_a_wrong_request_passes_on_and_its_process_is_used_again(threads, tmp_path, notes):
    with pytest.raises(Exception, match="no such wish"):
        done(threads, tmp_path, "refuse")
    assert done(threads, tmp_path, "fine", first=1) == [OK]
    assert len(set(processes(notes))) == 1


def test_a_process_begins_before_any_library_has_counted_the_cores():
    code = "import sys, ninscope_pipeline.cli, ninscope_pipeline.execution.model_process; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "scipy", "torch", "numba", "dask"} & set(loaded)


def test_a_run_that_is_given_up_starts_no_process_again(installed, tmp_path, notes):
    """Its process is killed while it works, which is no accident after which to try again."""
    from concurrent.futures import ThreadPoolExecutor

    threads = ThreadsHere(1)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(done, threads, tmp_path, "wait")
        assert until(lambda: processes(notes) != [])
        threads.close()
        (outcome,) = ended.result(timeout=30)
    assert outcome.lost
    assert len(processes(notes)) == 1
    assert until(lambda: not psutil.pid_exists(processes(notes)[0]))
    assert done(threads, tmp_path, "fine", first=1)[0].lost


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_command_that_ends_at_once_leaves_no_process(installed, tmp_path, notes, number, code):
    """kill -9 of the command alone; Ctrl-C to all of its processes, as a terminal sends it."""
    write_suite(tmp_path / "weights", (0,), blocks=1, width=16, heads=2)
    dag = write_dag(tmp_path / "tiny.toml", Path("weights"))
    dag.write_text(f'{dag.read_text()}\n[waiting]\nnotes = "{notes}"\n')
    paths = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
    running = subprocess.Popen(
        [*COMMAND, "run", str(dag), "--runs-dir", str(tmp_path / "runs"), "--workers", "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": paths}, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert until(lambda: processes(notes) != [])
    (child,) = processes(notes)
    assert psutil.Process(child).ppid() == running.pid
    if number == signal.SIGKILL:
        running.kill()
    else:
        os.killpg(running.pid, number)
    _, said = running.communicate(timeout=30)
    assert running.returncode == code
    assert "Traceback" not in said
    assert until(lambda: not psutil.pid_exists(child), 10)
    assert len(processes(notes)) == 1
    assert list((tmp_path / "runs" / "tiny" / "store.zarr").glob("waiting/*")) == []
