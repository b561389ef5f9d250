"""How far a neuron's edges reach, by node layer over training: percentiles of a layer, and kurtosis of all layers."""

from collections.abc import Iterator

import altair as alt
import numpy as np
import pandas as pd

from ninscope.report.page.chart_data import entries_of, in_order, numbers_of, rounded, rows_of, steps_in, within
from ninscope.report.page.charts import (
    BLUE,
    choice,
    first_and_last,
    fitted,
    heat_map,
    layer_words,
    name_rows,
    rows_high,
    step_axis,
    step_columns,
    tooltip,
    with_model_list,
)
from ninscope.report.page.parts import Chart, PagePart, PageTables

NORMAL_KURTOSIS = 3.0
_MOST_ROWS = 12_000
_TEXT = (
    "A neuron's average weighted degree is the mean distance of its edges, where a strong weight is a short distance: "
    "it falls when the weights that leave a neuron grow. The line is the median over the neurons of a layer; the bands "
    "hold the middle half of them and the middle 90 %.",
    "Kurtosis says how heavy the tails of a layer's neurons are: 3, in grey, is a normal distribution; orange has more "
    "neurons far from the rest. A few neurons can decide it, so it moves in jumps. Neither figure says what the "
    "neurons do.",
)


def degrees_parts(tables: PageTables) -> Iterator[PagePart]:
    """The part of the table `degrees`."""
    numbers = ["mean", "std", "kurtosis", "nodes_counted", "p5", "p25", "p50", "p75", "p95"]
    data = in_order(rows_of(tables.table("degrees"), numbers, ["layer"]), tables)
    data = data[data[["mean", "p50", "kurtosis"]].notna().any(axis=1)].reset_index(drop=True)
    if data.empty:
        return
    data, note = within(data, "layer", _MOST_ROWS)
    data["place"] = numbers_of(data["layer"])[0]
    data["number"], labels = numbers_of(data["label"])
    charts = [*_percentiles(data[data["p50"].notna()].reset_index(drop=True)), *_kurtosis(data, labels)]
    if charts:
        text = (*_TEXT, *layer_words(data["layer"].unique()), *([note] if note else []))
        yield PagePart("degrees", "Degrees of neurons by layer", "structure", text, tuple(charts), ("degrees",))


def _percentiles(data: pd.DataFrame) -> Iterator[Chart]:
    """Median, quartiles and 5 to 95 % of one layer."""
    if data.empty:
        return
    data["entry"], layers = entries_of(data, "label", "layer")
    x = step_axis(steps_in(data))
    scale, title = alt.Scale(zero=False), "average weighted degree"
    tips = tooltip(
        "step:Q", "layer:N", model="label:N", median="p50:Q", mean="mean:Q", std="std:Q", p5="p5:Q", p25="p25:Q",
        p75="p75:Q", p95="p95:Q", kurtosis="kurtosis:Q", neurons="nodes_counted:Q",
    )  # fmt: skip
    base = alt.Chart(data).encode(x=x)
    named = tooltip("layer:N", model="label:N")
    marks = [
        base.mark_area(color=BLUE, opacity=opacity).encode(
            y=alt.Y(f"{low}:Q", title=title, scale=scale), y2=f"{high}:Q", tooltip=named
        )
        for low, high, opacity in (("p5", "p95", 0.18), ("p25", "p75", 0.3))
    ]
    median = alt.Y("p50:Q", title=title, scale=scale)
    marks.append(base.mark_line(color=BLUE, strokeWidth=2).encode(y=median, tooltip=named))
    marks.append(base.mark_point(color=BLUE, filled=True, size=46, opacity=0.95).encode(y=median, tooltip=tips))
    chart = fitted(alt.layer(*marks).transform_filter("datum.entry == layer")).add_params(
        choice("layer", layers, "layer")
    )
    first = data[data["entry"] == 0]
    yield Chart("degrees-layer", "Average weighted degree of one layer", chart,
                first_and_last(first, "p50", f"Median over the neurons of {layers[0]}"))  # fmt: skip


def _kurtosis(data: pd.DataFrame, labels: list[str]) -> Iterator[Chart]:
    """Kurtosis, layer by step, on a logarithmic scale about 3."""
    rows = data[data["kurtosis"] > 0].reset_index(drop=True)
    if rows.empty:
        return
    rows["excess"] = rounded(np.log(rows["kurtosis"] / NORMAL_KURTOSIS))
    chart = heat_map(
        rows,
        step_columns(),
        name_rows("layer", "place"),
        "excess",
        "kurtosis (3: normal)",
        tooltip("step:Q", "layer:N", model="label:N", kurtosis="kurtosis:Q", neurons="nodes_counted:Q"),
        where="datum.number == model" if len(labels) > 1 else None,
        label_expr=f"format({NORMAL_KURTOSIS:g} * exp(datum.value), '.2~g')",
    )
    chart = rows_high(chart, 16, rows.groupby("number")["layer"].nunique())
    chart = with_model_list(chart, labels)
    top = rows.iloc[int(rows["kurtosis"].argmax())]
    described = (
        f"Kurtosis of the average weighted degree of {rows['layer'].nunique()} layers at {rows['step'].nunique()} steps; "
        f"the largest is {top['kurtosis']:.3g}, in {top['layer']} of {top['label']} at step {top['step']:,}."
    )
    yield Chart("degrees-kurtosis", "Kurtosis of all layers", chart, described)
