"""Doing a model run: the base, fetched from a Hub once a run, its task, and a GPU that no other run of the machine has."""

import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from ninscope_pipeline.located import Located
from ninscope_pipeline.stages.model_runs.planning import ModelRun, home_of
from ninscope_pipeline.storing.runfolder import FOR_EVER, RunFolder
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from ninscope.neurons.tasks.task import Base, Task

_LOOK_SECONDS = 0.5


def artefact_of_run(store: ArtefactStore, run: ModelRun, work: Callable[["Task", "Base"], Artefact]) -> Artefact:
    """What `work` makes of a run's task and base.

    Raises CheckpointError: what work raises, and changed files. Raises ChangedInputs: data changed meanwhile.
    """
    with a_gpu() if run.how.device == "cuda" else nullcontext():
        base = base_of_checkpoint(store.folder, run.located)
        task = run.task.task(base)
        run.check_unchanged()  # or hours of work would be of other data, and a state that is resumed too
        return work(task, base)


def check_run_unchanged(run: ModelRun) -> None:
    """Raises CheckpointError or ChangedInputs where weights or data are not those of the plan."""
    run.located.opened().check_unchanged(run.located.known_identity)
    run.check_unchanged()


def base_of_checkpoint(folder: RunFolder, located: Located) -> "Base":
    """The model of a checkpoint, float32: what is on a Hub is fetched once a run. Raises CheckpointError, StoreError."""
    from ninscope.neurons.finetuning.saved import SavedState
    from ninscope.neurons.tasks.task import Base

    if located.kind == "local":
        return _read_base(located)
    content = located.known_identity.content_sha256
    kept = SavedState(folder.bases / content)
    with folder.locked(f"base-{content}", FOR_EVER):  # the next seed, or method, starts from the same
        if (state := kept.load()) is None:
            base = _read_base(located)
            with folder.writing():
                kept.save(0, base.tensors, {})
            return base
    config = located.opened().open(located.revision, located.identity).config
    return Base(f"{located.model} {located.revision}", config, state[1], *home_of(located))


def _read_base(located: Located) -> "Base":
    from ninscope.neurons.finetuning.bases import base_of

    checkpoint = located.opened().open(located.revision, located.identity)
    return base_of(checkpoint, f"{located.model} {located.revision}", *home_of(located))


def clear_bases(folder: RunFolder) -> None:
    """Delete what was kept of Hub bases: a run that has ended has no more use for them."""
    shutil.rmtree(folder.bases, ignore_errors=True)


@contextmanager
def a_gpu() -> Iterator[None]:
    """The current device of torch is a GPU that no other run of this machine has, as soon as there is one.

    There are as many workers as cores, and a GPU has memory for one model. Where torch finds none, that is said by whoever
    wants it.
    """
    import torch

    names = [torch.cuda.get_device_properties(index).uuid for index in range(torch.cuda.device_count())]
    if not names:
        yield
        return
    folder, user = Path(tempfile.gettempdir()), os.getuid()
    index, lock = _first_free([FileLock(folder / f"ninscope-{user}-gpu-{name}.lock") for name in names])
    try:
        with torch.cuda.device(index):
            try:
                yield
            finally:  # torch keeps the memory for more of the same, and whoever has the GPU next needs it
                gc.collect()
                torch.cuda.empty_cache()
    finally:
        lock.release()


def _first_free(locks: list[FileLock]) -> tuple[int, FileLock]:
    """(index, lock) of one that this process has now."""
    while True:
        for index, lock in enumerate(locks):
            with suppress(Timeout):
                lock.acquire(timeout=0)
                return index, lock
        time.sleep(_LOOK_SECONDS)
