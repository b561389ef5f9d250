"""Results that came with the models: beside E over training, and E against them."""

from collections.abc import Iterator
from typing import Any

import altair as alt
import pandas as pd

from ninscope.report.correlations_figure import measures_in_order
from ninscope.report.figures import benchmark_label
from ninscope.report.page.chart_data import METHODS, entries_of, in_order, rounded, rows_of, steps_in
from ninscope.report.page.charts import (
    GREEN,
    ORANGE,
    choice,
    chosen_title,
    colour_by_label,
    first_and_last,
    fitted,
    legend_choice,
    number_words,
    step_axis,
    tooltip,
)
from ninscope.report.page.parts import Chart, PagePart, PageTables
from ninscope.report.result_order import ORDER, results_in_order

_MOST_ROWS = 27_000  # a row a result of a checkpoint: 170 results of 154 checkpoints are fewer
_MOST_CELLS = 60_000  # of measures of checkpoints
_TEXT = (
    "Results that came with the models, of the task that the list chooses: beside E over training, and with a measure of "
    "the same step across, E or any other. Each point of the second figure is a checkpoint; its line runs from the first "
    f"step to the last. {ORDER}",
    "Two things that both rise or fall in training always go together, whether or not they have to do with each other: "
    "the number of the step goes with the result just as well. So a narrow line here is no evidence that E, or another "
    "measure, tells what was learned.",
)


