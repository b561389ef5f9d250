"""Every network of a training or a pruning, as the tables call it, with what its E compares with."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ninscope.neurons.polysemanticity.table_names import PRUNED, RETRAINED, TRAINING
from ninscope_pipeline.stages.laboratory.planning import Pruning, Training, number_shown, ratio_shown
from ninscope_pipeline.stages.laboratory.toy_pruning import PrunedAt, stored_pruning
from ninscope_pipeline.stages.laboratory.toy_training import StoredTraining, diverged, stored_training
from ninscope_pipeline.storing.store import ArtefactStore

if TYPE_CHECKING:
    from ninscope.neurons.polysemanticity.perceptron import Perceptron
    from ninscope.neurons.polysemanticity.structure import PreparedStart


@dataclass(frozen=True)
class Checkpoint:
    """One network that is measured, or why it is not; the fields are columns of the tables."""

    revision: str
    step: int | None
    phase: str
    epoch: int | None = None
    learning_rate: float | None = None
    asked_ratio: float | None = None
    neuron_ratio: float | None = None
    pruning_ratio: float | None = None
    status: str = "ok"
    message: str = ""


# A network, None where there is none, and what its E compares with.
Measured = tuple[Checkpoint, "Perceptron | None", "PreparedStart | None"]


def measured_networks(store: ArtefactStore, work: Training | Pruning) -> "Iterator[Measured]":
    """Every network of a training, or of a pruning, in the order of the table."""
    training = work.training if isinstance(work, Pruning) else work
    trained = stored_training(store, training)
    if isinstance(work, Pruning):
        for at in stored_pruning(store, work):
            yield from _of_ratio(at, trained.networks[0])
    else:
        yield from _of_training(training, trained)


def _of_training(training: Training, trained: StoredTraining) -> "Iterator[Measured]":
    from ninscope.neurons.polysemanticity.structure import prepared_start

    start = prepared_start(trained.networks[0].weights)
    for epoch in range(training.experiment.epochs + 1):
        reached = epoch < len(trained.networks)
        told = diverged(None if reached else trained.diverged_at)
        rate = training.experiment.learning_rate
        checkpoint = Checkpoint(f"epoch{epoch}", epoch, TRAINING, epoch, rate, 0.0, 0.0, 0.0, *told)
        yield checkpoint, trained.networks[epoch] if reached else None, start


def _of_ratio(at: PrunedAt, initial: "Perceptron") -> "Iterator[Measured]":
    """The pruned network and those retrained of it. They start from the initial network among the neurons that were kept."""
    from ninscope.neurons.polysemanticity.structure import prepared_start, sub_network

    start = None if at.network is None else prepared_start(sub_network(initial.weights, at.kept))
    shown, ratios = ratio_shown(at.asked_ratio), (at.asked_ratio, at.neuron_ratio, at.pruning_ratio)
    yield Checkpoint(f"pruned-{shown}", None, PRUNED, None, None, *ratios, at.status, at.message), at.network, start
    for end in at.retrained:
        revision, rate = f"retrained-{shown}-rate-{number_shown(end.learning_rate)}", end.learning_rate
        yield Checkpoint(revision, None, RETRAINED, None, rate, *ratios, end.status, end.message), end.network, start
