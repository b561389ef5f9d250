"""A finished (or unfinished) run, for Python: its tables as DataFrames, its networks as sparse matrices."""

from collections.abc import Mapping
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ninscope.checkpoints.baseline import stated_step
from ninscope.checkpoints.revisions import step_of
from ninscope.checks import did_you_mean
from ninscope.errors import RequestError
from ninscope.exact.layers import NodeValues
from ninscope.exact.snapshots import Snapshot
from ninscope.measurement import Measurement, origin_of, with_origin
from ninscope.networks.sampled import SampledNetwork
from ninscope.report import FORMATS
from ninscope.report.analysis_rows import of_analysis
from ninscope.shown import Shown
from ninscope.wording import outer_names
from ninscope_pipeline.joined_measures import joined_measures
from ninscope_pipeline.live.readers import bring_up_to_date
from ninscope_pipeline.live.state import TrainingState, read_again, training_state
from ninscope_pipeline.request.analyses import DEFAULT, EXACT, NETWORK, SAMPLED, named
from ninscope_pipeline.request.dagfile import dag_written_in
from ninscope_pipeline.run_folders import folders_in, is_run_folder, not_a_run
from ninscope_pipeline.stages.exact import EXACT as EXACT_STAGE
from ninscope_pipeline.stages.measurements import nodes_frame, stored_measurement
from ninscope_pipeline.stages.network import NETWORK as NETWORK_STAGE
from ninscope_pipeline.stages.network import stored_network
from ninscope_pipeline.stages.neurons.places import placed
from ninscope_pipeline.stages.neurons.planning import NEURONS, listed_as
from ninscope_pipeline.stages.neurons.results import values_frame
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.snapshots import SNAPSHOTS, stored_snapshot
from ninscope_pipeline.stages.spectra import SPECTRA as SPECTRA_STAGE
from ninscope_pipeline.storing.manifest import is_finished
from ninscope_pipeline.storing.parquet import read_parquet
from ninscope_pipeline.storing.runfolder import RUNS, RunFolder
from ninscope_pipeline.storing.store import Artefact, ArtefactStore
from ninscope_pipeline.tables import all_tables, empty_table

if TYPE_CHECKING:
    import zarr
    from matplotlib.axes import Axes


