"""What measures say of the neurons of the laboratory's networks, beside the features that each represents (stage `toy_neurons`).

On request, by `neuron_measures` of [polysemanticity]; a stage of its own, so that the results of the others stay.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ninscope.neurons.observatory.registry import chosen
from ninscope.neurons.polysemanticity.neuron_correlations import (
    NEURON_CORRELATION_COLUMNS,
    NUMBERS,
    neuron_rows,
    polysemanticity_neuron_correlations,
)
from ninscope.neurons.polysemanticity.table_names import ALL_LAYERS, PRUNED, TRAINING
from ninscope.threads import one_thread_each
from ninscope_pipeline.stages.laboratory.checkpoints import Checkpoint, measured_networks
from ninscope_pipeline.stages.laboratory.planning import (
    LaboratoryStage,
    Pruning,
    ToySeed,
    Training,
    prunings,
    trainings,
)
from ninscope_pipeline.stages.laboratory.section import section_of
from ninscope_pipeline.stages.laboratory.toy_data import stored_toy_data
from ninscope_pipeline.stages.stage import Job, JobId, Row, Table
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ninscope.neurons.polysemanticity.neuron_correlations import LayerNeurons
    from ninscope.neurons.polysemanticity.neuron_values import Unmeasured
    from ninscope.neurons.polysemanticity.perceptron import Perceptron
    from ninscope_pipeline.figures import FigureTables
    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.request.dagfile import Dag
    from ninscope_pipeline.results import Results

NEURONS, NEURON_CORRELATIONS = "polysemanticity_neurons", "polysemanticity_neuron_correlations"  # tables
_WHOLE = tuple(name for name in NUMBERS if name.startswith("neurons"))  # whole numbers


@dataclass(frozen=True)
class ToyNeurons:
    """Networks whose neurons are measured. other: those of another seed, for what compares with them. every: so many epochs."""

    networks: Training | Pruning
    measures: tuple[str, ...]
    every: int
    other: Training | Pruning | None = None

    @property
    def training(self) -> Training:
        return _training_of(self.networks)

    @property
    def key(self) -> str:
        return content_key(
            ToyNeuronsStage.name,
            ToyNeuronsStage.version,
            networks=self.networks.key,
            measures={measure.name: measure.version for measure in chosen(self.measures)},
            every=self.every if isinstance(self.networks, Training) else 1,
            other="" if self.other is None else self.other.key,
        )

    @property
    def needs(self) -> tuple[JobId, ...]:
        networks = [self.networks] if self.other is None else [self.networks, self.other]
        ids = [self.training.data.id]
        for one in networks:
            ids += [_training_of(one).id, *([one.id] if isinstance(one, Pruning) else [])]
        return tuple(ids)


def _training_of(networks: Training | Pruning) -> Training:
    return networks.training if isinstance(networks, Pruning) else networks


class ToyNeuronsStage(LaboratoryStage[ToyNeurons]):
    name, title, version = "toy_neurons", "neurons of toy networks", 1

    def jobs(self, request: "Request") -> Iterator[Job[ToyNeurons]]:
        for work in _asked(request.dag):
            what = PRUNED if isinstance(work.networks, Pruning) else TRAINING
            yield Job(self.name, work.key, f"{work.networks.label} {what}, neurons", work, work.needs)

    def make(self, store: ArtefactStore, job: Job[ToyNeurons]) -> Artefact:
        from ninscope.neurons.polysemanticity.measuring import Probe

        work = job.work
        data = stored_toy_data(store, work.training.data)
        with one_thread_each():
            probe, others = Probe(data), _others(store, work)
            return _artefact(
                [
                    (checkpoint, *_measured(probe, work, checkpoint, network, others))
                    for checkpoint, network, _ in measured_networks(store, work.networks)
                    if _is_kept(checkpoint, work)
                ]
            )

    def figures(self, tables: "FigureTables") -> "Iterator[tuple[str, Figure]]":
        rows = tables.table(NEURON_CORRELATIONS)
        if rows.empty:
            return
        from ninscope.report.polysemanticity_neurons_figure import neurons_figures

        yield from neurons_figures(rows)


# --- what is asked for ---------------------------------------------------------------------------------------------------
def _asked(dag: "Dag") -> Iterator[ToyNeurons]:
    section = section_of(dag)
    if section is None or not section.measures:
        return
    every: list[Training | Pruning] = [*trainings(dag), *prunings(dag)]
    for networks in every:
        other = _of_another_seed(networks, section.seeds) if "universal" in section.measures else None
        yield ToyNeurons(networks, section.measures, section.neuron_epochs, other)


def _of_another_seed(networks: Training | Pruning, seeds: Sequence[int]) -> Training | Pruning:
    """The same of the first seed that is listed, or of the second for that: so a seed that is added changes no other's key."""
    training = _training_of(networks)
    seed = seeds[0] if training.data.seed != seeds[0] else seeds[1]
    other = Training(ToySeed(training.experiment, seed), training.dropout)
    return Pruning(other, networks.ratios, networks.rates) if isinstance(networks, Pruning) else other


def _is_kept(checkpoint: Checkpoint, work: ToyNeurons) -> bool:
    epoch, last = checkpoint.epoch, work.training.experiment.epochs
    return epoch is None or epoch % work.every == 0 or epoch == last


