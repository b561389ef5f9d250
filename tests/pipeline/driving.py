"""Drive the command line as a user does, and look at what a run folder holds."""

import contextlib
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from ninscope_pipeline.cli import main

# A NeoX of one block and width 16: 8 node layers, 30 ms a checkpoint. Its weights are wide enough for edges of 1..150.
ANALYSIS = {"nodes_per_layer": 12, "samples": 3, "min_degree": 3, "q": {"start": -2.0, "stop": 2.0, "step": 0.5}}
EMERGENCE = {"replicates": 100}
COMMAND = (sys.executable, "-m", "ninscope_pipeline.cli")
UNDRAWN = (sys.executable, str(Path(__file__).with_name("undrawn.py")))  # writes digests for pictures


@dataclass(frozen=True)
class Finished:
    """How a command ended. says: the lines that are ninscope's own, without progress bars."""

    code: int
    out: str
    err: str

    @property
    def says(self) -> list[str]:
        return [line.removeprefix("ninscope: ") for line in self.err.splitlines() if line.startswith("ninscope: ")]

    @property
    def would_run(self) -> list[tuple[str, str]]:
        """(stage, name) of every task that --dry-run lists."""
        lines = [line for line in self.out.splitlines() if line.startswith("would run: ")]
        return [tuple(line.removeprefix("would run: ").split(maxsplit=1)) for line in lines]


def command(*arguments) -> Finished:
    """`ninscope ARGUMENTS` in this process; a traceback a user would see is raised."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as exit:
            code = exit.code
    return Finished(code, out.getvalue(), err.getvalue())


def process(*arguments, program: tuple[str, ...] = COMMAND, **options) -> Finished:
    """`ninscope ARGUMENTS` in a process of its own. program: COMMAND or UNDRAWN."""
    ended = subprocess.run(
        [*program, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, **options
    )
    return Finished(ended.returncode, ended.stdout, ended.stderr)


def write_dag(path: Path, *sources: Path, **changes) -> Path:
    """A DAG file over suites on disk. changes: keys of the file, of [analysis], of [emergence] or of every model;
    one that is None is left out."""
    dag: dict = {"name": path.stem, "analysis": dict(ANALYSIS), "emergence": dict(EMERGENCE)}
    models = [{"suite": "tiny", "model": source.name, "source": str(source)} for source in sources]
    for key, value in changes.items():
        if key in ("revisions", "evaluations"):
            models = [model | {key: value} for model in models]
        elif key in ("baseline_step", "replicates", "confidence", "trust_duplicates", "trust_unlike_counts"):
            dag["emergence"][key] = value
        elif key in (
            "name",
            "models",
            "suites",
            "variants",
            "nulls",
            "controls",
            "scaling",
            "weights",
            "correlations",
            "execution",
            "cluster",
        ):
            dag[key] = value
        else:
            dag["analysis"][key] = value
    dag["analysis"] = {key: value for key, value in dag["analysis"].items() if value is not None}
    path.write_text(tomli_w.dumps({**dag, "models": models} if "models" not in changes else dag))
    return path


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """(inode, mtime) of every file below a folder: unchanged only where nothing was written."""
    return {
        str(path.relative_to(folder)): (status.st_ino, status.st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (status := path.stat())
    }


def results(run: Path) -> dict[str, tuple[int, int]]:
    """Stamps of what a run computes: store, tables, figures (run.toml and plan.json say what was asked last)."""
    return {name: stamp for name, stamp in stamps(run).items() if name.startswith(("store.zarr", "tables", "figures"))}


def artefacts(run: Path) -> dict[str, set[str]]:
    """Content keys in the store, by stage."""
    return {
        stage.name: {path.name for path in stage.iterdir() if path.is_dir()}
        for stage in (run / "store.zarr").iterdir()
        if stage.is_dir()
    }


def made(before: dict[str, set[str]], after: dict[str, set[str]]) -> dict[str, int]:
    """How many artefacts of each stage are new."""
    return {stage: len(keys - before.get(stage, set())) for stage, keys in after.items()}


def killed_when(words: Sequence[str], out: Path, is_enough: Callable[[], bool]) -> None:
    """Start a command, and kill all of its processes, -9, as soon as is_enough() is so. out: the file that it writes to."""
    with open(out, "a") as told:
        running = subprocess.Popen(words, stdout=told, stderr=told, start_new_session=True)
        end = time.monotonic() + 180
        while running.poll() is None and time.monotonic() < end and not is_enough():
            time.sleep(0.002)
        assert running.poll() is None, "it ended before it could be killed"
        os.killpg(running.pid, signal.SIGKILL)
        running.wait(20)
        while alive(running.pid) and time.monotonic() < end:  # its workers
            time.sleep(0.01)


def alive(group: int) -> bool:
    """Whether any process of a process group lives."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
