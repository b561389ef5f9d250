"""What E is made of: E of growth alone, E at fixed norms, the structure index, and the verdict."""

from collections.abc import Iterator

import altair as alt
import numpy as np
import pandas as pd

from ninscope.report.page.chart_data import drawn_ends, in_order, labels_in, numbers_of, rows_of, steps_in
from ninscope.report.page.charts import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    colour_by,
    colour_by_label,
    first_and_last,
    known_measures,
    lines,
    measured_lines,
    rows_high,
    step_axis,
    tooltip,
    with_model_list,
)
from ninscope.report.page.parts import Chart, PagePart, PageTables
from ninscope.wording import of_number

# (column, what its line is called, its colour)
_READINGS = (
    ("emergence", "E", BLUE),
    ("emergence_growth", "growth of norms alone", ORANGE),
    ("emergence_fixed", "at fixed norms", GREEN),
)
_MEASURES = (
    ("structure", "structure index ln(w / w shuffled)"),
    ("emergence", "E"),
    ("emergence_growth", "E of growth of norms alone"),
    ("emergence_fixed", "E at fixed norms"),
    ("alpha0_ratio", "first factor of E: alpha0(0) / alpha0"),
    ("width_ratio", "second factor of E: w / w(0)"),
    ("alpha0_unit", "alpha0 at unit norms"),
    ("width_unit", "w at unit norms"),
)
_VERDICTS = {"stands": GREEN, "fails": RED, "not known": GREY}
_TEXT = (
    "E rises when weights grow, whatever they do. Growth of norms alone is the E that the weights of the first step "
    "would have if each matrix were scaled to its size at this step. At fixed norms is the E of this step's weights, "
    "scaled back to their size at the first step. Where the orange line runs along the blue one, E tells of growth and "
    "little else.",
    "The structure index compares w at equal norms with w of the same weights in random places. It is not a measure of "
    "learning by itself: weights that were trained on bytes without any order have one too. Bands are intervals by "
    "leaving out one layer of neurons at a time; one that is cut off goes on.",
    'The verdict "stands" means that E of a step lies above all that gives E without learning: its interval lies above zero, and '
    "E above the null models, above growth of norms, and above what trainings reach that learn nothing. A step "
    "where one of these is not known, because the run lacks it, does not stand either. It does not "
    "correct for the number of steps.",
)


def controls_parts(tables: PageTables) -> Iterator[PagePart]:
    """The part of the table `controls`."""
    columns = [column for column, _ in _MEASURES]
    ends = [f"{column}_{end}" for column in columns for end in ("low", "high")]
    data = in_order(rows_of(tables.table("controls"), [*columns, *ends], ["verdict", "message", "baseline"]), tables)
    data = data.drop(columns=[end for end in ends if data[end].isna().all()])
    charts = [*_readings(data), *_all_models(data, tables), *_verdicts(data)]
    if charts:
        yield PagePart("controls", "What E is made of", "controls", _TEXT, tuple(charts), ("controls",))


def _readings(data: pd.DataFrame) -> Iterator[Chart]:
    """E, growth and fixed norms of one model, which a list chooses."""
    parts = [
        pd.DataFrame(
            {
                "step": data["step"], "label": data["label"], "reading": name, "value": data[column],
                "low": data.get(f"{column}_low", np.nan), "high": data.get(f"{column}_high", np.nan), "verdict": data["verdict"],
            }
        )
        for column, name, _ in _READINGS
    ]  # fmt: skip
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[rows["value"].notna()].reset_index(drop=True)
    if rows.empty:
        return
    rows["number"], labels = numbers_of(rows["label"])
    rows = drawn_ends(rows.rename(columns={"low": "value_low", "high": "value_high"}), ["value"], ["number"])
    chart = lines(
        rows,
        "readingPoints",
        step_axis(steps_in(rows)),
        alt.Y("value:Q", title="degree of emergence", scale=alt.Scale(zero=True)),
        colour_by("reading", [name for _, name, _ in _READINGS], {name: colour for _, name, colour in _READINGS}),
        tooltip(
            "step:Q",
            "reading:N",
            model="label:N",
            value="value:Q",
            low="value_low:Q",
            high="value_high:Q",
            verdict="verdict:N",
        ),
        series=("reading",),
        band=("value_from", "value_to"),
        toggle="reading",
        where="datum.number == model" if len(labels) > 1 else None,
    )
    chart = with_model_list(chart, labels)
    first = rows[rows["number"] == 0]
    yield Chart("controls-readings", "E, growth of norms alone, and E at fixed norms", chart,
                first_and_last(first, "value", labels[0], ("reading",)))  # fmt: skip


def _all_models(data: pd.DataFrame, tables: PageTables) -> Iterator[Chart]:
    """One control of all models together, which a list chooses."""
    measures = known_measures(data, _MEASURES)
    if not measures:
        return
    chart = measured_lines(
        drawn_ends(data, [column for column, _ in measures]),
        "controlPoints",
        measures,
        colour_by_label(data, tables),
        tips=tooltip(verdict="verdict:N", message="message:N"),
    )
    column, title = measures[0]
    yield Chart("controls-measures", "Controls of all models", chart, first_and_last(data, column, title))


def _verdicts(data: pd.DataFrame) -> Iterator[Chart]:
    """What the verdict says at every step, a row a model."""
    rows = data.loc[data["verdict"] != "", ["step", "label", "verdict", "emergence"]].reset_index(drop=True)
    if rows.empty:
        return
    first_words = rows["verdict"].str.partition(":")[0]
    rows["outcome"] = first_words.map({"stands": "stands", "fails": "fails"}).fillna("not known")
    there = [name for name in _VERDICTS if name in set(rows["outcome"])]
    shapes = {"stands": "circle", "fails": "cross", "not known": "diamond"}
    legend = alt.Legend(orient="bottom", title=None)
    labels = labels_in(rows)
    chart = (
        alt.Chart(rows)
        .mark_point(filled=True, size=110, opacity=0.95)
        .encode(
            x=step_axis(steps_in(rows)),
            y=alt.Y("label:N", sort=None, title=None, axis=alt.Axis(labelLimit=110) if len(labels) > 1 else None),
            color=alt.Color(
                "outcome:N", scale=alt.Scale(domain=there, range=[_VERDICTS[name] for name in there]), legend=legend
            ),
            shape=alt.Shape(
                "outcome:N", scale=alt.Scale(domain=there, range=[shapes[name] for name in there]), legend=legend
            ),
            tooltip=tooltip("step:Q", "verdict:N", model="label:N", E="emergence:Q"),
        )
    )
    chart = rows_high(chart, 30, [len(labels)])
    counts = rows["outcome"].value_counts()
    said = ", ".join(f"{name} at {counts[name]}" for name in there)
    over = of_number(len(rows), "checkpoint")
    yield Chart("controls-verdicts", "Verdict at each step", chart, f"The verdict on E over {over}: {said}.")