def _others(store: ArtefactStore, work: ToyNeurons) -> "dict[str, Perceptron]":
    """Networks of the other seed by their names; those that there are."""
    if work.other is None:
        return {}
    found = measured_networks(store, work.other)
    return {checkpoint.revision: network for checkpoint, network, _ in found if network is not None}


def _measured(
    probe: Any,
    work: ToyNeurons,
    checkpoint: Checkpoint,
    network: "Perceptron | None",
    others: "Mapping[str, Perceptron]",
) -> "tuple[list[LayerNeurons], list[Unmeasured]]":
    from ninscope.neurons.polysemanticity.neuron_values import neurons_of_network

    if network is None:
        return [], []
    seed = work.training.data.seed
    return neurons_of_network(probe, network, work.measures, others.get(checkpoint.revision), seed)


# --- artefacts and rows --------------------------------------------------------------------------------------------------
def _artefact(
    measured: "Sequence[tuple[Checkpoint, Sequence[LayerNeurons], Sequence[Unmeasured]]]",
) -> Artefact:
    """numbers: float64 [rows, NUMBERS]. P, P_samples: float64 [neurons], of every neuron of every network, layer by layer. values:
    float64 [measures of neurons, neurons]. rows: (number of the checkpoint, layer, measure, status, message)."""
    rows, numbers = [], []
    whole = [layers[0] for _, layers, _ in measured if layers]
    for number, (_, layers, unmeasured) in enumerate(measured):
        for layer in layers:
            for measure, found, message in neuron_rows(layer):
                rows.append([number, layer.layer, measure, "ok", message])
                numbers.append([found.get(name, math.nan) for name in NUMBERS])
        for one in unmeasured:
            rows.append([number, ALL_LAYERS, one.measure, one.status, one.message])
            numbers.append([math.nan] * len(NUMBERS))
    names = sorted({name for one in whole for name in one.values})
    empty = np.zeros(0, np.float64)
    return Artefact(
        {
            "numbers": np.array(numbers, np.float64).reshape(len(rows), len(NUMBERS)),
            "P": np.concatenate([empty, *(one.P for one in whole)]),
            "P_samples": np.concatenate([empty, *(one.P_samples for one in whole)]),
            "values": np.stack([_of_all(name, whole) for name in names]) if names else np.zeros((0, 0), np.float64),
        },
        {
            "columns": list(NUMBERS),
            "measures": names,
            "checkpoints": [vars(checkpoint) for checkpoint, _, _ in measured],
            "neurons": [[len(layer.P) for layer in layers[1:]] for _, layers, _ in measured],
            "rows": rows,
        },
    )


def _of_all(name: str, whole: "Sequence[LayerNeurons]") -> np.ndarray:
    return np.concatenate([one.values.get(name, np.full(len(one.P), np.nan)) for one in whole])


def _stored_rows(stored: Artefact) -> Iterator[Row]:
    """One row a layer and measure of every network; of one that could not be made one row."""
    about = stored.attributes
    checkpoints, seen = about["checkpoints"], set()
    for (number, layer, measure, status, message), values in zip(
        about["rows"], stored.arrays["numbers"].tolist(), strict=True
    ):
        seen.add(number)
        told = {"layer": layer, "measure": measure, "status": status, "message": message}
        yield checkpoints[number] | told | _numbers(about["columns"], values)
    for number, checkpoint in enumerate(checkpoints):
        if number not in seen:
            yield checkpoint | {"layer": ALL_LAYERS}


def _numbers(columns: Sequence[str], values: Sequence[float]) -> dict[str, Any]:
    known = {name: value for name, value in zip(columns, values, strict=True) if not math.isnan(value)}
    return {name: int(value) if name in _WHOLE else value for name, value in known.items()}


def _rows(results: "Results") -> Iterator[Row]:
    section = section_of(results.request.dag)
    if section is None:
        return
    for job, outcome in results.jobs_of(ToyNeuronsStage.name):
        training = job.work.training
        keys = {
            "suite": section.suite, "model": training.model, "experiment": training.experiment.name,
            "dropout": training.dropout, "seed": training.data.seed,
        }  # fmt: skip
        if outcome.ok:
            yield from (keys | row for row in _stored_rows(results.store.read(*job.id)))
        else:
            phase = PRUNED if isinstance(job.work.networks, Pruning) else TRAINING
            told = {"revision": phase, "phase": phase, "layer": ALL_LAYERS}
            yield keys | told | {"status": outcome.status, "message": outcome.message}


def _correlations(results: "Results") -> "pd.DataFrame":
    measured = results.table(NEURONS)
    return (
        polysemanticity_neuron_correlations(measured).assign(model=None, revision=None, step=None)
        if len(measured)
        else measured
    )


ToyNeuronsStage.tables = (
    Table(
        NEURONS,
        {
            "experiment": "string", "dropout": "float64", "seed": "Int64", "phase": "string", "epoch": "Int64",
            "learning_rate": "float64", "asked_ratio": "float64", "neuron_ratio": "float64", "pruning_ratio": "float64",
            "layer": "string", "measure": "string", **{name: "Int64" if name in _WHOLE else "float64" for name in NUMBERS},
            "status": "string", "message": "string",
        },
        _rows,
    ),
    Table(NEURON_CORRELATIONS, NEURON_CORRELATION_COLUMNS, _correlations, from_others=True),
)  # fmt: skip
TOY_NEURONS_STAGE = ToyNeuronsStage()
