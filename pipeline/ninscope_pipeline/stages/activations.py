"""Activations: the monosemantic scale over a checkpoint's layers, while it runs on local examples (stage `activations`)."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from ninscope.neurons.finetuning.recipe import Looking, Recipe
from ninscope_pipeline.stages.finetune import PHI, PHI_COLUMNS, failed_runs, fetched_base, phi_values, run_rows
from ninscope_pipeline.stages.model_runs.doing import artefact_of_run, check_run_unchanged
from ninscope_pipeline.stages.model_runs.planning import (
    ModelRun,
    check_installed,
    chosen_checkpoints,
    model_job,
    refuse_two_meanings,
)
from ninscope_pipeline.stages.model_runs.sections import Layers, ModelRunSection, check_tasks_differ, with_paths
from ninscope_pipeline.stages.stage import Fetch, Job, Measures, Row, Section, Stage, Table
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ninscope.neurons.phi import PhiSummary
    from ninscope.neurons.tasks.task import Base, Task
    from ninscope.report.page.parts import PagePart, PageTables
    from ninscope_pipeline.figures import FigureTables
    from ninscope_pipeline.opened_run import Run
    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.request.dagfile import Dag
    from ninscope_pipeline.results import Results


class ActivationsSection(ModelRunSection):
    """One of [[activations]]: the monosemantic scale over layers, of every checkpoint of a model, or of all models.

    Its statistics are from at most `history` batches of the task's training examples, its distribution is over the held-out
    ones. model: None for every model of the file.
    """

    layers: Layers = "all"
    history: int = Field(default=8, ge=1, le=1_000_000)
    batch_size: int = Field(default=Recipe.batch_size, ge=1)

    @property
    def looking(self) -> Looking:
        layers = self.layers if isinstance(self.layers, str) else tuple(self.layers)
        return Looking(layers, self.neurons, self.epsilon, self.history, self.batch_size, self.threads, self.device)


class ActivationsStage(Stage[ModelRun[Looking]]):
    name, title, version = "activations", "activations", 2
    section = Section("activations", list[ActivationsSection], [], with_paths)
    runs_models = True

    def check(self, dag: "Dag") -> None:
        check_tasks_differ(self.name, dag.section(self))

    def jobs(self, request: "Request") -> list[Job[ModelRun[Looking]]]:
        sections: list[ActivationsSection] = request.dag.section(self)
        if not sections:
            return []
        check_installed(self.name)
        jobs = [
            model_job(self.name, self.version, ModelRun(located, section.settings, section.looking, made_from))
            for section in sections
            for located, made_from in chosen_checkpoints(self.name, section, request)
        ]
        return refuse_two_meanings(self.name, jobs)

    def make(self, store: ArtefactStore, job: Job[ModelRun[Looking]]) -> Artefact:
        return artefact_of_run(store, job.work, lambda task, base: _looked_at(job.work, task, base))

    def check_unchanged(self, store: ArtefactStore, job: Job[ModelRun[Looking]]) -> None:
        check_run_unchanged(job.work)

    def fetch(self, job: Job[ModelRun[Looking]]) -> Fetch | None:
        return fetched_base(job.work)

    def figures(self, tables: "FigureTables") -> "Iterator[tuple[str, Figure]]":
        from ninscope.report.activations_figure import activations_figure

        for task, rows in tables.table("activations").groupby("task", sort=False):
            yield f"{task}-activations.png", activations_figure(rows, tables.table("checkpoints"), str(task))

    def page(self, tables: "PageTables") -> "Iterator[PagePart]":
        from ninscope.report.page.activations_part import activations_parts

        yield from activations_parts(tables)

    def problems(self, run: "Run") -> list[str]:
        return failed_runs(run, "activations", lambda row: "")


def _looked_at(run: ModelRun[Looking], task: "Task", base: "Base") -> Artefact:
    from ninscope.neurons.finetuning.looking import look_at

    return artefact_of_layers(look_at(task, base, run.how))


def artefact_of_layers(summaries: "Mapping[str, PhiSummary]") -> Artefact:
    """One row a layer, and one of all layers together, as `look_at` names it."""
    return Artefact(
        {
            "phi": np.array([phi_values(summary) for summary in summaries.values()], np.float64),
            "phi_octaves": np.array([summary.counts for summary in summaries.values()], np.int64),
        },
        {"layers": list(summaries), "phi": list(PHI)},
    )


def _rows(results: "Results") -> Iterator[Row]:
    """One row a layer; of a look that did not come to its end one row, with the reason."""
    for job, stored, keys in run_rows(results, ActivationsStage.name):
        keys["neurons"] = job.work.how.neurons
        if stored is None:
            yield keys
            continue
        for layer, values in zip(stored.attributes["layers"], stored.arrays["phi"].tolist(), strict=True):
            phi = dict(zip(stored.attributes["phi"], values, strict=True))
            count = int(phi.pop("values"))
            yield keys | {"layer": layer, "values": count} | {f"phi_{name}": value for name, value in phi.items()}


ActivationsStage.tables = (
    Table(
        "activations",
        {
            "task": "string", "layer": "string", "neurons": "string", "values": "Int64", **PHI_COLUMNS, "status": "string",
            "message": "string",
        },
        _rows,
        (Measures({name: name for name in ("phi_mean", "phi_p99")}, {"layer": "all"}, by=("task",)),),
    ),
)  # fmt: skip
ACTIVATIONS = ActivationsStage()
