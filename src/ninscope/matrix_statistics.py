"""Statistics of the weights of one checkpoint, matrix by matrix: ninscope.weight_statistics."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ninscope.checkpoints.source import open_source
from ninscope.locating import revision_of
from ninscope.networks.neuron_network import NeuronNetwork, neuron_network
from ninscope.parameters import Parameters
from ninscope.threads import threads_of
from ninscope.weights.changes import CHANGES, network_changes
from ninscope.weights.counting import network_weights
from ninscope.weights.singular_values import network_singular_values
from ninscope.weights.statistics import STATISTICS
from ninscope.wording import joined_clauses

if TYPE_CHECKING:
    import pandas as pd


def weight_statistics(
    source: Any,
    revision: str | None = None,
    against: str | None = None,
    singular_values: bool = False,
    workers: int | None = None,
    base: str | None = None,
    base_revision: str | None = None,
    wiring: str = Parameters.wiring,
    convolutions: str = Parameters.convolutions,
    architecture: Any = None,
) -> "pd.DataFrame":
    """One row for every matrix of a checkpoint's network, and one for all together ("all"), last.

    source, revision, base, base_revision, wiring, convolutions, architecture: as in `ninscope.measure`. against: another revision
    of the source, to which distance, cosine and sign_flips are added. singular_values: ranks, condition_number and
    spectral_alpha too. workers: threads (default: one a core).

    Columns: matrix ("source -> target", node layers), the statistics of `ninscope.weights.statistics.WeightStatistics`, those of
    `changes.WeightChange` and `singular_values.SingularValueStatistics` where they are asked for, and message: why something is
    missing. Their formulas: docs/method.md#statistics-of-weights. Of the row "all", ranks, condition_number and spectral_alpha
    are means over the matrices.

    Raises RequestError: what `measure` raises. Raises CheckpointError: a checkpoint is missing, corrupt, nonfinite or unsupported.
    """
    import pandas as pd

    parameters = Parameters(wiring=wiring, convolutions=convolutions, architecture=architecture)
    opened = open_source(source, base, base_revision)
    threads = threads_of(workers)

    def network(name: str) -> NeuronNetwork:
        return neuron_network(opened.open(name), parameters.reading)

    read = network(revision_of(opened, revision))
    weights = network_weights(read, threads)
    rows = [{"matrix": name, **asdict(one), "message": one.message} for name, one in weights.statistics.items()]
    columns = ["matrix", *STATISTICS]
    if against is not None:
        changes = network_changes(read, network(revision_of(opened, against)), against).changes
        columns += CHANGES
        for row in rows:
            change = changes[row["matrix"]]
            row |= asdict(change) | {"message": joined_clauses(row["message"], change.message)}
    if singular_values:
        found = network_singular_values(read).statistics
        for row in rows:
            row |= asdict(found[row["matrix"]])
        columns += list(asdict(found["all"]))
    return pd.DataFrame(rows)[[*columns, "message"]].astype({"matrix": "string", "message": "string"})
