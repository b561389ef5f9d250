"""What stages that make something of a checkpoint share: it may be there already, and it may fail for what its bytes are."""

from collections.abc import Callable

from ninscope.architectures import Reading, architecture_of
from ninscope.architectures.layout import Architecture
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.errors import CheckpointError
from ninscope_pipeline.stages.locate import Located
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

Work = Callable[[Checkpoint, Architecture], Artefact]


def is_stored(store: ArtefactStore, stage: str, key: str) -> bool:
    """Whether an artefact is there. Raises CheckpointError when it is a failure."""
    if not store.has(stage, key):
        return False
    if (failure := store.failure(stage, key)) is not None:
        raise failure
    return True


def store_made(
    store: ArtefactStore, stage: str, key: str, make: Callable[[], Artefact], check_unchanged: Callable[[], None]
) -> None:
    """Store what `make` makes, unless it is there; numbers that are not finite are stored as a failure.

    check_unchanged: raises where what it is made from is not any more what the key says; asked before anything is stored.
    Raises CheckpointError: what make raises.
    """
    if is_stored(store, stage, key):  # the same content under another name, or another run was faster
        return
    try:
        artefact = make()
        check_unchanged()
    except CheckpointError as error:
        if error.status == "nonfinite":
            check_unchanged()
            store.write_failure(stage, key, error)
        raise
    store.write(stage, key, artefact)


def store_of_checkpoint(
    store: ArtefactStore, stage: str, key: str, located: Located, reading: Reading, work: Work
) -> None:
    """`store_made` of what `work` makes of a checkpoint's weights. Raises CheckpointError: also of changed files."""
    source = located.opened()

    def make() -> Artefact:
        checkpoint = source.open(located.revision, located.identity)
        return work(checkpoint, architecture_of(checkpoint.config, checkpoint.tensors, reading))

    store_made(store, stage, key, make, lambda: source.check_unchanged(located.identity))