class Run(Shown):
    """What lies in a run folder."""

    def __init__(self, path: Path):
        self.path = path
        self._folder = RunFolder(path)

    def facts(self) -> dict[str, object]:
        """What a terminal or a notebook shows of it."""
        models = {(entry["suite"], entry["model"]) for entry in (*self.plan["checkpoints"], *self.own_models)}
        training = training_state(self._folder)
        state = training.word if training is not None else "finished" if self.finished else "not finished"
        counted = {"models": len(models), "checkpoints": len(self.plan["checkpoints"])}
        return {"path": self.path, "state": state} | counted | {"tables": ", ".join(self.tables) or "none"}

    def plot(self, ax: "Axes | None" = None, value: str = "emergence", model: str | None = None) -> "Axes":
        """Draw a value against the step, a line a model and method.

        value: "emergence", "alpha0", "width", or "task/metric" of the table `benchmarks`. model: this one only. ax: where
        (default: axes of a new figure). Raises RequestError.
        """
        from ninscope.report.plots import plot_benchmark, plot_rows

        own = self.own_models
        if own and self.table("checkpoints").empty:
            raise RequestError(
                f"{self.path}: it has no checkpoints to draw; its models are its own, in the table {own[0]['table']!r}, and their "
                f"figures in {self._folder.figures}"
            )
        rows = self._of_model("benchmarks" if "/" in value else "emergence", model)
        title = self.path.name if model is None else model
        return (
            plot_benchmark(rows, ax, value, title) if "/" in value else plot_rows(of_analysis(rows), ax, value, title)
        )

    def _of_model(self, name: str, model: str | None) -> pd.DataFrame:
        rows = self.table(name)
        if model is None:
            return rows
        known = self.table("checkpoints")["model"].unique().tolist()
        if model not in known:
            raise RequestError(
                f"{self.path}: no model {model!r}{did_you_mean(model, known)}; its models: {', '.join(known) or 'none'}"
            )
        return rows[rows["model"] == model]

    @property
    def tables(self) -> list[str]:
        """Names of the tables there are."""
        return self._folder.table_names()

    @property
    def figures(self) -> list[Path]:
        """Files of the figures that were drawn, in the order of their names; those of a training are drawn now if they are not of
        its tables."""
        self._bring_up_to_date(figures=True)
        return sorted(path for path in self._folder.figures.glob("*") if path.suffix[1:] in FORMATS)

    def table(self, name: str) -> pd.DataFrame:
        """A table as a DataFrame. Raises RequestError when there is none of that name."""
        if name not in self.tables:
            known = ", ".join(self.tables) or "none yet, since the run has not finished"
            raise RequestError(f"{self.path}: no table {name!r}{did_you_mean(name, self.tables)}; its tables: {known}")
        try:
            return read_parquet(self._folder.tables / f"{name}.parquet")
        except (OSError, ValueError) as error:
            raise RequestError(f"{self.path}: table {name} is damaged ({error}); {read_again(self._folder)}") from None

    def measured(self) -> pd.DataFrame:
        """All that the tables measure of checkpoints, side by side: structure, neurons, performance.

        One row a model and step: suite, model, step, and a float64 column a measure: alpha0, emergence, "neurons/dormant",
        "held_out/loss", ...; NaN where there is none. A measure of layers is their mean. Raises RequestError: a table is damaged.
        """
        tables = {name: self.table(name) if name in self.tables else empty_table(name) for name in all_tables()}
        known = [stage for stage in stages().values() if all(table.name in tables for table in stage.tables)]
        return joined_measures(known, tables)

    def query(self, sql: str) -> pd.DataFrame:
        """The answer to one SELECT over the tables, by DuckDB: `run.query("SELECT step, width FROM emergence")`.

        What is absent is NULL in SQL, and NaN or None in the DataFrame. Sums of integers are int64, float64 beyond 2^53.
        A query reads the tables of this run and nothing else, and writes nothing. Raises RequestError: a mistake in the query, no
        such table, more than half of the memory that this process may use; StoreError.
        """
        from ninscope_pipeline.querying import query_over

        with query_over({self.path.name: self._folder}, sql) as query:
            return query.frame()

    def network(
        self, model: str, revision: str | int, variant: str = DEFAULT, suite: str | None = None
    ) -> SampledNetwork:
        """The sampled network of one checkpoint, as it is stored.

        revision: by its name or its step. variant: of which of [[variants]]. suite: of the model, where two suites have one of
        that name. Raises RequestError (no such checkpoint or variant, none stored, or several suites have it).
        """
        key = self._stored(suite, model, revision, named(variant, NETWORK), NETWORK_STAGE.name)
        if key is not None:
            return stored_network(ArtefactStore(self._folder).read(NETWORK_STAGE.name, key, with_matrix=True))
        raise RequestError(
            f"{self.path}: no stored network of {_shown(model, variant, suite)} at {revision}{self._near(model, revision)}; the "
            "table checkpoints lists what there is (only sampled networks are stored)"
        )

    def spectra(
        self,
        model: str,
        revision: str | int,
        variant: str = DEFAULT,
        suite: str | None = None,
        exact: bool | None = None,
    ) -> Measurement:
        """The spectra of one checkpoint, as `ninscope.measure` gives them, to be compared with others of `ninscope.emergence`.

        exact: those of the whole network, or False for those of samples (default: whichever there are). variant, suite: as in
        `network`. Raises RequestError (no such checkpoint or variant, none stored, both exact and sampled ones).
        """
        methods = [method for method in (EXACT, SAMPLED) if exact is None or (method == EXACT) == exact]
        stages = {EXACT: EXACT_STAGE.name, SAMPLED: SPECTRA_STAGE.name}
        keys = {
            method: key
            for method in methods
            if (key := self._stored(suite, model, revision, named(variant, method), stages[method])) is not None
        }
        if len(keys) != 1:
            reason = "both exact and sampled spectra; say exact=True or exact=False" if keys else "no stored spectra"
            near = "" if keys else self._near(model, revision)
            raise RequestError(f"{self.path}: {reason} of {_shown(model, variant, suite)} at {revision}{near}")
        ((method, key),) = keys.items()
        measured = stored_measurement(ArtefactStore(self._folder).read(stages[method], key))
        parameters = next(
            analysis.parameters
            for analysis in dag_written_in(self._folder).analyses()
            if (analysis.variant, analysis.method) == (variant, method)
        )
        (entry,) = self._entries(suite, model, revision)
        family, digest = entry.get("wirings", {}).get(parameters.reading.key, (None, None))
        return with_origin(measured, origin_of(parameters, digest, family))

    def nodes(self, model: str, revision: str | int, variant: str = DEFAULT, suite: str | None = None) -> pd.DataFrame:
        """Every neuron of a checkpoint's exact analysis, where the DAG file says per_node = true.

        One row a neuron of a layer with outgoing edges: layer, neuron, edges, average_weighted_degree, dimension,
        r2, as `ninscope.exact.layers.NodeValues` says. variant, suite: as in `network`. Raises RequestError (no such checkpoint or
        variant, none stored, or several suites have it).
        """
        key = self._stored(suite, model, revision, named(variant, EXACT), EXACT_STAGE.name)
        nodes: Mapping[str, NodeValues] = {}
        if key is not None:
            nodes = stored_measurement(ArtefactStore(self._folder).read(EXACT_STAGE.name, key)).nodes_of
        if not nodes:
            raise RequestError(
                f"{self.path}: no values of single neurons for {_shown(model, variant, suite)} at {revision}"
                f"{self._near(model, revision) or '; set per_node = true in [analysis] and run again'}"
            )
        return nodes_frame(nodes)

    def snapshot(self, revision: str | int, model: str | None = None, suite: str | None = None) -> Snapshot:
        """What a training kept of a step (`EmergenceMonitor(..., snapshot=True)`): asked for other moments, parts or null models,
        it answers as the weights of that step would.

        revision: by its name or its step. model: where the run has several. suite: as in `network`. Raises RequestError: there is
        no such step, or no snapshot of it.
        """
        models = list(dict.fromkeys(entry["model"] for entry in self.plan["checkpoints"]))
        if model is None and len(models) > 1:
            raise RequestError(f"{self.path}: it has the models {outer_names(models)}; say which with model=")
        name = model if model is not None else models[0] if models else ""
        key = self._stored(suite, name, revision, SNAPSHOTS.name, SNAPSHOTS.name)
        if key is None:
            raise RequestError(
                f"{self.path}: no snapshot of {_shown(name, DEFAULT, suite)} at {revision}"
                f"{self._near(name, revision) or '; a training keeps them where it is monitored with snapshot=True'}"
            )
        parameters = dag_written_in(self._folder).analyses()[0].parameters
        return stored_snapshot(ArtefactStore(self._folder).read(SNAPSHOTS.name, key), parameters)

    def neuron_values(
        self,
        model: str,
        revision: str | int,
        text: str | None = None,
        suite: str | None = None,
        nodes: bool = False,
    ) -> pd.DataFrame:
        """What [[neurons]] measured of every single neuron of a checkpoint, where it says neuron_values = true.

        One row a neuron (a head, where `unit` says so): suite, model, revision, step, layer, index, unit, and a column a measure,
        float64, NaN where it says nothing of that neuron. "dormant_score/shuffled" is on the shuffled control,
        "universal_rho/seed" against other seeds. text: the name of the examples, where a model was measured on several. suite: as
        in `network`. nodes: the columns of `nodes` too, of neurons that the network has (edges, average_weighted_degree,
        dimension, r2), which needs per_node = true in [analysis]. Raises RequestError: no such checkpoint, or nothing of the kind
        is stored.
        """
        stored = self._measured_neurons(suite, model, revision, text)
        if stored is None or stored.annotated is None:
            raise RequestError(
                f"{self.path}: no values of single neurons measured of {_shown(model, DEFAULT, suite)} at {revision}"
                f"{self._near(model, revision) or '; set neuron_values = true in [[neurons]] and run again'}"
            )
        frame = values_frame(stored.annotated)
        (entry,) = self._entries(suite, model, revision)
        names = [entry[name] for name in ("suite", "model", "revision")]
        checkpoints = self.table("checkpoints")
        (step,) = checkpoints.loc[(checkpoints[["suite", "model", "revision"]] == names).all(axis=1), "step"]
        for place, (name, value) in enumerate(zip(("suite", "model", "revision"), names, strict=True)):
            frame.insert(place, name, pd.Series([value] * len(frame), dtype="string"))
        frame.insert(3, "step", pd.Series([step] * len(frame), dtype="Int64"))
        if not nodes:
            return frame
        return placed(frame, self.nodes(model, revision, suite=suite))

    def _measured_neurons(
        self, suite: str | None, model: str, revision: str | int, text: str | None
    ) -> "Artefact | None":
        """What [[neurons]] stored of a checkpoint; without its matrix where single neurons were not asked for, None where there is
        nothing. Raises RequestError: measured on several texts."""
        beginning = listed_as("")
        entries = self._entries(suite, model, revision)
        there = [name.removeprefix(beginning) for entry in entries for name in entry if name.startswith(beginning)]
        if text is not None and there and text not in there:
            raise RequestError(
                f"{self.path}: neurons of {_shown(model, DEFAULT, suite)} were not measured on {text!r}"
                f"{did_you_mean(text, there) or f'; they were on {outer_names(there)}'}"
            )
        if text is None and len(there) > 1:
            raise RequestError(f"{self.path}: neurons were measured on {' and '.join(there)}; say which with text=")
        name = listed_as(text if text is not None else there[0] if there else "")
        key, store = self._stored(suite, model, revision, name, NEURONS), ArtefactStore(self._folder)
        if key is None or store.failure(NEURONS, key) is not None:
            return None
        with_values = store.read(NEURONS, key, only=()).attributes["neuron_values"]
        return store.read(NEURONS, key, only=(), with_annotated=with_values)

    def _stored(self, suite: str | None, model: str, revision: str | int, name: str, stage: str) -> str | None:
        """The key of what is stored of a checkpoint under `name` in the plan, if it is. Raises RequestError: of several suites."""
        store = ArtefactStore(self._folder)
        keys = (entry.get(name) for entry in self._entries(suite, model, revision))
        return next((key for key in keys if key and store.has(stage, key)), None)

    def _entries(self, suite: str | None, model: str, revision: str | int) -> list[dict[str, Any]]:
        """What the plan says of a checkpoint, by its revision's name or step: one entry, or none.

        Raises RequestError: several suites have it.
        """
        if isinstance(revision, Integral):
            revision = int(revision)  # numpy's, of a table
        elif not isinstance(revision, str):
            raise RequestError(f"revision={revision!r} is neither a name nor a step; give 'step1000' or 1000")
        of_model = [
            entry for entry in self.plan["checkpoints"] if entry["model"] == model and suite in (None, entry["suite"])
        ]
        names = {entry["revision"] for entry in of_model}
        if revision not in names and (step := stated_step(revision)) is not None:
            of_step = [name for name in names if step_of(name) == step]
            revision = of_step[0] if len(of_step) == 1 else revision
        entries = [entry for entry in of_model if entry["revision"] == revision]
        if len(suites := sorted({entry["suite"] for entry in entries})) > 1:
            raise RequestError(
                f"{self.path}: the suites {' and '.join(suites)} have {model} at {revision}; say which with suite="
            )
        return entries

    def _near(self, model: str, revision: str | int) -> str:
        """What the run has in place of a model or revision that it lacks, one clause with its "; "; empty where it has it."""
        by_model: dict[str, list[str]] = {}
        for entry in self.plan["checkpoints"]:
            by_model.setdefault(entry["model"], []).append(entry["revision"])
        known = by_model.get(model, [])
        if not by_model or str(revision) in known or (isinstance(revision, int) and revision in map(step_of, known)):
            return ""
        given, known = (str(revision), by_model[model]) if model in by_model else (model, list(by_model))
        return did_you_mean(given, known) or f"; it has {outer_names(list(dict.fromkeys(known)))}"

    @property
    def store(self) -> "zarr.Group":
        """The Zarr store, read-only."""
        import zarr  # slow to import, and what is read of a run otherwise needs none

        return zarr.open_group(self._folder.store, mode="r")

    @property
    def plan(self) -> dict[str, Any]:
        """What the run set out to make: keys by stage, the tables' key, and one entry a checkpoint."""
        return self._folder.read_plan()

    @property
    def own_models(self) -> list[dict[str, str]]:
        """Models that a stage of the run makes itself: suite, model, and the table that tells of each."""
        return self.plan.get("own_models", [])

    @property
    def finished(self) -> bool:
        """Whether the tables are those of what was last asked, and of all that a training has recorded."""
        return is_finished(self._folder) and not self._is_behind()

    @property
    def training(self) -> TrainingState | None:
        """How far the training is whose run this is; None of the run of a DAG file."""
        return training_state(self._folder)

    def _is_behind(self) -> bool:
        training = self.training
        return training is not None and training.tabled < training.steps

    def _bring_up_to_date(self, figures: bool = False) -> None:
        """Tables of a training that has recorded more than they hold are written anew. Raises RequestError, StoreError."""
        bring_up_to_date(self._folder, figures)


def _shown(model: str, variant: str, suite: str | None) -> str:
    name = model if suite is None else f"{suite}/{model}"
    return name if variant == DEFAULT else f"{name}, variant {variant},"


def open_run(path: str | Path) -> Run:
    """The run in a folder ("runs/demo"). Raises RequestError when the folder holds no run.

    Of a training that was measured while it ran, and perhaps still is, the tables are first brought up to date.
    """
    path = Path(path).expanduser()
    if not is_run_folder(path):
        raise not_a_run(path, _near_run(path))
    run = Run(path)
    run._bring_up_to_date()
    return run


def _near_run(path: Path) -> str:
    """The run that a wrong path may mean, in words: one of that name in ./runs, or one beside it that is spelled alike."""
    if is_run_folder(RUNS / path):
        return f"; did you mean {str(RUNS / path)!r}?"
    with suppress(OSError):  # a folder that cannot be looked into
        return did_you_mean(path.name, [folder.name for folder in folders_in(path.parent)])
    return ""
