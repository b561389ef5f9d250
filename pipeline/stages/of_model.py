"""What stages that run a checkpoint's model have in common: the base, of which bytes from a Hub are fetched once a run."""

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from ninscope.pipeline.runfolder import RunFolder
from ninscope.pipeline.stages.of_checkpoint import is_stored
from ninscope.pipeline.stages.studies import Study, home_of
from ninscope.pipeline.store import Artefact, ArtefactStore

from ninscope.errors import CheckpointError

if TYPE_CHECKING:
    from ninscope.neurons.tasks.task import Base


def store_of_model(store: ArtefactStore, study: Study, work: Callable[["Base"], Artefact]) -> None:
    """Store what `work` makes of a study's base, unless it is there; numbers that are not finite are stored as a failure.

    Raises CheckpointError: what work raises. Raises ChangedInputs: data changed meanwhile.
    """
    if is_stored(store, study.stage, study.key):
        return
    try:
        artefact = work(base_of_study(store.folder, study))
        study.check_unchanged()
    except CheckpointError as error:
        if error.status == "nonfinite":
            study.check_unchanged()
            store.write_failure(study.stage, study.key, error)
        raise
    store.write(study.stage, study.key, artefact)


def base_of_study(folder: RunFolder, study: Study) -> "Base":
    """The base that a study starts from. Raises CheckpointError, StoreError."""
    from ninscope.neurons.finetuning.bases import base_of
    from ninscope.neurons.finetuning.saved import SavedState
    from ninscope.neurons.tasks.task import Base

    located = study.located
    name, home = f"{located.model} {located.revision}", home_of(located)
    source = located.opened()
    checkpoint = source.open(located.revision, located.identity)
    kept = SavedState(folder.bases / located.content_sha256)
    if located.kind != "local" and (state := kept.load()) is not None:
        return Base(name, checkpoint.config, state[1], *home)
    base = base_of(checkpoint, name, *home)
    source.check_unchanged(located.identity)
    if located.kind != "local":  # the next seed, or method, starts from the same
        with folder.writing():
            kept.save(0, base.tensors, {})
    return base


def clear_bases(folder: RunFolder) -> None:
    """Delete what was kept of Hub bases: a run that has ended has no more use for them."""
    shutil.rmtree(folder.bases, ignore_errors=True)
