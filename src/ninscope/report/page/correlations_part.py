"""The part of report.html on measures against benchmark results: a list of tasks to choose from, and for one its correlations.

Names of models, tasks and measures stand in data, in an axis and in the words of a list; filters compare numbers.
"""

from collections.abc import Iterator, Sequence

import altair as alt
import pandas as pd

from ninscope.report.correlations_figure import KINDS, WARNING, measures_in_order, of_one_method, tasks_in_order
from ninscope.report.figures import benchmark_label
from ninscope.report.page.chart_data import rounded
from ninscope.report.page.charts import BLUE, GREEN, GREY, ORANGE, choice, fitted, legend_below, tooltip
from ninscope.report.page.parts import Chart, PagePart, PageTables
from ninscope.wording import listed

_MOST_MEASURES = 12
_MEASURE = 40  # pixels of a measure
_MOST_ROWS = 4800  # of the chart's data, about
_NAMES = {
    "levels": "levels",
    "differences": "differences",
    "partial": "levels given the step",
}  # short: a telephone is narrow
_SHADES = (GREEN, BLUE, ORANGE)  # mid-tones, on white and on near-black
_NUMBERS = ("value", "low", "high", "null_low", "null_high", "points", "lag", "lag_value", "lag_null")
_WHAT = (
    "Each line is a measure of the checkpoints, and its dots are rank correlations with one benchmark result over training: of "
    "the values themselves (levels), of how both change from one measured point to the next (differences), and of the values "
    "given the step. A coloured line is an interval by drawing blocks of neighbouring points anew."
)
_LAG = (
    "Lead or lag: a mark of differences shows under the pointer by how many measured points the measure leads the result (less "
    "than 0: it follows) where their changes go together most, and a note says where no lag stands out from chance."
)


