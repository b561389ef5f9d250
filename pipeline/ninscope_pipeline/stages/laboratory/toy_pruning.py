"""Trained networks pruned at every ratio, and retrained at every learning rate, in one batch (stage `toy_pruning`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ninscope.errors import RequestError
from ninscope.threads import one_thread_each
from ninscope_pipeline.stages.laboratory.networks import as_array, of_array
from ninscope_pipeline.stages.laboratory.planning import (
    TOY_PRUNING,
    VERSIONS,
    LaboratoryStage,
    Pruning,
    prunings,
)
from ninscope_pipeline.stages.laboratory.toy_data import stored_toy_data
from ninscope_pipeline.stages.laboratory.toy_training import diverged, stored_training, train
from ninscope_pipeline.stages.stage import Job
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from ninscope.neurons.polysemanticity.perceptron import Perceptron
    from ninscope.neurons.polysemanticity.pruning import Pruned
    from ninscope_pipeline.plan import Request


@dataclass(frozen=True)
class Retrained:
    """A pruned network that was trained again. network: None where that diverged, of which status and message tell."""

    learning_rate: float
    network: "Perceptron | None" = None
    status: str = "ok"
    message: str = ""


@dataclass(frozen=True)
class PrunedAt:
    """What became of one pruning ratio that was asked for (asked_ratio, the least share of parameters that is to go).

    network: before retraining; None where there is none, and then status and message of it and of all in `retrained` say why.
    kept: int64, a hidden layer each, which of the trained network's neurons it has. neuron_ratio, pruning_ratio: the shares of
    hidden neurons and of parameters that are gone. retrained: one a learning rate.
    """

    asked_ratio: float
    retrained: tuple[Retrained, ...]
    network: "Perceptron | None" = None
    kept: tuple[np.ndarray, ...] = ()
    neuron_ratio: float | None = None
    pruning_ratio: float | None = None
    status: str = "ok"
    message: str = ""


class ToyPruningStage(LaboratoryStage[Pruning]):
    name, title, version = TOY_PRUNING, "toy prunings", VERSIONS[TOY_PRUNING]

    def jobs(self, request: "Request") -> list[Job[Pruning]]:
        return [
            Job(self.name, pruning.key, pruning.label, pruning, needs=(pruning.training.data.id, pruning.training.id))
            for pruning in prunings(request.dag)
        ]

    def make(self, store: ArtefactStore, job: Job[Pruning]) -> Artefact:
        pruning, trained = job.work, stored_training(store, job.work.training)
        if trained.diverged_at is not None:
            message = f"its training diverged at epoch {trained.diverged_at}, so it was not pruned"
            return _artefact([_absent(pruning, ratio, "nonfinite", message) for ratio in pruning.ratios])
        with one_thread_each():
            return _artefact(_pruned_and_retrained(store, pruning, trained.networks[-1]))


def _absent(pruning: Pruning, ratio: float, status: str, message: str) -> PrunedAt:
    """A ratio at which there is no network."""
    retrained = tuple(Retrained(rate, None, status, message) for rate in pruning.rates)
    return PrunedAt(ratio, retrained, status=status, message=message)


def _pruned_and_retrained(store: ArtefactStore, pruning: Pruning, baseline: "Perceptron") -> list[PrunedAt]:
    found: dict[float, Pruned] = {}
    refused: dict[float, str] = {}
    for ratio in pruning.ratios:
        pruned = _pruned(baseline, ratio)
        if isinstance(pruned, str):
            refused[ratio] = pruned
        else:
            found[ratio] = pruned
    starts = [(ratio, rate) for ratio in found for rate in pruning.rates]
    ends = train(
        stored_toy_data(store, pruning.training.data),
        pruning.training,
        [found[ratio].network for ratio, _ in starts],
        [rate for _, rate in starts],
        [f"retrained {ratio!r}" for ratio, _ in starts],
    )
    retrained: dict[float, list[Retrained]] = {ratio: [] for ratio in found}
    for (ratio, rate), end in zip(starts, ends, strict=True):
        network = end.network if end.diverged_at is None else None
        retrained[ratio].append(Retrained(rate, network, *diverged(end.diverged_at)))
    return [
        _absent(pruning, ratio, "refused", refused[ratio])
        if ratio in refused
        else _found(ratio, found[ratio], retrained[ratio])
        for ratio in pruning.ratios
    ]


def _pruned(baseline: "Perceptron", ratio: float) -> "Pruned | str":
    """The network without this share of its parameters, at least; why there is none where a layer would be empty."""
    from ninscope.neurons.polysemanticity.pruning import neuron_ratio_for, prune

    try:
        of_neurons = neuron_ratio_for(baseline, ratio)
    except RequestError as error:
        return str(error)
    return prune(baseline, of_neurons)


def _found(ratio: float, pruned: "Pruned", retrained: Sequence[Retrained]) -> PrunedAt:
    ratios = pruned.neuron_ratio, pruned.pruning_ratio
    return PrunedAt(ratio, tuple(retrained), pruned.network, pruned.kept, *ratios)


# --- artefacts -----------------------------------------------------------------------------------------------------------
def _artefact(ratios: Sequence[PrunedAt]) -> Artefact:
    """parameters: of all networks, ratio by ratio, the pruned one first. kept: of all ratios, layer by layer."""
    networks = [network for at in ratios for network in (at.network, *(end.network for end in at.retrained)) if network]
    kept = [neurons for at in ratios for neurons in at.kept]
    return Artefact(
        {
            "parameters": as_array(networks),
            "kept": np.concatenate(kept).astype(np.int64) if kept else np.zeros(0, np.int64),
        },
        {"ratios": [_described(at) for at in ratios]},
    )


def _described(at: PrunedAt) -> dict[str, Any]:
    return {
        "ratio": at.asked_ratio,
        "neuron_ratio": at.neuron_ratio,
        "pruning_ratio": at.pruning_ratio,
        "sizes": [] if at.network is None else list(at.network.sizes),
        "status": at.status,
        "message": at.message,
        "retrained": [
            {"learning_rate": end.learning_rate, "status": end.status, "message": end.message} for end in at.retrained
        ],
    }


def stored_pruning(store: ArtefactStore, pruning: Pruning) -> list[PrunedAt]:
    """What became of every ratio, in their order. Raises DamagedArtefact, StoreError."""
    stored = store.read(*pruning.id)
    described = stored.attributes["ratios"]
    there = [[entry["status"], *(end["status"] for end in entry["retrained"])].count("ok") for entry in described]
    sizes = [entry["sizes"] for entry, count in zip(described, there, strict=True) for _ in range(count)]
    networks = iter(of_array(stored.arrays["parameters"], sizes, pruning.training.experiment.linear))
    neurons = iter(_split(stored.arrays["kept"], [entry["sizes"][1:-1] for entry in described]))
    return [_of_described(entry, networks, next(neurons)) for entry in described]


def _of_described(entry: dict[str, Any], networks: "Iterator[Perceptron]", kept: tuple[np.ndarray, ...]) -> PrunedAt:
    network = next(networks) if entry["status"] == "ok" else None
    retrained = tuple(
        Retrained(
            end["learning_rate"], next(networks) if end["status"] == "ok" else None, end["status"], end["message"]
        )
        for end in entry["retrained"]
    )
    told = (entry[name] for name in ("neuron_ratio", "pruning_ratio", "status", "message"))
    return PrunedAt(entry["ratio"], retrained, network, kept, *told)


def _split(kept: np.ndarray, sizes: Sequence[Sequence[int]]) -> Iterator[tuple[np.ndarray, ...]]:
    start = 0
    for layers in sizes:
        ends = [start + sum(layers[: number + 1]) for number in range(len(layers))]
        yield tuple(kept[end - neurons : end] for end, neurons in zip(ends, layers, strict=True))
        start += sum(layers)


TOY_PRUNING_STAGE = ToyPruningStage()
