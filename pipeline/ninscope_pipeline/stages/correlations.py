"""Measures of checkpoints against benchmark results over training (stage `correlations`).

It has no jobs: the table is made from other tables.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field

from ninscope.checks import MAX_SEED, did_you_mean
from ninscope.correlating.over_training import (
    DIFFERENCES,
    FEWEST,
    FEWEST_VALUE,
    KINDS,
    MAX_REPLICATES,
    MIN_REPLICATES,
    MOST_LAGS,
    Correlations,
    Reason,
    Resampling,
    correlations,
)
from ninscope.errors import RequestError
from ninscope.wording import joined_clauses, of_number
from ninscope_pipeline.request.analyses import DEFAULT
from ninscope_pipeline.request.models import Strict
from ninscope_pipeline.stages.checkpoint_measures import Series, known_endings, names_of_measures, series_of_measures
from ninscope_pipeline.stages.stage import Job, Row, Section, Stage, Table
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ninscope.report.page.parts import PagePart, PageTables
    from ninscope_pipeline.figures import FigureTables
    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.request.dagfile import Dag
    from ninscope_pipeline.results import Results

_SHARE_TOLD = 0.05  # of resamples without a value: from here on the message says so


class CorrelationsSection(Strict):
    """[correlations]: every measure of checkpoints against every benchmark result of the model.

    measures, tasks: only these, by their names ("coupling" is every "coupling/..."; a task, or "task/metric").
    """

    replicates: int = Field(default=Resampling.replicates, ge=MIN_REPLICATES, le=MAX_REPLICATES)
    confidence: float = Field(default=Resampling.confidence, gt=0, lt=1)
    seed: int = Field(default=Resampling.seed, ge=0, le=MAX_SEED)
    block: int | None = Field(default=Resampling.block, ge=1, le=MAX_SEED)
    max_lag: int = Field(default=Resampling.max_lag, ge=0, le=MOST_LAGS)
    measures: list[str] | None = Field(default=None, min_length=1)
    tasks: list[str] | None = Field(default=None, min_length=1)

    @property
    def resampling(self) -> Resampling:
        return Resampling(self.replicates, self.confidence, self.seed, self.block, self.max_lag)


class CorrelationsStage(Stage[None]):
    name, title, version = "correlations", "correlations", 1
    section = Section("correlations", CorrelationsSection | None, None)

    def check(self, dag: "Dag") -> None:
        section = dag.section(self)
        if section is None or section.measures is None:
            return
        known, endings = names_of_measures(dag.every_stage), known_endings(dag.every_stage)
        for name in section.measures:
            first, _, ending = name.partition("/")
            if first not in known:
                raise ValueError(
                    f"[correlations] measures: no table has a measure {name!r}{did_you_mean(name, known)}; "
                    f"there are {', '.join(known)}"
                )
            if ending and ending not in endings.get(first, [ending]):
                there = [f"{first}/{one}" for one in endings[first]]
                near = did_you_mean(name, there) or f"; there are {', '.join(there)}"
                raise ValueError(f"[correlations] measures: {name!r} is no measure{near}")

    def asked_of_tables(self, dag: "Dag") -> Mapping[str, object]:
        section = dag.section(self)
        return {} if section is None else {self.name: {"version": self.version, **section.model_dump()}}

    def jobs(self, request: "Request") -> Iterable[Job[None]]:
        """None. Raises RequestError: a task is asked for of which no model has a result."""
        section = request.dag.section(self)
        if section is not None and section.tasks is not None:
            known = dict.fromkeys(
                name
                for evaluations in request.evaluations
                for evaluation in evaluations
                for name in (evaluation.task, f"{evaluation.task}/{evaluation.metric}")
            )
            for name in section.tasks:
                if name not in known:
                    raise RequestError(
                        f"[correlations] tasks: no model has a result of {name!r}{did_you_mean(name, known)}; "
                        f"there are {', '.join(known) or 'none'}"
                    )
        return ()

    def make(self, store: ArtefactStore, job: Job[None]) -> Artefact:
        raise NotImplementedError("correlations are made from tables, and have no jobs")

    def figures(self, tables: "FigureTables") -> "Iterator[tuple[str, Figure]]":
        from ninscope.report.correlations_figure import accuracy_figure, correlations_figure

        rows = tables.table("correlations")
        if rows.empty:
            return
        every = [
            series for series in series_of_measures(tables.every_stage, tables.tables) if series.variant == DEFAULT
        ]
        for model in tables.models:
            own = model.table("correlations")
            if own["kind"].notna().any():
                benchmarks = model.table("benchmarks")
                yield f"{model.stem}-correlations.png", correlations_figure(own, benchmarks, model.name)
                measured = _long(
                    series for series in every if (series.suite, series.model) == (model.suite, model.name)
                )
                yield (
                    f"{model.stem}-accuracy.png",
                    accuracy_figure(own, measured, benchmarks, model.name),
                )

    def page(self, tables: "PageTables") -> "Iterable[PagePart]":
        from ninscope.report.page.correlations_part import correlations_parts

        return correlations_parts(tables)


def _long(every: Iterable[Series]) -> pd.DataFrame:
    """Series as a table: measure, method, step, value."""
    parts = [
        pd.DataFrame(
            {
                "measure": series.measure,
                "method": series.method,
                "step": series.values.index,
                "value": series.values.array,
            }
        )
        for series in every
    ]
    return (
        pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["measure", "method", "step", "value"])
    )


# --- the table ----------------------------------------------------------------------------------------------------------
class _Scores(NamedTuple):
    """Benchmark results of a model: (task, metric) -> value by step. notes: (task, metric) -> what was left out of them."""

    values: dict[tuple[str, str], pd.Series]
    notes: dict[tuple[str, str], str]


def _rows(results: "Results") -> Iterator[Row]:
    section: CorrelationsSection | None = results.request.dag.section(CORRELATIONS)
    if section is None:
        return
    table_of = names_of_measures(results.stages)
    every = series_of_measures(results.stages, results.tables)
    benchmarks = results.table("benchmarks")
    for suite, model in results.request.by_model():
        keys = {"suite": suite, "model": model, "variant": DEFAULT}
        of_model = [series for series in every if (series.suite, series.model) == (suite, model)]
        chosen = [series for series in of_model if _is_chosen(series.measure, section.measures)]
        scores = _scores(benchmarks[(benchmarks["suite"] == suite) & (benchmarks["model"] == model)], section.tasks)
        yield from (keys | row for row in _absent(chosen, scores, section, table_of))
        if chosen and scores.values:
            yield from _of_model(keys, chosen, scores, section.resampling)


def _is_chosen(name: str, wanted: Sequence[str] | None) -> bool:
    """Whether a name, or what stands before its first slash, is among those that are wanted."""
    return wanted is None or name in wanted or name.split("/")[0] in wanted


def _scores(benchmarks: pd.DataFrame, wanted: Sequence[str] | None) -> _Scores:
    values: dict[tuple[str, str], pd.Series] = {}
    notes: dict[tuple[str, str], str] = {}
    for names, rows in benchmarks.groupby(["task", "metric"], sort=False):
        task, metric = map(str, names)
        if wanted is None or task in wanted or f"{task}/{metric}" in wanted:
            known = rows.dropna(subset=["step", "value"])
            first = known.drop_duplicates("step")
            values[task, metric] = first.set_index("step")["value"].astype("float64").sort_index()
            stepless, repeated = int(rows["step"].isna().sum()), len(known) - len(first)
            notes[task, metric] = joined_clauses(
                _counted(stepless, "result names no step", "results name no step"),
                _counted(repeated, "result is a second one of its step", "results are second ones of their steps"),
            )
    return _Scores(values, notes)


def _counted(count: int, one: str, several: str) -> str:
    return of_number(count, one, several) if count else ""


def _absent(
    chosen: Sequence[Series], scores: _Scores, section: CorrelationsSection, table_of: Mapping[str, str]
) -> Iterator[Row]:
    """Rows that say what there is nothing of. table_of: by a measure's name."""
    if not scores.values:
        asked = "" if section.tasks is None else f" of {', '.join(section.tasks)}"
        yield {"message": f"this model has no benchmark results{asked}; [[models]] names them by `evaluations`"}
    for name in section.measures or ():
        if not any(_is_chosen(series.measure, [name]) for series in chosen):
            table = table_of[name.split("/")[0]]
            yield {"measure": name, "message": f"the table {table} has no rows of it for this model"}
    if section.measures is None and not chosen:
        yield {"message": "no checkpoint of this model that states a step was measured"}