def benchmarks_parts(tables: PageTables) -> Iterator[PagePart]:
    """The part of the table `benchmarks`, with E and every other measure of the same checkpoints."""
    data, names = benchmark_data(tables)
    if data.empty:
        return
    beyond = []
    count = max(_MOST_ROWS * len(names) // len(data), 1)
    if count < len(names):
        beyond.append(f"The lists have the first {count:,} of {len(names):,} results; the table benchmarks has all.")
        data, names = data[data["task"] < count].reset_index(drop=True), names[:count]
    checkpoints = data[["label", "number", "step", "warning"]].drop_duplicates(["label", "step"])
    known = tables.measured().merge(checkpoints[["label", "step"]], on=["label", "step"])
    measures = measures_in_order(known)
    most = max(_MOST_CELLS // len(checkpoints), 1)
    if most < len(measures):
        beyond.append(f"The list of measures has the first {most:,} of {len(measures):,}; the tables have all.")
    charts = [_over_steps(data), *_across(data, names, known, measures[:most], tables)]
    text = (*_TEXT, " ".join(beyond)) if beyond else _TEXT
    shown = known[known["measure"].isin(measures[:most])]["table"]
    drawn_from = tuple(dict.fromkeys(("benchmarks", "emergence", *shown)))
    yield PagePart("benchmarks", "Results beside E", "benchmarks", text, tuple(charts), drawn_from)


def benchmark_data(tables: PageTables) -> tuple[pd.DataFrame, list[str]]:
    """(a row a model, step and result; what results are called by number, in the order of `results_in_order`).

    Columns: step, label, number, result (its name), task (its number), value; and of E of the checkpoint emergence, low, high,
    method and warning, of the whole network where it was measured.
    """
    results = rows_of(tables.table("benchmarks"), ["value"], ["task", "metric"])
    results = results[results["value"].notna()].drop_duplicates(["label", "step", "task", "metric"], keep="last")
    there = set(zip(results["task"], results["metric"], strict=True))
    pairs = [pair for pair in results_in_order(tables.table("benchmarks")) if pair in there]
    results["result"] = [
        benchmark_label(task, metric) for task, metric in zip(results["task"], results["metric"], strict=True)
    ]
    places = {pair: number for number, pair in enumerate(pairs)}
    results["task"] = [places[pair] for pair in zip(results["task"], results["metric"], strict=True)]
    numbers = ["emergence", "emergence_low", "emergence_high"]
    own = rows_of(tables.table("emergence"), numbers, ["method", "warning"])
    own = own.sort_values("method", key=lambda names: names != "exact", kind="stable").drop_duplicates(
        ["label", "step"]
    )
    own = own.assign(method=own["method"].map(METHODS).fillna(own["method"]))
    own = own.rename(columns={"emergence_low": "low", "emergence_high": "high"})
    data = in_order(results.drop(columns="metric").merge(own, on=["label", "step"], how="left"), tables)
    data = data.assign(method=data["method"].fillna(""), warning=data["warning"].fillna(""))
    names = [benchmark_label(*pair) for pair in pairs]
    return data.sort_values(["task", "number", "step"], kind="stable", ignore_index=True), names


def _over_steps(data: pd.DataFrame) -> Chart:
    """One result and E of one model, each on an ordinate of its own."""
    rows = data.drop(columns=["low", "high"])
    rows["task"], entries = entries_of(rows, "label", "result")
    base = alt.Chart(rows).transform_filter("datum.task == task").encode(x=step_axis(steps_in(rows)))
    tips = _tips()
    named = tooltip(model="label:N", result="result:N")

    def marks(field: str, title: str, colour: str, text: str, dash: list[int], shape: str) -> Any:
        y = alt.Y(f"{field}:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(titleColor=text, tickCount=5))
        known = base.transform_filter(f"isValid(datum.{field})")  # a step without E does not break the line of E
        line = known.mark_line(color=colour, strokeWidth=2, strokeDash=dash).encode(y=y, tooltip=named)
        points = known.mark_point(color=colour, filled=True, size=50, shape=shape, opacity=0.95).encode(
            y=y, tooltip=tips
        )
        return alt.layer(line, points)

    both = [marks("value", "result (squares, dashed)", ORANGE, "var(--series-2)", [6, 4], "square")]
    if rows["emergence"].notna().any():
        both.insert(0, marks("emergence", "E (circles)", GREEN, "var(--series-3)", [1, 0], "circle"))
    chart = fitted(alt.layer(*both).resolve_scale(y="independent"), title=_title()).add_params(*_tasks(entries))
    first = rows[rows["task"] == 0]
    said = first_and_last(first, "value", f"{first['result'].iloc[0].capitalize()}, beside E,")
    return Chart("benchmarks-steps", "A result beside E over training", chart, said)


def _across(
    data: pd.DataFrame, names: list[str], known: pd.DataFrame, measures: list[str], tables: PageTables
) -> Iterator[Chart]:
    """A measure against a result: points in the order of their steps. known: of the measures, rows of the checkpoints of data."""
    if not measures:
        return
    rows = _by_checkpoint(data, known, measures)
    own = [int((known.loc[known["measure"] == name, "table"] == "emergence").any()) for name in measures]
    chosen = legend_choice()
    x = alt.X("result:Q", title="result", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6, grid=False))
    y = alt.Y("value:Q", title="measure", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))
    base = (
        alt.Chart(rows)
        .transform_calculate(
            result="datum['r' + task]",
            value="datum['m' + measure]",
            how="datum['h' + measure]",
            note=f"{own}[measure] ? datum.warning : ''",  # a warning is of E's table, and says nothing of other measures
            of="tasks[task]",
            what="measures[measure]",
        )
        .transform_filter("isValid(datum.result) && isValid(datum.value)")
        .encode(x=x, y=y, color=colour_by_label(rows, tables))
    )

    def strength(full: float) -> Any:
        return alt.condition(chosen, alt.value(full), alt.value(full / 8))

    line = base.mark_line(strokeWidth=1.5).encode(
        order=alt.Order("step:Q"), opacity=strength(0.7), tooltip=tooltip(model="label:N")
    )
    tips = tooltip(
        "step:Q", model="label:N", result="of:N", its_value="result:Q", measure="what:N", value="value:Q", of="how:N",
        warning="note:N",
    )  # fmt: skip
    points = base.mark_point(filled=True, size=60).encode(
        opacity=strength(0.95), tooltip=tips,
        shape=alt.condition("length(datum.note) > 0", alt.value("triangle-up"), alt.value("circle")),
    )  # fmt: skip
    lists = [alt.param(name="measures", value=measures), choice("measure", measures, "measure"), *_tasks(names)]
    chart = alt.layer(line, points.properties(name="acrossPoints")).add_params(chosen, *lists)
    title = chosen_title("[measures[measure] + ' (up)', 'against ' + tasks[task] + ' (across)']")
    first = rows.dropna(subset=["m0", "r0"])
    said = f"{measures[0]} against {names[0]}, {len(first)} checkpoints" + (
        f": results from {_range(first['r0'])}, {measures[0]} from {_range(first['m0'])}." if len(first) else "."
    )
    yield Chart(
        "benchmarks-across",
        "A measure against a result (triangles: with a warning)",
        fitted(chart, 320, title),
        said,
    )


def _by_checkpoint(data: pd.DataFrame, known: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """A row a checkpoint: label, step, warning; r0, r1, ... of results and m0, m1, ... of measures by their numbers.

    h0, h1, ... say how a measure was measured, where that is known: of the whole network where it was, else of samples. Side by
    side, 170 results and 35 measures are 240 columns; a row for each pair of them would be 6,000 times as many rows.
    """
    keys = ["label", "step"]
    rows = data.drop_duplicates(keys).sort_values(["number", "step"], kind="stable").set_index(keys)[["warning"]]
    numbers = {name: number for number, name in enumerate(measures)}
    known = known[known["measure"].isin(numbers) & known["value"].notna()]
    known = known.assign(place=known["measure"].map(numbers), value=rounded(known["value"]))
    known = known.sort_values("method", key=lambda names: names != "exact", kind="stable")
    known = known.drop_duplicates([*keys, "place"])
    known["how"] = known["method"].map(METHODS).fillna(known["method"])
    results = data.pivot(index=keys, columns="task", values="value").add_prefix("r")
    values = known.pivot(index=keys, columns="place", values="value").add_prefix("m")
    how = known[known["how"] != ""].pivot(index=keys, columns="place", values="how").add_prefix("h").fillna("")
    return rows.join([results, values, how]).reset_index()


def _range(values: pd.Series) -> str:
    """ "1.19 to 5.79" """
    return f"{number_words(values.min())} to {number_words(values.max())}"


def _tips() -> list[alt.Tooltip]:
    return tooltip(
        "step:Q", "result:N", model="label:N", value="value:Q", E="emergence:Q", of="method:N", warning="warning:N"
    )


def _tasks(names: list[str]) -> list[alt.Parameter]:
    return [alt.param(name="tasks", value=names), choice("task", names, "result")]


def _title() -> alt.Title:
    return chosen_title("tasks[task]")
