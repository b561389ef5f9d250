"""Neurons' places in the network beside what they do: the table `neuron_places`, and the single neurons that figures show.

Both are made from what two stages have stored: `neurons` (a measure a column) and `exact` (where in the network a neuron is). The
keys of these artefacts are part of the tables' key.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ninscope.neurons.observatory.measure import ALL
from ninscope.neurons.observatory.place_correlations import LEAST, PLACES, place_correlations
from ninscope_pipeline.request.analyses import EXACT as EXACT_METHOD
from ninscope_pipeline.stages.exact import EXACT
from ninscope_pipeline.stages.measurements import SUMMARY_AND_NODES, nodes_frame, stored_measurement
from ninscope_pipeline.stages.neurons.planning import NEURONS, NeuronsWork
from ninscope_pipeline.stages.neurons.results import NEURON, values_frame
from ninscope_pipeline.stages.stage import Job, Row
from ninscope_pipeline.storing.annotated import AnnotatedMatrix

if TYPE_CHECKING:
    from ninscope_pipeline.request.dagfile import Dag
    from ninscope_pipeline.results import Results
    from ninscope_pipeline.stages.neurons.section import NeuronsSection

NEURON_PLACES = "neuron_places"
COLUMNS = {
    "text": "string", "layer": "string", "place": "string", "measure": "string", "control": "string", "against": "string",
    "neurons": "Int64", "correlation": "float64", "low": "float64", "high": "float64", "status": "string",
    "message": "string",
}  # fmt: skip


def wanted(dag: "Dag", sections: "list[NeuronsSection]") -> bool:
    """Whether there are single neurons of both kinds."""
    return bool(dag.analysis.per_node) and any(section.neuron_values for section in sections)


def place_rows(results: "Results") -> Iterator[Row]:
    """One row a layer, place, measure, control and what it is compared with, of every checkpoint whose network has single
    neurons, in the order of jobs, layers (all of them first) and `PLACES`; of a job that did not come to its end one,
    without a measure, with the reason."""
    for job, outcome in results.jobs_of(NEURONS):
        nodes = _nodes_of(results, job) if job.work.section.neuron_values else None
        if nodes is None:
            continue
        located = job.work.located
        keys = {
            "suite": located.suite, "model": located.model, "revision": located.revision, "step": located.step,
            "text": job.work.examples,
        }  # fmt: skip
        if not outcome.ok:
            yield keys | {"layer": ALL, "status": outcome.status, "message": outcome.message}
            continue
        matrix = results.store.read(*job.id, only=(), with_annotated=True).annotated
        if matrix is not None:
            yield from (keys | row for row in correlation_rows(matrix, nodes))


def correlation_rows(matrix: AnnotatedMatrix, nodes: pd.DataFrame) -> Iterator[Row]:
    """The columns from `layer` on. matrix: single neurons by measures, as `neurons` stores them. nodes: of `nodes_frame`.

    Over all neurons a correlation may be that of layers, and may have another sign than within each: so each layer has rows of
    its own.
    """
    values = placed(values_frame(matrix), nodes)
    neurons = values[values["unit"] == NEURON]
    about = {
        name: dict(zip(("measure", "control", "against"), parts, strict=True))
        for name, *parts in zip(
            matrix.column_names, *(matrix.columns[key] for key in ("measure", "control", "against")), strict=True
        )
    }
    of_neurons = [name for name in about if neurons[name].notna().any() or not values[name].notna().any()]
    places = {column: place for place, column in PLACES.items()}
    by_layer = dict(iter(neurons.groupby("layer", sort=False)))
    for layer, some in {ALL: neurons, **by_layer}.items():
        for found in place_correlations(some, list(places), of_neurons).to_dict("records"):
            if layer != ALL and not found["neurons"]:
                continue  # a measure of other layers
            message = _why_not(found["neurons"], found["correlation"])
            yield {
                "layer": layer, "place": places[found["place"]], **about[found["measure"]],
                **{name: found[name] for name in ("neurons", "correlation", "low", "high")},
                "status": "unsupported" if message else "ok", "message": message,
            }  # fmt: skip


def single_neurons(results: "Results", suite: str, model: str, revision: str, text: str) -> pd.DataFrame | None:
    """Every neuron of a checkpoint measured on a text, with its place, as `neuron_values(..., nodes=True)` of a run has them from
    `layer` on; None where one of both is not there."""
    for job, outcome in results.jobs_of(NEURONS):
        located, work = job.work.located, job.work
        if located.id == (suite, model, revision) and work.examples == text and work.section.neuron_values:
            nodes = _nodes_of(results, job) if outcome.ok else None
            matrix = None if nodes is None else results.store.read(*job.id, only=(), with_annotated=True).annotated
            return None if nodes is None or matrix is None else placed(values_frame(matrix), nodes)
    return None


def _nodes_of(results: "Results", job: Job[NeuronsWork]) -> pd.DataFrame | None:
    """The single neurons of the network of a job's checkpoint, by [analysis] itself; None where these are not asked for, or there
    is no network."""
    if not results.request.dag.analysis.per_node:
        return None
    exact = results.request.job_named(job.work.located, EXACT_METHOD)
    if exact is None or not exact.key or not results.request.outcome(exact).ok:
        return None
    nodes = stored_measurement(results.store.read(EXACT.name, exact.key, only=SUMMARY_AND_NODES)).nodes_of
    return nodes_frame(nodes) if nodes else None


def placed(values: pd.DataFrame, nodes: pd.DataFrame) -> pd.DataFrame:
    """Single neurons with the columns of their nodes; NaN for what is no neuron, or has no outgoing edges."""
    of_nodes = nodes.rename(columns={"neuron": "index"}).assign(unit=NEURON)
    return values.merge(of_nodes.astype({"layer": "string", "unit": "string"}), "left", ["layer", "index", "unit"])


def _why_not(neurons: int, correlation: float) -> str:
    if np.isfinite(correlation):
        return ""
    if neurons < LEAST:
        return f"{neurons} neurons have both, and a correlation needs {LEAST}"
    return f"all {neurons} neurons are alike in the one or in the other"