def _of_model(keys: Row, chosen: Sequence[Series], scores: _Scores, resampling: Resampling) -> Iterator[Row]:
    series = [*(measure.values for measure in chosen), *scores.values.values()]
    steps = np.unique(np.concatenate([values.index.to_numpy(np.int64) for values in series]))
    every = np.array([_at(values, steps) for values in series])
    x, y = every[: len(chosen)], every[len(chosen) :]
    numbers = correlations(x, y, resampling, f"{keys['suite']}/{keys['model']}")
    for row, measure in enumerate(chosen):
        about = {"measure": measure.measure, "method": measure.method or None, "variant": measure.variant}
        for column, (task, metric) in enumerate(scores.values):
            unmatched = _unmatched(x[row], y[column], measure.repeated)
            for kind, of_kind in _of_pair(numbers, row, column):
                own = _why(numbers, KINDS.index(kind), row, column, measure.measure, f"{task} {metric}")
                message = joined_clauses(own, unmatched, scores.notes[task, metric])
                of_pair = {"task": task, "metric": metric, "kind": kind, "message": message}
                yield keys | about | of_pair | of_kind


def _unmatched(x: np.ndarray, y: np.ndarray, repeated: int) -> str:
    """What of a measure and of a score did not enter, in clauses."""
    has_x, has_y = np.isfinite(x), np.isfinite(y)
    return joined_clauses(
        _counted(int((has_x & ~has_y).sum()), "step has no result", "steps have no result"),
        _counted(
            int((has_y & ~has_x).sum()), "result has no value of the measure", "results have no value of the measure"
        ),
        _counted(repeated, "revision is a second one of its step", "revisions are second ones of their steps"),
    )