def correlations_parts(tables: PageTables) -> Iterator[PagePart]:
    """The part of the table `correlations`, where a row has a value."""
    rows = tables.table("correlations")
    rows = rows[rows["kind"].notna() & rows["label"].isin(tables.labels)]
    rows = pd.concat([of_one_method(rows[rows["label"] == label]) for label in tables.labels]) if len(rows) else rows
    if not rows["value"].notna().any():
        return
    rows = rows.reset_index(drop=True)
    labels = [label for label in tables.labels if label in set(rows["label"])]
    every, measures = tasks_in_order(rows, tables.table("benchmarks")), measures_in_order(rows)
    most = max(_MOST_ROWS // (len(KINDS) * min(len(measures), _MOST_MEASURES) * len(labels)), 1)
    shown = every[:most]
    data = _data(rows, labels, shown, measures[:_MOST_MEASURES])
    more = [
        f"{count} more {what}"
        for count, what in ((len(measures) - _MOST_MEASURES, "measures"), (len(every) - len(shown), "results"))
        if count > 0
    ]
    beyond = (f"The table correlations has {' and '.join(more)}.",) if more else ()
    chart = Chart(
        "correlations",
        "Measures against benchmark results",
        _chart(data, labels, [benchmark_label(*names) for names in shown], measures[:_MOST_MEASURES]),
        "Rank correlations of measures of checkpoints with a benchmark result over training, beside what unrelated curves give. "
        + _outside(rows),
    )
    lag = (_LAG,) if rows["lag"].notna().any() else ()
    text = (WARNING, _WHAT, *lag, _outside(rows), *beyond)
    yield PagePart(
        "correlations", "Measures against benchmark results", "benchmarks", text, (chart,), ("correlations",)
    )


def _outside(rows: pd.DataFrame) -> str:
    """How many correlations of each kind lie beyond what unrelated curves give, in words."""
    clauses, without = [], []
    for kind, label, _ in KINDS:
        known = rows[(rows["kind"] == kind) & rows[["value", "null_low", "null_high"]].notna().all(axis=1)]
        beyond = (known["value"] < known["null_low"]) | (known["value"] > known["null_high"])
        if len(known):
            clauses.append(f"{int(beyond.sum())} of {len(known)} correlations of {label}")
        else:
            without.append(f" No correlation of {label} has a band; the table says why.")
    if not clauses:
        return "".join(without).strip()
    return (
        f"Outside their grey bands lie {listed(clauses)}. By chance about one in twenty does (at the default confidence), and "
        f"measures that move together do so together.{''.join(without)}"
    )


def _data(
    rows: pd.DataFrame, labels: Sequence[str], shown: Sequence[tuple[str, str]], measures: Sequence[str]
) -> pd.DataFrame:
    """Rows of the chart: number (of the model), task (number of the task and metric), names, a note and numbers."""
    order = {label: number for number, label in enumerate(labels)}
    places = {pair: number for number, pair in enumerate(shown)}
    pairs = zip(rows["task"], rows["metric"], strict=True)
    data = rows.assign(
        task=[places.get(pair, -1) for pair in pairs],
        result=[benchmark_label(*pair) for pair in zip(rows["task"], rows["metric"], strict=True)],
        number=rows["label"].map(order).astype("int64"),
        kind=rows["kind"].map(_NAMES),
        message=rows["message"].fillna(""),
        **{name: rounded(rows[name]) for name in _NUMBERS},
    )
    data = data[(data["task"] >= 0) & data["measure"].isin(measures)].sort_values(["number", "task"], kind="stable")
    texts = ["label", "result", "measure", "kind", "message"]
    return data[["number", "task", *texts, *_NUMBERS]].astype(dict.fromkeys(texts, object)).reset_index(drop=True)


def _chart(
    data: pd.DataFrame, labels: Sequence[str], results: Sequence[str], measures: Sequence[str]
) -> alt.TopLevelMixin:
    names = [_NAMES[kind] for kind, _, _ in KINDS]
    tips = tooltip(
        "measure:N", model="label:N", result="result:N", correlation_of="kind:N", value="value:Q", interval_from="low:Q",
        interval_to="high:Q", unrelated_curves_from="null_low:Q", unrelated_curves_to="null_high:Q", points="points:Q",
        points_by_which_the_measure_leads="lag:Q", correlation_there="lag_value:Q", by_chance_up_to="lag_null:Q",
        note="message:N",
    )  # fmt: skip
    parameters = [choice("task", results, "result")]
    where = "datum.task == task"
    if len(labels) > 1:
        parameters.append(choice("model", labels, "model"))
        where += " && datum.number == model"
    scale = alt.Scale(domain=[-1.02, 1.02], nice=False)
    base = (
        alt.Chart(data)
        .transform_filter(where)
        .encode(
            y=alt.Y("measure:N", sort=list(measures), title=None, axis=alt.Axis(labelLimit=125, grid=False)),
            yOffset=alt.YOffset("kind:N", sort=names, scale=alt.Scale(domain=names)),
            tooltip=tips,
        )
    )
    x = alt.X("value:Q", title="rank correlation", scale=scale, axis=alt.Axis(tickCount=5))
    colour = alt.Color("kind:N", scale=alt.Scale(domain=names, range=list(_SHADES)), legend=legend_below(names))
    band = alt.X("null_low:Q", title=x["title"], scale=scale)
    interval = alt.X("low:Q", title=x["title"], scale=scale)
    zero = (
        alt.Chart(pd.DataFrame({"at": [0.0]})).mark_rule(color=GREY, opacity=0.7).encode(x=alt.X("at:Q", scale=scale))
    )
    marks = [
        base.mark_rule(color=GREY, opacity=0.35, strokeWidth=8, strokeCap="square").encode(x=band, x2="null_high:Q"),
        zero,
        base.mark_rule(strokeWidth=2).encode(x=interval, x2="high:Q", color=colour),
        base.mark_point(filled=True, size=50, opacity=1).encode(x=x, color=colour),
    ]
    return fitted(alt.layer(*marks).add_params(*parameters), _MEASURE * len(measures) + 20)
