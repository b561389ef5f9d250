"""Networks trained on toy data, with the weights of every epoch (stage `toy_training`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ninscope.threads import one_thread_each
from ninscope_pipeline.stages.laboratory.networks import as_array, of_array
from ninscope_pipeline.stages.laboratory.planning import (
    TOY_TRAINING,
    VERSIONS,
    LaboratoryStage,
    Training,
    trainings,
)
from ninscope_pipeline.stages.laboratory.toy_data import stored_toy_data
from ninscope_pipeline.stages.stage import Job
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from ninscope.neurons.polysemanticity.perceptron import Perceptron
    from ninscope.neurons.polysemanticity.toy_data import ToyData
    from ninscope.neurons.polysemanticity.training import Trained
    from ninscope_pipeline.plan import Request


class ToyTrainingStage(LaboratoryStage[Training]):
    name, title, version = TOY_TRAINING, "toy trainings", VERSIONS[TOY_TRAINING]

    def jobs(self, request: "Request") -> list[Job[Training]]:
        return [
            Job(self.name, training.key, training.label, training, needs=(training.data.id,))
            for training in trainings(request.dag)
        ]

    def make(self, store: ArtefactStore, job: Job[Training]) -> Artefact:
        with one_thread_each():
            return _trained(stored_toy_data(store, job.work.data), job.work)


def _trained(data: "ToyData", training: Training) -> Artefact:
    """The network before training and after every epoch, as far as all of it is finite."""
    from ninscope.neurons.polysemanticity.keyed_randomness import generator
    from ninscope.neurons.polysemanticity.perceptron import initial_perceptron

    experiment = training.experiment
    # Of the name and the seed alone, so that it begins alike with dropout and without.
    keyed = generator("observed model", experiment.name, training.data.seed)
    start = initial_perceptron(experiment.observed, experiment.linear, keyed)
    reached: list[Perceptron] = []
    (trained,) = train(data, training, [start], [experiment.learning_rate], ["training"], reached.append)
    parameters = as_array(reached).reshape(len(reached), start.parameters)
    return Artefact({"parameters": parameters}, {"diverged_at": trained.diverged_at})


def train(
    data: "ToyData",
    training: Training,
    networks: "Sequence[Perceptron]",
    rates: Sequence[float],
    names: Sequence[str],
    after_epoch: "Callable[[Perceptron], None] | None" = None,
) -> "list[Trained]":
    """Train networks on toy data together, as the experiment says, each at its learning rate.

    names: what tells their orders of examples apart, beside experiment and seed. after_epoch: called with the first network,
    before training and after every epoch, as long as all of it is finite.
    """
    from ninscope.neurons.polysemanticity.training import TrainingRun, train_together

    experiment = training.experiment
    runs = [
        TrainingRun(rate, training.dropout, f"{experiment.name} {name}", training.data.seed)
        for rate, name in zip(rates, names, strict=True)
    ]

    def called(number: int, epoch: int, network: "Perceptron") -> None:
        if after_epoch is not None and number == 0:
            after_epoch(network)

    return train_together(
        networks,
        runs,
        data.inputs[data.train],
        data.outputs[data.train],
        data.inputs[data.test],
        data.outputs[data.test],
        epochs=experiment.epochs,
        batch_size=experiment.batch_size,
        after_epoch=called,
    )


def diverged(epoch: int | None) -> tuple[str, str]:
    """(status, message) of a network whose training came to an end, or was no longer finite at an epoch."""
    return ("ok", "") if epoch is None else ("nonfinite", f"the loss or a weight is not finite from epoch {epoch} on")


@dataclass(frozen=True)
class StoredTraining:
    """networks: before training and after every epoch, as far as all is finite. diverged_at: the first epoch that is not."""

    networks: "tuple[Perceptron, ...]"
    diverged_at: int | None


def stored_training(store: ArtefactStore, training: Training) -> StoredTraining:
    """Raises DamagedArtefact, StoreError."""
    stored = store.read(*training.id)
    parameters = stored.arrays["parameters"]
    sizes = [training.experiment.observed] * len(parameters)
    networks = of_array(np.ascontiguousarray(parameters).ravel(), sizes, training.experiment.linear)
    return StoredTraining(tuple(networks), stored.attributes["diverged_at"])


TOY_TRAINING_STAGE = ToyTrainingStage()
