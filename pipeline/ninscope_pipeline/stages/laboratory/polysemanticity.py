"""What every network of the laboratory is measured to be: polysemanticity, structure, phi, loss (stage `polysemanticity`).

Its section asks for all of the laboratory. The tables of slopes and correlations are made from the table of measures.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ninscope.neurons.polysemanticity.correlations import CORRELATION_COLUMNS, polysemanticity_correlations
from ninscope.neurons.polysemanticity.slopes import SLOPE_COLUMNS, polysemanticity_slopes, verdicts_in_words
from ninscope.neurons.polysemanticity.table_names import (
    ALL_LAYERS,
    COUNTS,
    DEGREES,
    MEASURED,
    PRUNED,
    RETRAINED,
    TRAINING,
)
from ninscope.threads import one_thread_each
from ninscope.wording import joined_clauses
from ninscope_pipeline.stages.laboratory.checkpoints import Checkpoint, measured_networks
from ninscope_pipeline.stages.laboratory.planning import LaboratoryStage, Pruning, Training, prunings, trainings
from ninscope_pipeline.stages.laboratory.section import SECTION, section_of
from ninscope_pipeline.stages.laboratory.toy_data import stored_toy_data
from ninscope_pipeline.stages.stage import Job, Measures, ModelName, Row, Table
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ninscope.neurons.polysemanticity.measuring import LayerMeasures
    from ninscope.report.page.parts import PagePart, PageTables
    from ninscope_pipeline.figures import FigureTables
    from ninscope_pipeline.opened_run import Run
    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.request.dagfile import Dag
    from ninscope_pipeline.results import Results

SLOPES, CORRELATIONS = "polysemanticity_slopes", "polysemanticity_correlations"  # tables


class PolysemanticityStage(LaboratoryStage[Training | Pruning]):
    name, title, version = "polysemanticity", "polysemanticity", 2
    section = SECTION

    def own_models(self, dag: "Dag") -> Iterator[ModelName]:
        section = section_of(dag)
        if section is not None:
            yield from ((section.suite, training.model) for training in trainings(dag))

    def asked_of_tables(self, dag: "Dag") -> Mapping[str, object]:
        section = section_of(dag)
        return {} if section is None else {self.name: {"version": self.version, "suite": section.suite}}

    def jobs(self, request: "Request") -> Iterator[Job[Training | Pruning]]:
        for training in trainings(request.dag):
            yield self._job(training, TRAINING, training.data.id, training.id)
        for pruning in prunings(request.dag):
            yield self._job(pruning, PRUNED, pruning.training.data.id, pruning.training.id, pruning.id)

    def _job(self, work: Training | Pruning, what: str, *needs: tuple[str, str]) -> Job[Training | Pruning]:
        key = content_key(self.name, self.version, networks=work.key)
        return Job(self.name, key, f"{work.label} {what}", work, needs)

    def make(self, store: ArtefactStore, job: Job[Training | Pruning]) -> Artefact:
        from ninscope.neurons.polysemanticity.measuring import Probe

        training = job.work.training if isinstance(job.work, Pruning) else job.work
        data = stored_toy_data(store, training.data)
        with one_thread_each():
            probe = Probe(data)
            measured = [
                (checkpoint, [] if network is None else probe.measure(network, start))
                for checkpoint, network, start in measured_networks(store, job.work)
            ]
        if isinstance(job.work, Training):
            measured[0] = _with_note(*measured[0], data.message)
        return _artefact(measured)

    def figures(self, tables: "FigureTables") -> "Iterator[tuple[str, Figure]]":
        rows = tables.table(self.name)
        if rows.empty:
            return
        from ninscope.report.polysemanticity_figures import polysemanticity_figures

        yield from polysemanticity_figures(rows, tables.table(SLOPES), tables.table(CORRELATIONS))

    def page(self, tables: "PageTables") -> "Iterator[PagePart]":
        from ninscope.report.page.polysemanticity_part import polysemanticity_parts

        yield from polysemanticity_parts(tables)

    def problems(self, run: "Run") -> list[str]:
        """A line for every network that could not be made, of epochs that were not reached the first."""
        if self.name not in run.tables:  # a run by an earlier version
            return []
        rows = run.table(self.name)
        failed = rows[rows["status"] != "ok"].drop_duplicates(["suite", "model", "phase", "status", "message"])
        return [f"{row.suite}/{row.model} {row.revision}: {row.status}: {row.message}" for row in failed.itertuples()]

    def summary(self, run: "Run") -> list[str]:
        """The verdicts on P after pruning, and on P at the samples, a line a learning rate."""
        if SLOPES not in run.tables:
            return []
        slopes = run.table(SLOPES)
        return [
            f"slope of {DEGREES[degree]} on pruning, {line[0].lower()}{line[1:]}"
            for degree in ("P", "P_samples")
            for line in verdicts_in_words(slopes, degree)
        ]


# --- artefacts and rows --------------------------------------------------------------------------------------------------
def _with_note(
    checkpoint: Checkpoint, layers: "list[LayerMeasures]", note: str
) -> "tuple[Checkpoint, list[LayerMeasures]]":
    """What is to be known of the toy data stands once, in the row of all layers (the first) before training."""
    whole = [replace(layer, message=joined_clauses(layer.message, note)) for layer in layers[:1]]
    return checkpoint, [*whole, *layers[1:]]


def _artefact(measured: "Sequence[tuple[Checkpoint, Sequence[LayerMeasures]]]") -> Artefact:
    """values: float64 [rows, columns], NaN where there is none. rows: (number of the checkpoint, layer, message)."""
    rows, values = [], []
    for number, (_, layers) in enumerate(measured):
        for layer in layers:
            rows.append([number, layer.layer, layer.message])
            values.append([layer.values.get(name, math.nan) for name in MEASURED])
    return Artefact(
        {"values": np.array(values, np.float64).reshape(len(rows), len(MEASURED))},
        {
            "columns": list(MEASURED),
            "checkpoints": [vars(checkpoint) for checkpoint, _ in measured],
            "rows": rows,
        },
    )


def _stored_rows(stored: Artefact) -> Iterator[Row]:
    """One row a layer of every network; of one that could not be made one row."""
    about = stored.attributes
    by_checkpoint: dict[int, list[tuple[str, str, list[float]]]] = {}
    for (number, layer, message), values in zip(about["rows"], stored.arrays["values"].tolist(), strict=True):
        by_checkpoint.setdefault(number, []).append((layer, message, values))
    for number, checkpoint in enumerate(about["checkpoints"]):
        if number not in by_checkpoint:
            yield checkpoint | {"layer": ALL_LAYERS}
        for layer, message, values in by_checkpoint.get(number, ()):
            yield checkpoint | {"layer": layer, "message": message} | _numbers(about["columns"], values)


def _numbers(columns: Sequence[str], values: Sequence[float]) -> dict[str, Any]:
    known = {name: value for name, value in zip(columns, values, strict=True) if not math.isnan(value)}
    return {name: int(value) if name in COUNTS else value for name, value in known.items()}


def _rows(results: "Results") -> Iterator[Row]:
    section = section_of(results.request.dag)
    if section is None:
        return
    for job, outcome in results.jobs_of(PolysemanticityStage.name):
        training = job.work.training if isinstance(job.work, Pruning) else job.work
        keys = {
            "suite": section.suite, "model": training.model, "experiment": training.experiment.name,
            "dropout": training.dropout, "seed": training.data.seed,
        }  # fmt: skip
        if outcome.ok:
            yield from (keys | row for row in _stored_rows(results.store.read(*job.id)))
        else:
            phase = RETRAINED if isinstance(job.work, Pruning) else TRAINING
            yield (
                keys
                | {"revision": phase, "phase": phase, "layer": ALL_LAYERS}
                | {"status": outcome.status, "message": outcome.message}
            )


def _from_measures(make: "Callable[[pd.DataFrame], pd.DataFrame]") -> "Callable[[Results], pd.DataFrame]":
    """Rows of a table that is made from the table of measures: of no single model, so that it has no name of one."""

    def rows(results: "Results") -> "pd.DataFrame":
        measured = results.table(PolysemanticityStage.name)
        return make(measured).assign(model=None, revision=None, step=None) if len(measured) else measured

    return rows


PolysemanticityStage.tables = (
    Table(
        "polysemanticity",
        {
            "experiment": "string", "dropout": "float64", "seed": "Int64", "phase": "string", "epoch": "Int64",
            "learning_rate": "float64", "asked_ratio": "float64", "neuron_ratio": "float64", "pruning_ratio": "float64",
            "layer": "string", **{name: "Int64" if name in COUNTS else "float64" for name in MEASURED},
            "status": "string", "message": "string",
        },
        _rows,
        (Measures({"P": "P", "D": "D", "neuron_entropy": "entropy"}, {"layer": ALL_LAYERS, "phase": TRAINING}),),
    ),
    Table(SLOPES, SLOPE_COLUMNS, _from_measures(polysemanticity_slopes), from_others=True),
    Table(CORRELATIONS, CORRELATION_COLUMNS, _from_measures(polysemanticity_correlations), from_others=True),
)  # fmt: skip
POLYSEMANTICITY = PolysemanticityStage()
