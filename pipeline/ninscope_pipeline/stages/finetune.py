"""Fine-tunes: a checkpoint is trained on a task, with MEmeL or without, and its weights analysed (stage `finetune`).

What an interrupted fine-tune has reached lies in the run's folder `finetunes/<key>`, until its artefact is there.
"""

import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from ninscope.errors import CheckpointError, RequestError
from ninscope.measurement import Measurement
from ninscope.multifractal.emergence import emergence_of, unlike_counts
from ninscope.neurons.finetuning.recipe import METHODS, NONE, PRECISIONS, Inhibition, Recipe
from ninscope.neurons.inhibition import LATE_START, SELECT
from ninscope_pipeline.execution.cancelled import EverySecond, stop_if_cancelled
from ninscope_pipeline.request.analyses import DEFAULT, EXACT
from ninscope_pipeline.request.choices import one_of
from ninscope_pipeline.request.models import Name
from ninscope_pipeline.stages.model_runs.doing import artefact_of_run, check_run_unchanged, clear_bases
from ninscope_pipeline.stages.model_runs.planning import (
    ChangedInputs,
    ModelRun,
    check_installed,
    chosen_checkpoints,
    model_job,
    refuse_two_meanings,
)
from ninscope_pipeline.stages.model_runs.sections import (
    ModelRunRevisions,
    ModelRunSection,
    check_tasks_differ,
    with_paths,
)
from ninscope_pipeline.stages.stage import Fetch, Job, Row, Section, Stage, Table
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from ninscope.neurons.finetuning.saved import SavedState
    from ninscope.neurons.finetuning.training import Evaluated
    from ninscope.neurons.phi import PhiSummary
    from ninscope.neurons.tasks.task import Base, Task
    from ninscope.report.page.parts import PagePart, PageTables
    from ninscope_pipeline.figures import FigureTables
    from ninscope_pipeline.opened_run import Run
    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.request.dagfile import Dag
    from ninscope_pipeline.results import CheckpointResult, Results

PHI = ("values", "mean", "p50", "p90", "p99", "p999", "largest", "largest_mean")
PHI_COLUMNS = {f"phi_{name}": "float64" for name in PHI[1:]}  # all but the number of values