def _at(values: pd.Series, steps: np.ndarray) -> np.ndarray:
    """Values at these steps, NaN where there is none; steps are whole numbers, and match exactly or not at all."""
    at_steps = np.full(len(steps), np.nan)
    at_steps[np.searchsorted(steps, values.index.to_numpy(np.int64))] = values.to_numpy("float64")
    return at_steps


def _of_pair(numbers: Correlations, row: int, column: int) -> Iterator[tuple[str, Row]]:
    for number, kind in enumerate(KINDS):
        values = {
            name: float(getattr(numbers, name)[number, row, column])
            for name in ("value", "low", "high", "null_low", "null_high")
        }
        values["points"] = int(numbers.points[number, row, column])
        if kind == DIFFERENCES and np.isfinite(numbers.lag[row, column]):
            values["lag"] = int(numbers.lag[row, column])
            values |= {name: float(getattr(numbers, name)[row, column]) for name in ("lag_value", "lag_null")}
        yield kind, values


def _why(numbers: Correlations, kind: int, row: int, column: int, measure: str, score: str) -> str:
    """What a reader has to know of one number."""
    points, undefined = int(numbers.points[kind, row, column]), float(numbers.undefined[kind, row, column])
    reason = Reason(int(numbers.reason[kind, row, column]))
    name = {Reason.CONSTANT_MEASURE: measure, Reason.MEASURE_FOLLOWS_STEP: measure}.get(reason, score)
    alike = "has one value at every point" if KINDS[kind] != DIFFERENCES else "changes by as much at every point"
    follows = f"no value: {name} rises, or falls, from every point to the next, so the step decides its ranks"
    said = {
        Reason.NONE: "",
        Reason.FEW_FOR_A_VALUE: f"no value: {_counted(points, 'point', 'points') or 'no point'}, and it takes {FEWEST_VALUE}",
        Reason.CONSTANT_MEASURE: f"no value: {name} {alike}",
        Reason.CONSTANT_SCORE: f"no value: {name} {alike}",
        Reason.MEASURE_FOLLOWS_STEP: follows,
        Reason.SCORE_FOLLOWS_STEP: follows,
        Reason.FEW_FOR_AN_INTERVAL: f"no interval: {points} points, and it takes {FEWEST}",
        Reason.UNDEFINED_RESAMPLES: f"no interval: {undefined:.0%} of the resamples have no value",
    }[reason]
    told = reason == Reason.NONE and undefined > _SHARE_TOLD
    left_out = f"{undefined:.0%} of the resamples have no value, and are left out of the interval" if told else ""
    within = ""
    if KINDS[kind] == DIFFERENCES and abs(numbers.lag_value[row, column]) <= numbers.lag_null[row, column]:
        within = "no lag stands out from chance"
    return joined_clauses(said, left_out, within)


CorrelationsStage.tables = (
    Table(
        "correlations",
        {
            "measure": "string", "method": "string", "variant": "string", "task": "string", "metric": "string",
            "kind": "string", "value": "float64", "low": "float64", "high": "float64", "null_low": "float64",
            "null_high": "float64", "points": "Int64", "lag": "Int64", "lag_value": "float64", "lag_null": "float64",
            "message": "string",
        },
        _rows,
        from_others=True,
    ),
)  # fmt: skip
CORRELATIONS = CorrelationsStage()
