"""What neurons, heads and representations do while a model runs, at every checkpoint (stage `neurons`)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from ninscope.neurons.observatory.measure import ALL, NONE, PREVIOUS, SEED, START
from ninscope.neurons.observatory.registry import measures
from ninscope_pipeline.request.toml_files import read_toml
from ninscope_pipeline.stages.model_runs.planning import check_installed
from ninscope_pipeline.stages.neurons.observing import files_unchanged, kept_results, taken_results
from ninscope_pipeline.stages.neurons.places import COLUMNS as PLACE_COLUMNS
from ninscope_pipeline.stages.neurons.places import NEURON_PLACES, place_rows, single_neurons, wanted
from ninscope_pipeline.stages.neurons.planning import KEPT, NEURONS, VERSION, NeuronsWork, neurons_jobs
from ninscope_pipeline.stages.neurons.results import QUANTILES, artefact_of_results, rows_of, stored_rows, told
from ninscope_pipeline.stages.neurons.section import NeuronsSection, check_differ, with_paths
from ninscope_pipeline.stages.stage import Fetch, Job, Measures, Row, Section, Stage, Table
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ninscope.report.page.parts import PagePart, PageTables
    from ninscope_pipeline.figures import FigureTables
    from ninscope_pipeline.located import Located
    from ninscope_pipeline.opened_run import Run
    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.request.dagfile import Dag
    from ninscope_pipeline.results import Results


PLACES_VERSION = 1  # of the table `neuron_places`: raise it when the same results give other rows


class NeuronsStage(Stage[NeuronsWork]):
    name, title, version = NEURONS, "neurons", VERSION
    section = Section(NEURONS, list[NeuronsSection], [], with_paths)
    runs_models = True
    keeps = KEPT

    def check(self, dag: "Dag") -> None:
        check_differ(dag.section(self))

    def asked_of_tables(self, dag: "Dag") -> Mapping[str, object]:
        return {NEURON_PLACES: PLACES_VERSION} if wanted(dag, dag.section(self)) else {}

    def jobs(self, request: "Request") -> Iterator[Job[NeuronsWork]]:
        sections: list[NeuronsSection] = request.dag.section(self)
        if sections:
            check_installed(self.name, extra=self.name)
            yield from neurons_jobs(sections, request)

    def make(self, store: ArtefactStore, job: Job[NeuronsWork]) -> Artefact:
        """All results of a job, of which those that are not kept yet are taken now."""
        results = taken_results(store, job.work, lambda: self.check_unchanged(store, job))
        return artefact_of_results(told(job.work, results), job.work.section.neuron_values)

    def check_unchanged(self, store: ArtefactStore, job: Job[NeuronsWork]) -> None:
        files_unchanged(job.work)

    def kept_keys(self, job: Job[NeuronsWork]) -> Iterable[str]:
        return (part.key for part in job.work.parts if part.key)

    def fetch(self, job: Job[NeuronsWork]) -> Fetch | None:
        """The checkpoint and those that it is compared with, as far as they are on a Hub; each once a run."""
        own, *others = (_fetched(located) for located in (job.work.located, *job.work.others.values()))
        beside = tuple(other for other in others if other is not None)
        if own is None:
            return Fetch(0, beside=beside) if beside else None
        return Fetch(own.bytes, own.shared_as, beside)

    def figures(self, tables: "FigureTables") -> "Iterator[tuple[str, Figure]]":
        from ninscope.report.neurons_figures import neurons_figure, neurons_map

        rows, checkpoints = tables.table(self.name), tables.table("checkpoints")
        for text in rows.loc[rows["status"] == "ok", "text"].unique():
            yield f"{text}-neurons.png", neurons_figure(rows, checkpoints, str(text))
        yield from _figures_of_places(tables)
        for model in tables.models:
            own = model.table(self.name)
            for text in own.loc[own["status"] == "ok", "text"].unique():
                # Two dashes: model "a" on text "b-c" is not model "a-b" on text "c".
                yield f"{model.stem}--{text}-neurons-map.png", neurons_map(own, checkpoints, str(text))

    def page(self, tables: "PageTables") -> "Iterator[PagePart]":
        from ninscope.report.page.neuron_places_part import neuron_places_parts
        from ninscope.report.page.neurons_part import neurons_parts

        yield from neurons_parts(tables)
        yield from neuron_places_parts(tables)

    def problems(self, run: "Run") -> list[str]:
        """A line for each thing that went wrong with a checkpoint, unless that is at fault itself. What cannot be measured of a
        model or of examples is nothing wrong where all measures were asked for, and is where this one was named."""
        if self.name not in run.tables:  # a run by an earlier version
            return []
        rows, checkpoints = run.table(self.name), run.table("checkpoints")
        bad = checkpoints[~checkpoints["status"].isin(["ok", "duplicate"])]
        known = set(bad[["suite", "model", "revision"]].itertuples(index=False, name=None))
        asked = _sections_of(run)
        lines = []
        failed = rows[rows["status"] != "ok"].astype(object)
        for values in failed.itertuples(index=False, name=None):
            row = dict(zip(failed.columns, values, strict=True))
            measure = row["measure"] if isinstance(row["measure"], str) else ""
            told_elsewhere = (row["suite"], row["model"], row["revision"]) in known
            if told_elsewhere or (row["status"] == "unsupported" and measure and not _is_named(row, asked)):
                continue
            what = " ".join(
                part for part in (measure, row["control"], row["against"]) if isinstance(part, str) and part
            )
            name = f"{row['suite']}/{row['model']} {row['revision']} {row['text']}"
            lines.append(f"{name}{f' {what}' if what else ''}: {row['status']}: {row['message']}")
        return lines


def _figures_of_places(tables: "FigureTables") -> "Iterator[tuple[str, Figure]]":
    """Places in the network against what neurons do: single neurons of the last revision that has them, where the stored results
    are at hand, and correlations over steps."""
    from ninscope.report.neuron_places_figure import neuron_places_figure, placed_neurons
    from ninscope.report.neuron_places_training_figure import neuron_places_training_figure

    for model in tables.models:
        rows = model.table(NEURON_PLACES)
        rows = rows[rows["status"] == "ok"]
        for text, of_text in rows.groupby("text", sort=False):
            revision = str(of_text["revision"].iloc[-1])
            if tables.results is not None:
                values = single_neurons(tables.results, model.suite, model.name, revision, str(text))
                if values is not None:
                    title = f"{model.name} {revision}, {text}"
                    yield f"{model.stem}--{text}-neuron-places.png", neuron_places_figure(placed_neurons(values), title)
            if of_text["step"].notna().any():
                yield (
                    f"{model.stem}--{text}-neuron-places-over-training.png",
                    neuron_places_training_figure(of_text, tables.table("checkpoints"), str(text)),
                )


def _fetched(located: "Located") -> Fetch | None:
    return Fetch(located.bytes or 0, shared_as=located.content_sha256) if located.kind == "hub" else None


def _sections_of(run: "Run") -> list[Mapping[str, Any]]:
    """[[neurons]] as it was asked for, unchecked: files that it names may have moved since."""
    asked = read_toml(RunFolder(run.path).run_file)["asked"]
    sections: list[Mapping[str, Any]] = asked.get(NEURONS, [])
    return sections


def _is_named(row: Mapping[str, Any], sections: Iterable[Mapping[str, Any]]) -> bool:
    return any(
        section.get("suite") in (None, row["suite"])
        and section.get("model") in (None, row["model"])
        and isinstance(section["measures"], list)
        and row["measure"] in section["measures"]
        for section in sections
    )


# --- the table -----------------------------------------------------------------------------------------------------------
def _rows(results: "Results") -> Iterator[Row]:
    """One row a fact, in the order of jobs, measures, controls, and of what they are compared with. Of a job that did not come to
    its end the results that are kept, and one row, without a measure, with the reason."""
    for job, outcome in results.jobs_of(NEURONS):
        located = job.work.located
        keys = {
            "suite": located.suite, "model": located.model, "revision": located.revision, "step": located.step,
            "text": job.work.examples,
        }  # fmt: skip
        if outcome.ok:
            yield from (keys | row for row in stored_rows(results.store.read(*job.id)))
            continue
        if job.key:
            for result in told(job.work, kept_results(results.store, job.work)):
                yield from (keys | row for row in rows_of(result))
        yield keys | {"layer": ALL, "status": outcome.status, "message": outcome.message}


def main_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that say one number of a checkpoint: of each measure the main fact, of the whole model where there is one and else
    of every layer, on the first text of the model."""
    rows = rows[rows["measure"].isin(list(measures())) & (rows["status"] == "ok")]
    rows = rows[rows["text"] == rows.groupby(["suite", "model"])["text"].transform("first")]
    whole = rows["layer"] == ALL
    has_whole = whole.groupby([rows[name] for name in ("suite", "model", "revision", "measure", "against")]).transform(
        "any"
    )
    return rows[whole | ~has_whole]


def _measures(name: str, against: str) -> Measures:
    return Measures({name: "value"}, {"control": NONE, "against": against}, ("measure",), main_numbers, measures)


NeuronsStage.tables = (
    Table(
        NEURONS,
        {
            "text": "string", "layer": "string", "measure": "string", "control": "string", "against": "string",
            "value": "float64", **dict.fromkeys(QUANTILES, "float64"), "count": "Int64", "status": "string",
            "message": "string",
        },
        _rows,
        (
            _measures("neurons", ""),
            _measures("neurons_from_start", START),
            _measures("neurons_from_last", PREVIOUS),
            _measures("neurons_over_seeds", SEED),
        ),
    ),
    Table(NEURON_PLACES, PLACE_COLUMNS, place_rows),
)  # fmt: skip
NEURONS_STAGE = NeuronsStage()
