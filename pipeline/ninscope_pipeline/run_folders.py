"""The run folders of a folder: which there are, how large they are, and how far each is."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ninscope.errors import RequestError
from ninscope.integrations.run_names import FOLDER, name_of_run
from ninscope_pipeline.live.state import training_state
from ninscope_pipeline.storing.manifest import is_finished
from ninscope_pipeline.storing.runfolder import RUNS, RunFolder


@dataclass(frozen=True)
class RunState:
    """One run folder. state: "finished", "not finished", or of a training how far that is. checkpoints, own_models: how many it
    was last asked about; bytes: on disk; changed: when its plan was last made."""

    name: str
    finished: bool
    state: str
    checkpoints: int
    own_models: int
    bytes: int
    changed: datetime


def is_run_folder(path: Path) -> bool:
    """Whether a run wrote there, finished or not. Raises OSError, ValueError: no path, such as one that is too long."""
    return (path / "run.toml").is_file()


def not_a_run(path: str | Path, near: str) -> RequestError:
    """The error that says so. near: which run may be meant, a clause with its "; ", or empty.

    In the folder that a trainer writes, the run of its training is meant.
    """
    with suppress(OSError, RuntimeError, ValueError):
        inside = Path(path) / FOLDER
        near = f"; did you mean {str(inside)!r}?" if is_run_folder(inside.expanduser()) else near
    return RequestError(f"{path}: not a run folder (it has no run.toml); give a folder that `ninscope run` wrote{near}")


def run_path(run: str) -> Path:
    """A run folder, or the one of that name in ./runs. Raises RequestError."""
    with suppress(OSError, RuntimeError, ValueError):  # too long, an unknown user's home, a zero byte
        for path in (Path(run).expanduser(), RUNS / run):
            if is_run_folder(path):
                return path
    from ninscope.checks import did_you_mean

    raise not_a_run(run, did_you_mean(run, [path.name for path in folders_in(RUNS)]))


def name_of(path: Path) -> str:
    """What a run is called: its folder, also where that is "." or ".."; of a training's in a trainer's folder that one."""
    needs_links = not path.name or ".." in (path.name, path.parent.name)
    return name_of_run(path.resolve() if needs_links else path.absolute())


def runs_in(folder: Path) -> list[RunState]:
    """Every run of a folder, by name. Raises RequestError: there is no such folder."""
    folder = folder.expanduser()
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such folder; name the one that holds run folders with --runs-dir")
    return [state_of(path) for path in folders_in(folder)]


def folders_in(folder: Path) -> Iterator[Path]:
    """The run folders of a folder, by name; none where there is no such folder."""
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if is_run_folder(path))


def state_of(path: Path) -> RunState:
    """The state of the run in a folder."""
    folder = RunFolder(path)
    changed = datetime.fromtimestamp(folder.run_file.stat().st_mtime).astimezone()
    plan, training = folder.read_plan(), training_state(folder)
    finished = is_finished(folder)
    state = training.word if training is not None else "finished" if finished else "not finished"
    checkpoints = training.steps if training is not None else len(plan["checkpoints"])
    counts = checkpoints, len(plan.get("own_models", []))
    return RunState(path.name, finished, state, *counts, bytes_on_disk(path), changed)


def bytes_on_disk(path: Path) -> int:
    """Of all files below a folder; links are not followed."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
