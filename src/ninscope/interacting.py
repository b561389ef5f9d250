"""Whether the matrices of a checkpoint are coupled: ninscope.interactions."""

from typing import TYPE_CHECKING, Any

from ninscope.checkpoints.source import open_source
from ninscope.checks import MAX_SEED, checked_integer
from ninscope.interaction.coupling import MAX_NEURONS, MAX_VECTORS, Exactness
from ninscope.interaction.of_checkpoint import checkpoint_interactions
from ninscope.interaction.whole import Options
from ninscope.locating import revision_of

if TYPE_CHECKING:
    import pandas as pd


def interactions(
    source: Any,
    revision: str | None = None,
    across: bool = True,
    exact: int = Exactness.neurons,
    vectors: int = Exactness.vectors,
    seed: int = Exactness.seed,
    base: str | None = None,
    base_revision: str | None = None,
) -> "pd.DataFrame":
    """Coupling of every pair of matrices of a checkpoint of which one reads what the other writes
    (docs/method.md#interaction).

    source, revision, base, base_revision: as in `ninscope.measure`. across: also pairs through the residual stream. exact: up
    to so many neurons between two matrices nothing is estimated. vectors: number of random vectors that the rest is estimated
    with (4 or more). seed: of these, and of drawn permutations.

    Returns one row a pair: writer, reader, kind ("mlp", "vo", "qk", "across", ...), distance (blocks), coupling, error (how far
    chance leads a coupling from 0: its standard deviation over permutations), heads (how many it is the mean over), vectors
    (random vectors it was estimated with; 0: it is exact), estimate_error (standard error of that estimate), error_vectors
    (random vectors that `error` was estimated with; 0: it is exact), message.
    `attrs["note"]` says what was left out or is not known. Raises RequestError and CheckpointError as `ninscope.measure` does.
    """
    exactness = Exactness(
        checked_integer("exact", exact, 1, MAX_NEURONS),
        checked_integer("vectors", vectors, 4, MAX_VECTORS),
        checked_integer("seed", seed, 0, MAX_SEED),
    )
    opened = open_source(source, base, base_revision)
    checkpoint = opened.open(revision_of(opened, revision))
    found = checkpoint_interactions(checkpoint, Options(across, spikes=False, exactness=exactness))
    frame = found.to_frame()
    frame.attrs["note"] = found.note
    return frame
