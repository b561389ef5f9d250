"""Ctrl-C and sudden death at any moment: no traceback, no half-written result, and the same command goes on from there."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import COMMAND, alive, command, contents, process, write_dag
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
def undisturbed(dag, scheduler) -> Path:
    assert command("run", dag, "--runs-dir", dag.parent / "undisturbed", "--scheduler", scheduler).code == 0
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
        [*COMMAND, "run", str(dag), "--runs-dir", str(runs), "--workers", "2"],
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
    ended = process("run", dag, "--runs-dir", run.parent, "--workers", 2)
    assert (ended.code, ended.says) == (0, [])
    for part in ("tables", "store.zarr", "figures"):
        assert contents(run / part) == contents(undisturbed / part)
    assert list((run / ".partial").iterdir()) == []


def not_quiet(code: int, err: str) -> str:
    """What is wrong with the end of an interrupted run: it should say so in a line or two and no more. Empty if nothing.

    Exit code 130 is also what a shell makes of a death by SIGINT, which a second Ctrl-C at the very end comes to.
    """
    lines = [line for line in err.splitlines() if line and not line.startswith("tiny ")]  # without progress bars
    said = all(line.startswith("ninscope: ") for line in lines) and any("interrupted" in line for line in lines)
    if code in (130, -signal.SIGINT) and said and len(lines) <= 2:
        return ""
    return f"exit code {code}, standard error {err!r}"


# What happens to one run folder, one after the other: (moment, how often Ctrl-C is pressed, seconds between).
STORIES = {
    "once": [
        ("when it writes down what is asked", 1, 0),
        ("while the cluster starts", 1, 0),
        ("in the middle", 1, 0),
        ("at the tables", 1, 0),
    ],
    "twice": [("while the cluster starts", 2, 0.3), ("at the first networks", 2, 0.02)],
}


@pytest.mark.parametrize("story", STORIES)
def test_ctrl_c_ends_a_run_quietly_and_the_same_command_goes_on(dag, undisturbed, tmp_path, story):
    run = tmp_path / "tiny"
    faults = []
    for moment, times, pause in STORIES[story]:
        code, err = interrupted(dag, tmp_path, moment, *[signal.SIGINT] * times, pause=pause)
        if (fault := not_quiet(code, err)) and not (code == 0 and moment == "at the tables"):
            faults.append(f"{moment}: {fault}")
        assert_nothing_is_half_written(run, undisturbed)
    if story == "once":
        assert_the_same_command_completes(dag, run, undisturbed)
    assert not faults, "\n".join(faults)


def test_a_run_killed_again_and_again_ends_as_if_it_never_was(dag, undisturbed, tmp_path):
    for moment in ("in the middle", "at the tables"):
        code, _ = interrupted(dag, tmp_path, moment, signal.SIGKILL)
        assert code == -signal.SIGKILL or moment == "at the tables"
        assert_nothing_is_half_written(tmp_path / "tiny", undisturbed)
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = tmp_path / "tiny" / ".partial" / f"{socket.gethostname()}-{ended.pid}-left"  # if none was caught at writing
    left.mkdir()
    (left / "zarr.json").write_text("{}")
    assert_the_same_command_completes(dag, tmp_path / "tiny", undisturbed)


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
