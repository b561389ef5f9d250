"""The run folders of a folder: which there are, how large they are, and what in one is of no more use."""

import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ninscope.errors import RequestError
from ninscope_pipeline.storing.manifest import is_finished
from ninscope_pipeline.storing.runfolder import RUNS, RunFolder

if TYPE_CHECKING:
    from ninscope_pipeline.stages.stage import JobId


@dataclass(frozen=True)
class RunState:
    """One run folder. checkpoints: that it was last asked about; bytes: on disk; changed: when its plan was last made."""

    name: str
    finished: bool
    checkpoints: int
    bytes: int
    changed: datetime


def why_no_output(path: Path) -> str:
    """Why a file must not be written there, a clause: it "is a folder", or "is no file" (a device would be replaced)."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""  # nothing is there, or the attempt to write will tell
    if stat.S_ISDIR(mode):
        return "is a folder"
    return "" if stat.S_ISREG(mode) else "is no file"


def run_path(run: str) -> Path:
    """A run folder, or the one of that name in ./runs. Raises RequestError."""
    with suppress(OSError, RuntimeError, ValueError):  # too long, an unknown user's home, a zero byte
        for path in (Path(run).expanduser(), RUNS / run):
            if (path / "run.toml").is_file():
                return path
    from ninscope.checks import did_you_mean

    near = did_you_mean(run, [path.name for path in folders_in(RUNS)])
    raise RequestError(f"{run}: not a run folder (it has no run.toml); give a folder that `ninscope run` wrote{near}")


def name_of(path: Path) -> str:
    """What a run is called: its folder, also where that is "."."""
    return path.name or path.resolve().name


def runs_in(folder: Path) -> list[RunState]:
    """Every run of a folder, by name. Raises RequestError: there is no such folder."""
    folder = folder.expanduser()
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such folder; name the one that holds run folders with --runs-dir")
    return [state_of(path) for path in folders_in(folder)]


def folders_in(folder: Path) -> Iterator[Path]:
    """The run folders of a folder, by name; none where there is no such folder."""
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if (path / "run.toml").is_file())


def state_of(path: Path) -> RunState:
    """The state of the run in a folder."""
    folder = RunFolder(path)
    changed = datetime.fromtimestamp(folder.run_file.stat().st_mtime).astimezone()
    count = len(folder.read_plan()["checkpoints"])
    return RunState(name_of(path), is_finished(folder), count, _bytes(path), changed)


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())


def clean_run(path: Path, dry_run: bool = False) -> "dict[JobId, int]":
    """Remove the artefacts that a run's plan does not name; returns their bytes by stage and key.

    Those that follow from others' results (E) stay where an earlier version wrote the plan, which does not name them.
    Raises RequestError: the run has not finished, or another is at work there; StoreError.
    """
    # Half a second of imports, which commands that only look for runs do without.
    from ninscope_pipeline.opened_run import open_run
    from ninscope_pipeline.stages.registry import stages
    from ninscope_pipeline.storing.store import ArtefactStore

    run, folder = open_run(path), RunFolder(path)
    if not run.finished:
        raise RequestError(
            f"{path}: the run has not finished; finish it first, so that it is known what its tables need"
        )
    planned = {**run.plan["stages"], **run.plan.get("following", {})}
    known = [name for name in stages() if name in planned]
    with folder.alone() as alone:
        if not alone:
            raise RequestError(
                f"{path}: a run is at work there, or the file system has no locks; clean it when it has ended"
            )
        store = ArtefactStore(folder)
        unused = [(stage, key) for stage in known for key in store.keys(stage) if key not in set(planned[stage])]
        sizes = {job: _bytes(folder.store.joinpath(*job)) for job in unused}
        for job in () if dry_run else unused:
            store.remove(*job)
    return sizes
