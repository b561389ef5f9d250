"""What stages that read a checkpoint have in common: it may be there already, and it may fail for what its bytes are."""

from collections.abc import Callable

from ninscope.pipeline.stages.locate import Located
from ninscope.pipeline.store import Artefact, ArtefactStore

from ninscope.architectures import Reading, architecture_of
from ninscope.architectures.layout import Architecture
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.errors import CheckpointError

Work = Callable[[Checkpoint, Architecture], Artefact]


def is_stored(store: ArtefactStore, stage: str, key: str) -> bool:
    """Whether an artefact is there. Raises CheckpointError when it is a failure."""
    if not store.has(stage, key):
        return False
    if (failure := store.failure(stage, key)) is not None:
        raise failure
    return True


def store_of_checkpoint(
    store: ArtefactStore, stage: str, key: str, located: Located, reading: Reading, work: Work
) -> None:
    """Store what `work` makes of a checkpoint, unless it is there; NaN in its weights is stored as a failure.

    Raises CheckpointError: what work raises, and changed files.
    """
    if is_stored(store, stage, key):  # the same content under another name, or another run was faster
        return
    source = located.opened()
    checkpoint = source.open(located.revision, located.identity)
    try:
        artefact = work(checkpoint, architecture_of(checkpoint.config, checkpoint.tensors, reading))
        source.check_unchanged(located.identity)
    except CheckpointError as error:
        if error.status == "nonfinite":
            source.check_unchanged(located.identity)
            store.write_failure(stage, key, error)
        raise
    store.write(stage, key, artefact)