class FineTuneSection(ModelRunSection):
    """One of [[finetune]]: every method with every learning rate and seed, from every revision of a model.

    revisions: which of those that [[models]] asks for: "last", "all", or names. The other keys: as `Recipe` and `Inhibition`.
    """

    model: Name
    revisions: ModelRunRevisions = "last"
    methods: list[Annotated[str, one_of(METHODS)]] = Field(default=list(METHODS), min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2], min_length=1)
    learning_rates: list[float] = Field(default=[Recipe.learning_rate], min_length=1)
    steps: int | None = None
    epochs: int = Recipe.epochs
    warmup: float = Recipe.warmup
    weight_decay: float = Recipe.weight_decay
    clip: float = Recipe.clip
    evaluate_every: int | None = None
    select: str | dict[str, float | int] = SELECT
    late_start: int = Field(default=LATE_START, ge=0)
    forget: int | None = Field(default=None, ge=1)
    precision: Annotated[str, one_of(PRECISIONS)] = Recipe.precision

    @model_validator(mode="after")
    def _makes_recipes(self) -> "FineTuneSection":
        for name in ("methods", "seeds", "learning_rates"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: a value is listed twice; list each one once")
        if self.steps is not None and "epochs" in self.model_fields_set:
            raise ValueError("give steps or epochs, not both")
        try:
            list(self.recipes())
        except RequestError as error:
            raise ValueError(str(error)) from None
        return self

    def recipes(self) -> Iterator[Recipe]:
        """Raises RequestError."""
        layers = self.layers if isinstance(self.layers, str) else tuple(self.layers)
        inhibition = Inhibition(layers, self.select, self.neurons, self.late_start, self.forget, self.epsilon)
        # Without MEmeL only where phi is looked at matters: so that fine-tunes of several sections are one.
        looked_at = Inhibition(layers, neurons=self.neurons, epsilon=self.epsilon)
        shared = {
            name: getattr(self, name)
            for name in (
                "steps", "epochs", "batch_size", "warmup", "weight_decay", "clip", "evaluate_every", "threads", "device",
                "precision",
            )
        }  # fmt: skip
        for method, rate, seed in itertools.product(self.methods, self.learning_rates, self.seeds):
            where = looked_at if method == NONE else inhibition
            yield Recipe(method, seed, rate, inhibition=where, **shared)


class FineTuneStage(Stage[ModelRun[Recipe]]):
    name, title, version = "finetune", "fine-tunes", 2
    section = Section("finetune", list[FineTuneSection], [], with_paths)
    runs_models = True

    def check(self, dag: "Dag") -> None:
        sections = dag.section(self)
        if sections and EXACT not in dag.analysis.methods():
            raise ValueError("[[finetune]] needs an exact analysis; add exact = true to [analysis]")
        check_tasks_differ(self.name, sections)

    def jobs(self, request: "Request") -> list[Job[ModelRun[Recipe]]]:
        sections: list[FineTuneSection] = request.dag.section(self)
        if not sections:
            return []
        check_installed(self.name)
        exact = next(
            analysis for analysis in request.analyses if (analysis.variant, analysis.method) == (DEFAULT, EXACT)
        )
        parameters = replace(exact.parameters, per_node=False, parts=())  # no table tells them of a fine-tuned model
        runs = [
            ModelRun(located, section.settings, recipe, made_from, parameters)
            for section in sections
            for located, made_from in chosen_checkpoints(self.name, section, request)
            for recipe in section.recipes()
        ]
        jobs = refuse_two_meanings(self.name, [model_job(self.name, self.version, run) for run in runs])
        _refuse_unlike(jobs)
        return jobs

    def make(self, store: ArtefactStore, job: Job[ModelRun[Recipe]]) -> Artefact:
        """Fine-tune, going on from where an interrupted one has got to."""
        from ninscope.neurons.finetuning.saved import SavedState

        class Saved(SavedState):
            def save(self, step: int, tensors: "Mapping[str, Tensor]", facts: Mapping) -> None:
                with store.folder.writing():
                    super().save(step, tensors, facts)

        saved = Saved(store.folder.finetunes / job.key)
        try:
            return artefact_of_run(store, job.work, lambda task, base: _fine_tuned(job.work, saved, task, base))
        except ChangedInputs:  # what it has reached may come from other data
            saved.clear()
            raise
        except CheckpointError as error:
            if error.status == "nonfinite":
                saved.clear()
            raise

    def check_unchanged(self, store: ArtefactStore, job: Job[ModelRun[Recipe]]) -> None:
        try:
            check_run_unchanged(job.work)
        except ChangedInputs:
            self._clear_state(store, job.key)
            raise

    def made(self, store: ArtefactStore, job: Job[ModelRun[Recipe]]) -> None:
        self._clear_state(store, job.key)

    def fetch(self, job: Job[ModelRun[Recipe]]) -> Fetch | None:
        return fetched_base(job.work)

    def figures(self, tables: "FigureTables") -> "Iterator[tuple[str, Figure]]":
        from ninscope.report.finetune_figures import finetunes_figure

        for model in tables.models:
            for task, rows in model.table("finetunes").groupby("task", sort=False):
                # Two dashes: model "a" with task "b-c" is not model "a-b" with task "c".
                yield f"{model.stem}--{task}-finetunes.png", finetunes_figure(rows, f"{model.name}, {task}")

    def page(self, tables: "PageTables") -> "Iterator[PagePart]":
        from ninscope.report.page.finetunes_part import finetunes_parts

        yield from finetunes_parts(tables)

    def problems(self, run: "Run") -> list[str]:
        return failed_runs(run, "finetunes", lambda row: f" {row.method} seed {row.seed} rate {row.learning_rate:g}")

    def clear(self, store: ArtefactStore, jobs: Sequence[Job[ModelRun[Recipe]]], alone: bool) -> None:
        """States that nobody goes on from: of fine-tunes that have come to their end, whose worker died just after, and, where no
        other run is at work in this folder, of those that are not asked for any more. Where a job has no key, it is not known
        whose state may be meant, and all stay. Bases that were kept for several fine-tunes go too."""
        keys = {job.key for job in jobs}
        folder = store.folder.finetunes
        for state in folder.iterdir() if folder.is_dir() else ():
            unwanted = alone and "" not in keys and state.name not in keys
            if store.has(self.name, state.name) or unwanted:
                shutil.rmtree(state, ignore_errors=True)
        if alone:
            clear_bases(store.folder)

    @staticmethod
    def _clear_state(store: ArtefactStore, key: str) -> None:
        from ninscope.neurons.finetuning.saved import SavedState

        SavedState(store.folder.finetunes / key).clear()


def _fine_tuned(run: ModelRun[Recipe], saved: "SavedState", task: "Task", base: "Base") -> Artefact:
    from ninscope.neurons.finetuning.bases import analyse_with
    from ninscope.neurons.finetuning.training import fine_tune

    if run.parameters is None:
        raise ValueError(f"{run.label}: nothing says how its weights are analysed")
    stepped = EverySecond(stop_if_cancelled)
    return artefact_of_evaluations(fine_tune(task, base, run.how, analyse_with(run.parameters), saved, stepped))


def fetched_base(run: ModelRun) -> Fetch | None:
    """A base is fetched once for all that starts from it."""
    located = run.located
    return Fetch(located.bytes or 0, shared_as=located.content_sha256) if located.kind == "hub" else None


def failed_runs(run: "Run", table: str, how: Callable[[Any], str]) -> list[str]:
    """A line for each model run that did not come to its end, unless its checkpoint is at fault. how: tells runs apart."""
    if table not in run.tables:  # a run by an earlier version
        return []
    rows = run.table(table)
    failed = rows[rows["status"] != "ok"]
    if failed.empty:
        return []
    checkpoints = run.table("checkpoints")
    bad = checkpoints[~checkpoints["status"].isin(["ok", "duplicate"])]
    known = set(bad[["suite", "model", "revision"]].itertuples(index=False, name=None))
    return [
        f"{row.suite}/{row.model} {row.revision} {row.task}{how(row)}: {row.status}: {row.message}"
        for row in failed.itertuples()
        if (row.suite, row.model, row.revision) not in known
    ]


def _refuse_unlike(jobs: Sequence[Job[ModelRun[Recipe]]]) -> None:
    """Raises RequestError where fine-tunes of one checkpoint and task differ in more than method, seed and rate.

    A mean over seeds, and a test between methods, take for granted that they do not. How MEmeL selects has no part in a fine-tune
    without it.
    """
    compared: dict[tuple, tuple[str, object]] = {}
    for job in jobs:
        how, name = job.work.how, job.work.row[:4]
        where = how.inhibition
        looked_at = Inhibition(where.layers, neurons=where.neurons, epsilon=where.epsilon)
        alike = replace(how, method=NONE, seed=0, learning_rate=0.0, inhibition=looked_at)
        shared: list[tuple[str, object]] = [("all", (job.work.made_from[0], alike))]
        if how.method != NONE:
            shared.append(("inhibited", where))
        for kind, settings in shared:
            label, theirs = compared.setdefault((name, kind), (job.label, settings))
            if theirs != settings:
                raise RequestError(
                    f"two of [[{job.stage}]], of {label} and {job.label}, differ in more than method, seed and "
                    "rate, and would be compared; tell them apart by task.name"
                )


def artefact_of_evaluations(evaluated: Sequence["Evaluated"]) -> Artefact:
    """Evaluations of one fine-tune, one a row of each array."""
    metrics = list(evaluated[0].metrics)
    return Artefact(
        {
            "steps": np.array([evaluation.step for evaluation in evaluated], np.int64),
            "metrics": np.array(
                [[evaluation.metrics[name] for name in metrics] for evaluation in evaluated], np.float64
            ),
            "phi": np.array([phi_values(evaluation.phi) for evaluation in evaluated], np.float64),
            "phi_octaves": np.array([evaluation.phi.counts for evaluation in evaluated], np.int64),
            "network": np.array([[evaluation.alpha0, evaluation.width] for evaluation in evaluated], np.float64),
        },
        {"metrics": metrics, "phi": list(PHI), "warnings": [evaluation.warning for evaluation in evaluated]},
    )


def phi_values(summary: "PhiSummary") -> list[float]:
    """A `PhiSummary` in the order of PHI."""
    return [float(getattr(summary, name)) for name in PHI]


def run_rows(results: "Results", stage: str) -> Iterator[tuple[Job, Artefact | None, Row]]:
    """(job, its artefact if it succeeded, the columns that every row about it begins with) of each model run of a stage."""
    for job, outcome in results.jobs_of(stage):
        located = job.work.located
        keys = {
            "suite": located.suite, "model": located.model, "revision": located.revision, "step": located.step,
            "task": job.work.task.name, "status": outcome.status, "message": outcome.message,
        }  # fmt: skip
        yield job, results.store.read(*job.id) if outcome.ok else None, keys


def _rows(results: "Results") -> Iterator[Row]:
    """One row an evaluation and metric; of a fine-tune that did not come to its end one row, with the reason."""
    for job, stored, keys in run_rows(results, FineTuneStage.name):
        recipe = job.work.how
        keys |= {"method": recipe.method, "seed": recipe.seed, "learning_rate": recipe.learning_rate}
        if stored is None:
            yield keys | {"metric": "", "finetune_step": None}
            continue
        for row in _evaluation_rows(stored, job.work, results):
            yield keys | row


def _evaluation_rows(stored: Artefact, run: ModelRun[Recipe], results: "Results") -> Iterator[Row]:
    arrays, about = stored.arrays, stored.attributes
    base, start, no_emergence = _networks(run, results)
    for number, step in enumerate(arrays["steps"].tolist()):
        phi = dict(zip(about["phi"], arrays["phi"][number].tolist(), strict=True))
        alpha0, width = arrays["network"][number].tolist()
        here = {
            "finetune_step": step,
            **{f"phi_{name}": phi[name] for name in PHI[1:]},
            "alpha0": alpha0,
            "width": width,
            "emergence": math.nan if no_emergence else _emergence(alpha0, width, start),
            "emergence_from_base": _emergence(alpha0, width, base),
            "warning": about["warnings"][number],
        }
        for metric, value in zip(about["metrics"], arrays["metrics"][number].tolist(), strict=True):
            yield here | {"metric": metric, "value": value}


def _emergence(alpha0: float, width: float, start: Measurement | None) -> float:
    return math.nan if start is None else emergence_of(alpha0, width, start.alpha0, start.width)


def _networks(run: ModelRun[Recipe], results: "Results") -> tuple[Measurement | None, Measurement | None, str]:
    """(the exact spectrum of the base, that of the baseline step, why E against that would be false or "")."""
    located = run.located
    siblings = results.of_model(located.suite, located.model)
    base = next(checkpoint for checkpoint in siblings if checkpoint.located.revision == located.revision)
    start = next((other for other in siblings if other.located.is_baseline and _exact(other, results)), None)
    found, before = _exact(base, results), None if start is None else _exact(start, results)
    trusted = results.request.dag.emergence.trust_unlike_counts
    unlike = "" if trusted or found is None or before is None else unlike_counts(found, before)
    return found, before, base.located.no_emergence or unlike


def _exact(checkpoint: "CheckpointResult", results: "Results") -> Measurement | None:
    """The measurement of a checkpoint's whole network by [analysis]."""
    outcome = checkpoint.outcomes.get(EXACT)
    return results.measurement(checkpoint.jobs[EXACT].id) if outcome is not None and outcome.ok else None


def _compared(results: "Results") -> "pd.DataFrame":
    from ninscope.report.comparisons import comparisons

    return comparisons(results.table("finetunes"))


FineTuneStage.tables = (
    Table(
        "finetunes",
        {
            "method": "string", "task": "string", "seed": "Int64", "learning_rate": "float64", "finetune_step": "Int64",
            "metric": "string", "value": "float64", **PHI_COLUMNS, "alpha0": "float64", "width": "float64",
            "emergence": "float64", "emergence_from_base": "float64", "warning": "string", "status": "string",
            "message": "string",
        },
        _rows,
    ),
    Table(
        "comparisons",
        {
            "task": "string", "metric": "string", "method": "string", "learning_rate": "float64", "finetune_step": "Int64",
            "seeds": "Int64", "mean": "float64", "std": "float64", "difference": "float64", "p_value": "float64",
            "phi_p99": "float64", "emergence_from_base": "float64",
        },
        _compared,
    ),
)  # fmt: skip
FINETUNE = FineTuneStage()
