"""Results that came with the models: beside E over training, and E against them."""

from collections.abc import Iterator
from typing import Any

import altair as alt
import pandas as pd

from ninscope.report.page.chart_data import METHODS, entries_of, evenly, in_order, numbers_of, rows_of, steps_in
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

_TASKS = {"held_out": "held-out", "eval": "evaluation", "train": "training"}  # as a reader calls them
_FIRST = (("held_out", "loss"), ("eval", "loss"), ("train", "loss"))  # what is shown to begin with
_MOST_ROWS = 15_000
_TEXT = (
    "Results that came with the models, of the task that the list chooses: beside E over training, and with E of the "
    "same step across. Each point of the second figure is a checkpoint; its line runs from the first step to the last.",
    "Two things that both rise or fall in training always go together, whether or not they have to do with each other: "
    "the number of the step goes with the result just as well. So a narrow line here is no evidence that E measures "
    "what was learned.",
)


def benchmarks_parts(tables: PageTables) -> Iterator[PagePart]:
    """The part of the table `benchmarks`, with E of the same checkpoints."""
    data, names = benchmark_data(tables)
    if data.empty:
        return
    text: tuple[str, ...] = _TEXT
    if len(data) > _MOST_ROWS:
        kept = evenly(range(len(names)), max(_MOST_ROWS * len(names) // len(data), 1))
        text = (*_TEXT, f"Shown are {len(kept)} of {len(names):,} results, evenly spaced; the table has all.")
        data = data[data["task"].isin(kept)].reset_index(drop=True)
        names = [names[number] for number in kept]
        data["task"] = data["task"].map({number: place for place, number in enumerate(kept)})
    charts = [_over_steps(data), *_across(data, tables)]
    yield PagePart("benchmarks", "Results beside E", "benchmarks", text, tuple(charts), ("benchmarks", "emergence"))


def benchmark_data(tables: PageTables) -> tuple[pd.DataFrame, list[str]]:
    """(a row a model, step and result; what results are called by number, the loss on held-out data first where there is one).

    Columns: step, label, number, result (its name), task (its number), value; and of E of the checkpoint emergence, low, high,
    method and warning, of the whole network where it was measured.
    """
    results = rows_of(tables.table("benchmarks"), ["value"], ["task", "metric"])
    results = results[results["value"].notna()].drop_duplicates(["label", "step", "task", "metric"], keep="last")
    pairs = list(dict.fromkeys(zip(results["task"], results["metric"], strict=True)))
    pairs.sort(key=lambda pair: _FIRST.index(pair) if pair in _FIRST else len(_FIRST))
    results["result"] = [
        f"{_TASKS.get(task, task)} {metric}" for task, metric in zip(results["task"], results["metric"], strict=True)
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
    names = [f"{_TASKS.get(task, task)} {metric}" for task, metric in pairs]
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


def _across(data: pd.DataFrame, tables: PageTables) -> Iterator[Chart]:
    """E against a result: points in the order of their steps."""
    rows = data[data["emergence"].notna()].reset_index(drop=True)
    if rows.empty:
        return
    rows["task"], names = numbers_of(rows["result"])
    chosen = legend_choice()
    x = alt.X("value:Q", title="result", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6, grid=False))
    y = alt.Y("emergence:Q", title="degree of emergence E", scale=alt.Scale(zero=False))
    base = alt.Chart(rows).transform_filter("datum.task == task").encode(x=x, y=y, color=colour_by_label(rows, tables))

    def strength(full: float) -> Any:
        return alt.condition(chosen, alt.value(full), alt.value(full / 8))

    line = base.mark_line(strokeWidth=1.5).encode(
        order=alt.Order("step:Q"), opacity=strength(0.7), tooltip=tooltip(model="label:N")
    )
    points = base.mark_point(filled=True, size=60).encode(
        opacity=strength(0.95), tooltip=_tips(),
        shape=alt.condition("length(datum.warning) > 0", alt.value("triangle-up"), alt.value("circle")),
    )  # fmt: skip
    chart = alt.layer(line, points.properties(name="acrossPoints")).add_params(chosen, *_tasks(names))
    first = rows[rows["task"] == 0]
    said = (
        f"E against {names[0]}, {len(first)} checkpoints: results from {_range(first['value'])}, "
        f"E from {_range(first['emergence'])}."
    )
    yield Chart(
        "benchmarks-across",
        "E against a result (triangles: with a warning)",
        fitted(chart, 320, _title()),
        said,
    )


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
