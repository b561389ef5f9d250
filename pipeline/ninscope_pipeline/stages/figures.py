"""Figures: PNG files drawn from the run's tables (stage `figures`)."""

import io

import pandas as pd

from ninscope_pipeline.asked.analyses import DEFAULT
from ninscope_pipeline.stages.outcome import Outcome, attempt
from ninscope_pipeline.stages.tables import of_analysis, whole_networks
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.manifest import key_of, write_files
from ninscope_pipeline.storing.runfolder import RunFolder

STAGE = "figures"
VERSION = 5


_TABLES = ("checkpoints", "spectra", "emergence", "benchmarks", "nulls", "degrees", "finetunes", "activations")


def figures_key(tables_key: str) -> str:
    """Figures depend on the tables and on how they are drawn."""
    return content_key(STAGE, VERSION, tables=tables_key)


def store_figures(root: str, written: Outcome) -> Outcome:
    """Draw every figure of the run; passes on the outcome of tables that could not be written."""
    if not written.ok:
        return written.passed_on()
    folder = RunFolder(root)

    def work() -> None:
        while True:
            with folder.locked("tables"):  # all of one set, that of another run perhaps
                key = key_of(folder, folder.tables)
                tables = {name: pd.read_parquet(folder.tables / f"{name}.parquet") for name in _TABLES}
            drawn = draw(tables)
            with folder.locked("tables"):
                if key_of(folder, folder.tables) == key:  # another run may have written tables and figures meanwhile
                    write_files(folder, folder.figures, figures_key(key), drawn)
                    return

    return attempt(STAGE, "all", work)


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, bytes]:
    """PNG bytes by file name: figures of every model, and one that compares the models where there are several.

    Of every model spectra and emergence, and where there are rows for them degrees and kurtosis (of whole networks), parts, and
    the variants beside each other; of every task that a model was fine-tuned on its methods, and of every task whose activations
    were looked at these. All but the variants show the analysis that [analysis] asks for. Names of suites, models and tasks are
    fit for file names (pipeline.dagfile), and none holds "--".
    """
    from ninscope.report import figures  # matplotlib takes half a second to import
    from ninscope.report.ablations import ablations_figure
    from ninscope.report.activations_figure import activations_figure
    from ninscope.report.degree_figures import degrees_figure, kurtosis_figure
    from ninscope.report.finetune_figures import finetunes_figure
    from ninscope.report.parts_figure import groupings_of, parts_figure

    drawn = {}
    of_all, tables = tables, {name: of_analysis(table) for name, table in tables.items()}
    models = tables["checkpoints"][["suite", "model"]].drop_duplicates()
    for suite, model in models.itertuples(index=False):
        part = {name: _of(table, suite, model) for name, table in tables.items()}
        stem = model if list(models["model"]).count(model) == 1 else f"{suite}--{model}"
        drawn[f"{stem}-spectra.png"] = _png(figures.spectra_figure(part["spectra"], model))
        drawn[f"{stem}-emergence.png"] = _png(
            figures.emergence_figure(part["emergence"], part["benchmarks"], model, part["nulls"])
        )
        if part["degrees"]["p50"].notna().any():  # not of samples alone, nor of radii that bound no distance
            drawn[f"{stem}-degrees.png"] = _png(degrees_figure(part["degrees"], model))
            drawn[f"{stem}-kurtosis.png"] = _png(kurtosis_figure(part["degrees"], model))
        of_default = _of(of_all["emergence"], suite, model)
        of_default = of_default[of_default["variant"] == DEFAULT]
        if groupings_of(of_default):
            drawn[f"{stem}-parts.png"] = _png(parts_figure(of_default, model))
        analyses = _of(whole_networks(of_all["emergence"]), suite, model)
        if (analyses["variant"] != DEFAULT).any():
            name = "ablations.png" if len(models) == 1 else f"{stem}-ablations.png"
            drawn[name] = _png(ablations_figure(analyses, model))
        for task, rows in part["finetunes"].groupby("task", sort=False):
            # Two dashes: model "a" with task "b-c" is not model "a-b" with task "c".
            drawn[f"{stem}--{task}-finetunes.png"] = _png(finetunes_figure(rows, f"{model}, {task}"))
    for task, of_task in tables["activations"].groupby("task", sort=False):
        drawn[f"{task}-activations.png"] = _png(activations_figure(of_task, tables["checkpoints"], task))
    if len(models) > 1:
        drawn["emergence.png"] = _png(figures.comparison_figure(tables["emergence"]))
    return drawn


def _of(table: pd.DataFrame, suite: str, model: str) -> pd.DataFrame:
    return table[(table["suite"] == suite) & (table["model"] == model)]


def _png(figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(
        content, metadata={"Software": None}
    )  # savefig lays out and draws twice, to the same bytes
    return content.getvalue()
