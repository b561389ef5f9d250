"""Emergence: E of every checkpoint of a model against its baseline, with its interval (stage `emergence`)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ninscope.checkpoints.baseline import STEP_0, Baseline
from ninscope.measurement import Measurement
from ninscope.multifractal.emergence import Bootstrap, compared, unlike_counts, withheld, without_interval
from ninscope.report.analysis_rows import ALL_PARTS, whole_networks
from ninscope.wording import joined_clauses
from ninscope_pipeline.outcome import with_log
from ninscope_pipeline.request.analyses import DEFAULT
from ninscope_pipeline.stages.measurements import SUMMARY, stored_measurement
from ninscope_pipeline.stages.stage import Job, Measures, Row, Stage, Table
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ninscope.report.page.parts import PagePart, PageTables
    from ninscope_pipeline.figures import FigureTables
    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.request.dagfile import EmergenceSection
    from ninscope_pipeline.results import Results

_COLUMNS = (
    "alpha0", "alpha0_std", "width", "width_std", "emergence", "emergence_low", "emergence_high", "r2_mass_mean",
    "r2_partition",
)  # fmt: skip


class SpectrumAtStep(NamedTuple):
    """One spectrum of a model's history.

    key: of its artefact. no_e: why it can have no E, where that is known. status: of the row.
    """

    revision: str
    step: int | None
    key: str
    no_e: str
    status: str

    def described(self) -> list:
        """What of it enters a key; a status that follows from the rest does not."""
        follows = self.status == ("duplicate" if self.no_e else "ok")
        return list(self[:4]) if follows else list(self)


@dataclass(frozen=True)
class EmergenceWork:
    """stage: where the spectra are stored. history: in the order of the checkpoints. analysis: variant and method."""

    stage: str
    history: tuple[SpectrumAtStep, ...]
    section: "EmergenceSection"
    model: tuple[str, str]
    analysis: tuple[str, str]
    baseline: Baseline = STEP_0

    def is_baseline(self, spectrum: SpectrumAtStep) -> bool:
        return self.baseline.is_at(spectrum.revision, spectrum.step)


class EmergenceStage(Stage[EmergenceWork]):
    name, title, version = "emergence", "emergence", 3
    follows_outcomes = True

    def jobs(self, request: "Request") -> Iterator[Job[EmergenceWork]]:
        section = request.dag.emergence
        alone = len(request.analyses) == 1
        for model, checkpoints in request.by_model().items():
            for analysis in request.analyses:
                history, stage = [], ""
                for located in checkpoints:
                    job = request.job_named(located, analysis.name)
                    if job is not None and request.outcome(job).ok:
                        stage = job.stage
                        judged = (located.no_emergence, located.emergence_status)
                        history.append(SpectrumAtStep(located.revision, located.step, job.key, *judged))
                if history:
                    label = "/".join(model) + ("" if alone else f" {analysis.name}")
                    names = (analysis.variant, analysis.method)
                    work = EmergenceWork(stage, tuple(history), section, model, names, checkpoints[0].baseline)
                    yield Job(self.name, emergence_key(work), label, work)

    def make(self, store: ArtefactStore, job: Job[EmergenceWork]) -> Artefact:
        work = job.work
        history = work.history
        measured = [stored_measurement(store.read(work.stage, spectrum.key, only=SUMMARY)) for spectrum in history]
        start = next(
            (
                measurement
                for spectrum, measurement in zip(history, measured, strict=True)
                if work.is_baseline(spectrum)
            ),
            None,
        )
        rows = [
            _row(measurement, start, work, spectrum.no_e)
            for measurement, spectrum in zip(measured, history, strict=True)
        ]
        arrays, attributes = _of_parts(measured, start, work)
        return Artefact(
            {"values": np.array([values for values, _ in rows]).reshape(-1, len(_COLUMNS)), **arrays},
            {
                **attributes,
                "columns": list(_COLUMNS),
                "revisions": [spectrum.revision for spectrum in history],
                "statuses": [spectrum.status for spectrum in history],
                "messages": [message for _, message in rows],
                "warnings": [measurement.warning for measurement in measured],
            },
        )

    def figures(self, tables: "FigureTables") -> "Iterator[tuple[str, Figure]]":
        from ninscope.report.ablations import ablations_figure
        from ninscope.report.benchmarks_figure import benchmarks_figure
        from ninscope.report.figures import comparison_figure, emergence_figure, series_of
        from ninscope.report.parts_figure import groupings_of, parts_figure

        for model in tables.models:
            yield (
                f"{model.stem}-emergence.png",
                emergence_figure(model.table("emergence"), model.table("benchmarks"), model.name, model.table("nulls")),
            )
            benchmarks = model.table("benchmarks")
            if any(metric != "loss" for _, metric in series_of(benchmarks)):  # a loss stands beside E already
                yield (
                    f"{model.stem}-benchmarks.png",
                    benchmarks_figure(model.table("emergence"), benchmarks, model.name),
                )
            rows = model.every_row("emergence")
            default_rows = rows[rows["variant"] == DEFAULT]
            if groupings_of(default_rows):
                yield f"{model.stem}-parts.png", parts_figure(default_rows, model.name)
            whole = whole_networks(rows)
            if (whole["variant"] != DEFAULT).any():
                name = "ablations.png" if len(tables.models) == 1 else f"{model.stem}-ablations.png"
                yield name, ablations_figure(whole, model.name)
        if len(tables.models) > 1:
            yield "emergence.png", comparison_figure(tables.table("emergence"))

    def page(self, tables: "PageTables") -> "Iterator[PagePart]":
        from ninscope.report.page.benchmarks_part import benchmarks_parts
        from ninscope.report.page.emergence_part import emergence_parts
        from ninscope.report.page.network_parts_part import network_parts

        yield from emergence_parts(tables)
        yield from network_parts(tables)
        yield from benchmarks_parts(tables)


def emergence_key(work: EmergenceWork) -> str:
    """What E of a model depends on: which spectra it is computed from, and the section [emergence]."""
    default = Baseline(work.section.baseline_step)  # of a file whose models name none
    return content_key(
        EmergenceStage.name,
        EmergenceStage.version,
        spectra=work.stage,
        members=[spectrum.described() for spectrum in work.history],
        asked=work.section.model_dump(exclude={"trust_unlike_counts"}),  # which the table alone looks at
        **({} if work.baseline == default else {"baseline": astuple(work.baseline)}),
    )


def _of_parts(
    measured: Sequence[Measurement],
    start: Measurement | None,
    work: EmergenceWork,
) -> tuple[dict[str, np.ndarray], dict]:
    """(arrays, attributes) of the parts that the spectra know, each against the same part of the baseline; else both empty.

    part_values: float64 [revisions, parts, columns], NaN where a revision does not have a part.
    """
    names = list(dict.fromkeys(name for measurement in measured for name in measurement.parts))
    if not names:
        return {}, {}
    history = work.history
    values = np.full((len(history), len(names), len(_COLUMNS)), np.nan)
    messages = [[""] * len(names) for _ in history]
    warnings = [[""] * len(names) for _ in history]
    for row, (measurement, spectrum) in enumerate(zip(measured, history, strict=True)):
        for column, name in enumerate(names):
            if name not in measurement.parts:
                messages[row][column] = "no E: this checkpoint has no such part"
                continue
            now = measurement.part(name)
            before = start.part(name) if start is not None and name in start.parts else None
            values[row, column], note = _row(now, before, work, spectrum.no_e)
            known = spectrum.no_e or not note.startswith("no E")
            messages[row][column] = note if known else f"{note} (of this part)"
            warnings[row][column] = now.warning
    described = {"part_names": names, "part_messages": messages, "part_warnings": warnings}
    return {"part_values": values}, described


def _row(now: Measurement, start: Measurement | None, work: EmergenceWork, no_e: str) -> tuple[list[float], str]:
    section = work.section
    bootstrap = Bootstrap(section.replicates, section.confidence, section.seed)
    value, low, high, message, _ = compared(
        now, start, no_e, work.baseline.label, bootstrap, trust_unlike_counts=True
    )  # the table withholds it
    own = [now.alpha0, now.alpha0_std, now.width, now.width_std]
    return [*own, value, low, high, now.r2_mass_mean, now.r2_partition], message


def _stored_rows(artefact: Artefact) -> Iterator[Row]:
    """One row a revision, and one more for each of its parts."""
    about = artefact.attributes
    names = about.get("part_names", ())
    for number, (revision, status) in enumerate(zip(about["revisions"], about["statuses"], strict=True)):
        here = {"revision": revision, "status": status}
        notes = {"part": ALL_PARTS, "message": about["messages"][number], "warning": about["warnings"][number]}
        yield here | notes | _columns(artefact.arrays["values"][number])
        for position, name in enumerate(names):
            message, warning = about["part_messages"][number][position], about["part_warnings"][number][position]
            notes = {"part": name, "message": message, "warning": warning}
            yield here | notes | _columns(artefact.arrays["part_values"][number, position])


def _columns(values: np.ndarray) -> dict[str, float]:
    return dict(zip(_COLUMNS, values.tolist(), strict=True))


def _failed_rows(job: Job[EmergenceWork]) -> Iterator[Row]:
    """As `_stored_rows`, where there is no artefact."""
    message = with_log("E could not be computed", job.stage, job.key)
    for spectrum in job.work.history:
        notes = {"part": ALL_PARTS, "status": "failed", "message": message, "warning": ""}
        yield {"revision": spectrum.revision} | notes | dict.fromkeys(_COLUMNS, math.nan)


def _rows(results: "Results") -> list[Row]:
    """Rows in the order of the checkpoints, the analyses of one beside each other."""
    order = {checkpoint.id: number for number, checkpoint in enumerate(results.checkpoints)}
    readings = {(a.variant, a.method): a.parameters.reading for a in results.request.analyses}
    rows: list[tuple[int, Row]] = []
    for job, _ in results.jobs_of(EmergenceStage.name):
        variant, method = job.work.analysis
        shared: dict[str, Any] = {
            "method": method,
            "variant": variant,
            "baseline_step": job.work.baseline.step,
            "baseline": job.work.baseline.label,
        }
        has = results.store.has(*job.id)
        stored = _stored_rows(results.store.read(*job.id)) if has else _failed_rows(job)
        unlike = _unlike_counts(results, job.work) if has else {}
        alone = _of_one_layer(results, job.work) if has else {}
        for row in stored:
            clause = unlike.get((row["revision"], row["part"]), "") if not math.isnan(row["emergence"]) else ""
            if clause and not job.work.section.trust_unlike_counts:
                row |= dict.fromkeys(("emergence", "emergence_low", "emergence_high"), math.nan)
                row["message"], clause = joined_clauses(row["message"], withheld(clause)), ""
            row["warning"] = joined_clauses(row["warning"], clause)
            if row["part"] == ALL_PARTS and not math.isnan(row["emergence"]):
                row["message"] = joined_clauses(row["message"], alone.get(row["revision"], ""))
            number = order[(*job.work.model, row["revision"])]
            checkpoint = results.checkpoints[number]
            of_reading = checkpoint.located.wiring(readings[job.work.analysis]).warning
            row["warning"] = joined_clauses(row["warning"], of_reading)
            rows.append((number, checkpoint.row_keys | shared | row))
    return [row for _, row in sorted(rows, key=lambda numbered: numbered[0])]


def _unlike_counts(results: "Results", work: EmergenceWork) -> dict[tuple[str, str], str]:
    """By revision and part, why E would compare unlike networks: told from what is stored, so that results of any age have it."""
    measured = {spectrum.revision: results.measurement((work.stage, spectrum.key)) for spectrum in work.history}
    start = next((measured[spectrum.revision] for spectrum in work.history if work.is_baseline(spectrum)), None)
    if start is None:
        return {}
    warnings = {}
    for revision, now in measured.items():
        warnings[revision, ALL_PARTS] = unlike_counts(now, start, work.baseline.label)
        for name in now.parts.keys() & start.parts.keys():
            warnings[revision, name] = unlike_counts(now.part(name), start.part(name), work.baseline.label)
    return warnings


def _of_one_layer(results: "Results", work: EmergenceWork) -> dict[str, str]:
    """By revision, that E has no interval since one node layer alone counts."""
    measured = {spectrum.revision: results.measurement((work.stage, spectrum.key)) for spectrum in work.history}
    return {revision: without_interval(now) for revision, now in measured.items() if now.layers_counted == 1}


EmergenceStage.tables = (
    Table(
        "emergence",
        {
            "method": "string", "alpha0": "float64", "alpha0_std": "float64", "width": "float64", "width_std": "float64",
            "emergence": "float64", "emergence_low": "float64", "emergence_high": "float64", "baseline_step": "Int64",
            "status": "string", "message": "string", "r2_mass_mean": "float64", "r2_partition": "float64",
            "warning": "string", "variant": "string", "part": "string", "baseline": "string",
        },
        _rows,
        (Measures({"emergence": "emergence", "alpha0": "alpha0", "width": "width"}, {"part": ALL_PARTS}),),
    ),
)  # fmt: skip
EMERGENCE = EmergenceStage()
