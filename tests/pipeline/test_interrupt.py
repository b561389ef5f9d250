"""Ctrl-C at any moment: no traceback, no half-written result, and the same command goes on from there."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import COMMAND, UNDRAWN, alive, command, contents, write_dag
from suites import write_suite

pytestmark = pytest.mark.slow

STEPS = tuple(range(12))


@pytest.fixture(scope="module")
def dag(tmp_path_factory) -> Path:
    """Twelve checkpoints of which each takes long enough to be caught at work."""
    place = tmp_path_factory.mktemp("interrupt")
    write_suite(place / "tiny", STEPS, blocks=3, width=48, heads=4)
    return write_dag(place / "tiny.toml", Path("tiny"), nodes_per_layer=32, samples=8)


@pytest.fixture(scope="module")
def dag_of_processes(dag) -> Path:
    """The same by worker processes."""
    (dag.parent / "processes").mkdir()
    cluster = {"kind": "local", "workers": 2, "processes": True}
    return write_dag(
        dag.parent / "processes" / "tiny.toml", dag.parent / "tiny", nodes_per_layer=32, samples=8, cluster=cluster
    )


@pytest.fixture(scope="module")
def undisturbed(dag, undrawn) -> Path:
    assert command("run", dag, "--runs-dir", dag.parent / "undisturbed").code == 0
    return dag.parent / "undisturbed" / "tiny"


def stored(run: Path, stage: str) -> int:
    folder = run / "store.zarr" / stage
    return sum((path / "zarr.json").is_file() for path in folder.iterdir()) if folder.is_dir() else 0


# Moments of a run, each a thing to see in its folder.
MOMENTS: dict[str, Callable[[Path], bool]] = {
    "when it writes down what is asked": lambda run: (run / "run.toml").is_file(),
    "while the cluster starts": lambda run: (run / "plan.json").is_file() and time.sleep(0.7) is None,
    "at the first networks": lambda run: stored(run, "nin") >= 1,
    "in the middle": lambda run: stored(run, "spectra") >= 5,
    "at the tables": lambda run: any((run / "tables").glob("*.parquet")),
}


def listening() -> None:
    """As in a terminal: what is started in the background, these tests perhaps among it, inherits the signal ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(dag: Path, runs: Path, moment: str, *signals: signal.Signals, pause: float = 0.05):
    """(exit code, standard error) of a run whose whole process group gets signals at a moment of its own.

    Not at one that an earlier run of the folder has reached: then Python itself may not have started yet.
    """
    asked = runs / "tiny" / "run.toml"
    before = asked.stat().st_mtime_ns if asked.exists() else None

    def reached() -> bool:
        return asked.exists() and asked.stat().st_mtime_ns != before and MOMENTS[moment](runs / "tiny")

    group = subprocess.Popen(
        [*UNDRAWN, "run", str(dag), "--runs-dir", str(runs)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=listening,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while group.poll() is None and not reached() and time.monotonic() < deadline:
            time.sleep(0.005)
        for one in signals:
            if group.poll() is None:
                os.killpg(group.pid, one)
                time.sleep(pause)
        _, err = group.communicate(timeout=30)
        deadline = time.monotonic() + 10
        while alive(group.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(group.pid), "processes were left behind"
    finally:
        if alive(group.pid):
            os.killpg(group.pid, signal.SIGKILL)
    return group.returncode, err


def assert_nothing_is_half_written(run: Path, undisturbed: Path) -> None:
    """Every artefact there is, and every table and figure, is byte for byte that of an undisturbed run."""
    for stage in ("nin", "spectra", "emergence"):
        for key in (run / "store.zarr" / stage).glob("*/"):
            assert contents(key) == contents(undisturbed / "store.zarr" / stage / key.name)
    for place in ("tables", "figures"):
        whole = contents(undisturbed / place)
        assert contents(run / place).items() <= whole.items()


def assert_the_same_command_completes(dag: Path, run: Path, undisturbed: Path) -> None:
    ended = command("run", dag, "--runs-dir", run.parent)
    assert (ended.code, ended.says) == (0, [])
    for part in ("tables", "store.zarr", "figures"):
        assert contents(run / part) == contents(undisturbed / part)
    assert list((run / ".partial").iterdir()) == []


def not_quiet(code: int, err: str) -> str:
    """What is wrong with the end of an interrupted run: it should say so in a line or two and no more. Empty if nothing.

    Exit code 130 is also what a shell makes of a death by SIGINT, which a second Ctrl-C at the very end comes to.
    """
    # Without bars and lines of progress.
    lines = [line for line in err.splitlines() if line and not line.startswith(("tiny ", "tiny: "))]
    said = all(line.startswith("ninscope: ") for line in lines) and any("interrupted" in line for line in lines)
    if code in (130, -signal.SIGINT) and said and len(lines) <= 2:
        return ""
    return f"exit code {code}, standard error {err!r}"


# What happens to one run folder, one after the other: (moment, how often Ctrl-C is pressed, seconds between).
STORIES = {
    "threads": [
        ("when it writes down what is asked", 1, 0),
        ("in the middle", 2, 0.02),
        ("at the tables", 1, 0),
    ],
    "processes": [("while the cluster starts", 2, 0.3), ("at the first networks", 1, 0)],
}


@pytest.mark.parametrize("story", STORIES)
def test_ctrl_c_ends_a_run_quietly_and_the_same_command_goes_on(dag, dag_of_processes, undisturbed, tmp_path, story):
    run = tmp_path / "tiny"
    asked = dag if story == "threads" else dag_of_processes
    faults = []
    for moment, times, pause in STORIES[story]:
        code, err = interrupted(asked, tmp_path, moment, *[signal.SIGINT] * times, pause=pause)
        if (fault := not_quiet(code, err)) and not (code == 0 and moment == "at the tables"):
            faults.append(f"{moment}: {fault}")
        assert_nothing_is_half_written(run, undisturbed)
    assert_the_same_command_completes(dag, run, undisturbed)
    assert not faults, "\n".join(faults)


def interrupted_at_work(code: str, *arguments: object) -> tuple[int, str]:
    """Exit code and stderr of Python code that gets Ctrl-C once it has printed "at work"."""
    running = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listening,
    )  # fmt: skip
    try:
        assert running.stdout.readline() == "at work\n"
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=20)
    finally:
        running.kill()
    return running.returncode, err


def test_ctrl_c_does_not_wait_for_work_that_nobody_wants_any_more(dag, tmp_path):
    """A job of minutes, as an exact analysis of a large checkpoint is, keeps the command from ending no second."""
    code = (
        "import sys, time\n"
        "from ninscope_pipeline.cli import main\n"
        "from ninscope_pipeline.stages.network import NetworkStage\n"
        "def make(self, store, job):\n"
        "    print('at work', flush=True)\n"
        "    time.sleep(600)\n"
        "NetworkStage.make = make\n"
        "main(sys.argv[1:])\n"
    )
    returncode, err = interrupted_at_work(code, "run", dag, "--runs-dir", tmp_path, "--workers", "1")
    assert not_quiet(returncode, err) == ""


@pytest.mark.parametrize(
    ("command", "function"), [("measure", "measuring.measured_network"), ("audit", "checkpoints.local._identify_file")]
)
def test_ctrl_c_does_not_wait_for_threads_of_other_commands(dag, tmp_path, command, function):
    """Nor for a checkpoint that takes minutes to measure, or a file that takes minutes to hash."""
    code = (
        "import sys, time\n"
        "import ninscope.MODULE as module\n"
        "from ninscope_pipeline.cli import main\n"
        "def endless(*arguments, **named):\n"
        "    sys.stdout.write('at work\\n')\n"  # at once, of several threads
        "    sys.stdout.flush()\n"
        "    time.sleep(600)\n"
        "module.NAME = endless\n"
        "main(sys.argv[1:])\n"
    )
    module, name = function.rsplit(".", 1)
    code = code.replace("MODULE", module).replace("NAME", name)
    returncode, err = interrupted_at_work(code, command, dag.parent / "tiny")
    assert returncode == 130
    assert [line for line in err.splitlines() if line.startswith("ninscope: ")] == ["ninscope: interrupted"]
    assert "Traceback" not in err


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="libraries of a process are seen in /proc")
@pytest.mark.parametrize("library", ["_multiarray_umath", "pyarrow"])
def test_ctrl_c_while_libraries_are_imported_is_quiet_too(dag, tmp_path, library):
    group = subprocess.Popen(
        [*COMMAND, "run", str(dag), "--runs-dir", str(tmp_path / "runs"), "--workers", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=listening,
    )  # fmt: skip
    while group.poll() is None and library not in Path(f"/proc/{group.pid}/maps").read_text():
        time.sleep(0.005)
    os.killpg(group.pid, signal.SIGINT)
    _, err = group.communicate(timeout=30)
    assert not_quiet(group.returncode, err) == ""
    assert not (tmp_path / "runs").exists()
