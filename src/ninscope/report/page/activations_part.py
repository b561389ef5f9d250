"""How much single neurons stand out while a model trains: the monosemantic scale phi, of all layers and layer by layer."""

from collections.abc import Iterator

import pandas as pd

from ninscope.report.page.chart_data import entries_of, evenly, in_order, numbers_of, rows_of
from ninscope.report.page.charts import (
    choice,
    colour_by,
    colour_by_label,
    first_and_last,
    known_measures,
    measured_lines,
)
from ninscope.report.page.parts import Chart, PagePart, PageTables

_WHOLE = "all"  # the row of the table that is all layers that were looked at
_MEASURES = (
    ("phi_p99", "phi, 99th percentile"),
    ("phi_largest_mean", "largest phi of a sample, mean"),
    ("phi_mean", "phi, mean"),
    ("phi_p50", "phi, median"),
    ("phi_p90", "phi, 90th percentile"),
    ("phi_p999", "phi, 99.9th percentile"),
    ("phi_largest", "largest phi"),
)
_MOST_LAYERS = 12  # that a legend can hold
_TEXT = (
    "phi, the monosemantic scale, says how far a neuron's value on an input lies from its mean over inputs, as a "
    "square in units of its variance: large values are neurons that stand out on few inputs. Its tail is what the "
    "figure shows to begin with.",
    "phi rises when few inputs make a neuron active. It does not say what the neuron means, nor that it means one "
    "thing; and it depends on the inputs that the model was shown.",
)


def activations_parts(tables: PageTables) -> Iterator[PagePart]:
    """The part of the table `activations`."""
    data = in_order(
        rows_of(tables.table("activations"), [column for column, _ in _MEASURES], ["task", "layer"]), tables
    )
    data = data[data[[column for column, _ in _MEASURES]].notna().any(axis=1)].reset_index(drop=True)
    if data.empty:
        return
    data["subject"], tasks = numbers_of(data["task"])
    charts = [*_whole(data[data["layer"] == _WHOLE], tasks, tables), *_layers(data[data["layer"] != _WHOLE])]
    if charts:
        yield PagePart(
            "activations", "Neurons that stand out", "models that were run", _TEXT, tuple(charts), ("activations",)
        )


def _whole(data: pd.DataFrame, tasks: list[str], tables: PageTables) -> Iterator[Chart]:
    measures = known_measures(data, _MEASURES)
    if not measures:
        return
    data = data.reset_index(drop=True)
    chart = measured_lines(data, "phiPoints", measures, colour_by_label(data, tables),
                           where="datum.subject == subject" if len(tasks) > 1 else None)  # fmt: skip
    if len(tasks) > 1:
        chart = chart.add_params(choice("subject", tasks, "task"))
    column, title = measures[0]
    first = data[data["subject"] == data["subject"].min()]
    yield Chart("activations-all", "phi of all layers together", chart, first_and_last(first, column, title))


def _layers(data: pd.DataFrame) -> Iterator[Chart]:
    measures = known_measures(data, _MEASURES)
    if not measures:
        return
    data = data.reset_index(drop=True)
    most = max(_MOST_LAYERS // data["label"].nunique(), 2)
    kept = {
        (label, layer)
        for label, rows in data.groupby("label", sort=False)
        for layer in evenly(list(dict.fromkeys(rows["layer"])), most)
    }
    every = len(data[["label", "layer"]].drop_duplicates())
    data = data[[pair in kept for pair in zip(data["label"], data["layer"], strict=True)]].reset_index(drop=True)
    data["entry"], entries = entries_of(data, "label", "task")
    chart = measured_lines(
        data, "layerPoints", measures, colour_by("layer", list(dict.fromkeys(data["layer"]))), series=("layer",), toggle="layer",
        where="datum.entry == entry",
    ).add_params(choice("entry", entries, "of"))  # fmt: skip
    column, title = measures[0]
    some = f" ({len(kept)} of {every} layers, evenly spaced)" if len(kept) < every else ""
    first = data[data["entry"] == 0]
    yield Chart(
        "activations-layers", f"phi layer by layer{some}", chart, first_and_last(first, column, title, ("layer",))
    )
