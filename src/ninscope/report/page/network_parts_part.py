"""Where in a model E arises: blocks, kinds of layers and single layers by step, as heat maps."""

from collections.abc import Iterator

import altair as alt
import pandas as pd

from ninscope.report.analysis_rows import DEFAULT
from ninscope.report.page.chart_data import METHODS, in_order, numbers_of, rows_of, within
from ninscope.report.page.charts import (
    heat_map,
    name_rows,
    number_words,
    rows_high,
    step_columns,
    switch,
    tooltip,
    with_model_list,
)
from ninscope.report.page.parts import Chart, PagePart, PageTables

_GROUPINGS = {"block": "blocks", "kind": "kinds", "layer": "layers"}
# (column, title of the chart, the middle of its colours)
_SHOWN = (
    ("emergence", "E of each part", 0.0),
    ("alpha0", "Regularity alpha0 of each part", None),
    ("width", "Heterogeneity w of each part", None),
)
_MOST_ROWS = 12_000
_TEXT = (
    "Each row is a part of the network, analysed by itself: the layers of one block, all layers of one kind, or one "
    "layer. Each part is compared with the same part at the first step. Orange is E above 0, blue below, grey none; a "
    "small ring marks a cell that the tables warn of.",
    "E of the parts does not add up to E of the whole. A part has few neurons, so its numbers are less certain, and "
    "like E of the whole they follow the size of its weights.",
)


def network_parts(tables: PageTables) -> Iterator[PagePart]:
    """The part of the rows of the table `emergence` that are of parts of networks."""
    rows = tables.every_row("emergence")
    if "part" not in rows or "variant" not in rows:
        return
    rows = rows[(rows["variant"] == DEFAULT) & rows["part"].fillna("").str.contains("/")]
    data = in_order(rows_of(rows, [name for name, _, _ in _SHOWN], ["part", "method", "warning", "baseline"]), tables)
    if data.empty:
        return
    data = data[data["part"].str.partition("/")[0].isin(list(_GROUPINGS))]
    exact = set(data.loc[data["method"] == "exact", "label"])
    data = data[(data["method"] == "exact") | ~data["label"].isin(exact)].reset_index(drop=True)
    data["method"] = data["method"].map(METHODS).fillna(data["method"])
    if not data[[name for name, _, _ in _SHOWN]].notna().any(axis=None):
        return
    data, note = within(data, "part", _MOST_ROWS)
    split = data["part"].str.partition("/")
    there = [name for name in _GROUPINGS if name in set(split[0])]
    data["grouping"] = split[0].map({name: number for number, name in enumerate(there)})
    data["name"], data["place"] = split[2], numbers_of(data["part"])[0]
    data["number"], labels = numbers_of(data["label"])
    data["warned"] = (data["warning"] != "").astype("int64")
    groupings = [_GROUPINGS[name] for name in there]
    charts = [
        made for column, title, middle in _SHOWN for made in _heat_map(data, column, title, middle, groupings, labels)
    ]
    text = (*_TEXT, note) if note else _TEXT
    yield PagePart("parts", "Where in the model", "structure", text, tuple(charts), ("emergence",))


def _heat_map(
    data: pd.DataFrame, column: str, title: str, middle: float | None, groupings: list[str], labels: list[str]
) -> Iterator[Chart]:
    rows = data[data[column].notna()].reset_index(drop=True)
    if rows.empty:
        return
    clauses = ["datum.grouping == grouping"] if len(groupings) > 1 else []
    clauses += ["datum.number == model"] if len(labels) > 1 else []
    tips = tooltip("step:Q", part="part:N", model="label:N", E="emergence:Q", alpha0="alpha0:Q", w="width:Q", method="method:N",
                   warning="warning:N")  # fmt: skip
    short = title.partition(" of ")[0]
    x, y = step_columns(), name_rows("name", "place")
    cells = heat_map(rows, x, y, column, short, tips, middle=middle)
    marks = alt.Chart(rows).transform_filter("datum.warned == 1")
    marks = marks.mark_point(filled=True, size=16, fill="#f4f4f4", stroke="#444444", strokeWidth=1, opacity=0.9).encode(
        x=x, y=y, tooltip=tips
    )
    chart = alt.layer(cells, marks) if rows["warned"].any() else cells
    chart = chart.transform_filter(" && ".join(clauses)) if clauses else chart
    chart = rows_high(chart, 18, rows.groupby(["number", "grouping"])["name"].nunique())
    if len(groupings) > 1:
        chart = chart.add_params(switch("grouping", groupings, "parts"))
    chart = with_model_list(chart, labels)
    last = rows[(rows["number"] == 0) & (rows["grouping"] == 0)]
    last = last[last["step"] == last["step"].max()]
    ends = ", ".join(f"{row['name']} {number_words(row[column])}" for _, row in last.head(8).iterrows())
    at = f" at step {last['step'].iloc[0]:,}: {ends}" if len(last) else ""
    yield Chart(f"parts-{column}", title, chart, f"{title} of {labels[0]}{at}.")
