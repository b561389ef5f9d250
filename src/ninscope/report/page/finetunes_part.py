"""Fine-tunes side by side: every method's score at the end, and the course of fine-tuning."""

from collections.abc import Iterator

import altair as alt
import pandas as pd

from ninscope.report.page.chart_data import drawn_ends, evenly, in_order, numbers_of, rounded, rows_of
from ninscope.report.page.charts import (
    GREEN,
    GREY,
    OCHRE,
    PINK,
    choice,
    chosen_title,
    colour_by,
    fitted,
    known_measures,
    measured_lines,
    number_words,
    tooltip,
)
from ninscope.report.page.parts import Chart, PagePart, PageTables

_METHODS = {
    "none": "no MEmeL", "naive_mean": "naive (a): mean", "naive_shift": "naive (b): shift", "reversed": "reversed "
    "(MEmeL)",
}  # fmt: skip
_SHADES = {
    "no MEmeL": GREY, "naive (a): mean": OCHRE, "naive (b): shift": PINK, "reversed (MEmeL)": GREEN,
}  # fmt: skip
_COURSE = (
    ("value", "score"),
    ("phi_p99", "monosemantic scale phi, 99th percentile"),
    ("emergence_from_base", "E of the fine-tuned weights against the base"),
)
_KEYS = ["label", "revision", "task", "method", "learning_rate"]
_MOST_ROWS = 8_000
_TEXT = (
    "Each checkpoint was fine-tuned with every method, from the same start and on the same examples, once a seed. Bars "
    "are one standard deviation over seeds about their mean; small dots are seeds. Each method has the learning rate "
    "that it did best with.",
    "A difference that is small beside the bars may be none. p-values, under the pointer, are of paired tests over few "
    "seeds, and not corrected for how many there are. phi says how much single neurons stand out; E here compares with "
    "the weights before fine-tuning.",
)


def finetunes_parts(tables: PageTables) -> Iterator[PagePart]:
    """The part of the tables `finetunes` and `comparisons`."""
    numbers = [
        "learning_rate",
        "finetune_step",
        "seeds",
        "mean",
        "std",
        "difference",
        "p_value",
        "phi_p99",
        "emergence_from_base",
    ]
    ends = in_order(rows_of(tables.table("comparisons"), numbers, ["revision", "task", "metric", "method"]), tables)
    ends = ends[ends["mean"].notna()].reset_index(drop=True)
    if ends.empty:
        return
    ends["score"], scores = numbers_of(_scores(ends))
    runs = _runs(tables, ends)
    charts = [_ends(ends, runs, scores), *_courses(runs, scores)]
    yield PagePart(
        "finetunes", "Fine-tunes", "models that were run", _TEXT, tuple(charts), ("finetunes", "comparisons")
    )


def _scores(rows: pd.DataFrame) -> pd.Series:
    """What a score of a task is called, of several models with the model."""
    names = rows["task"] + ": " + rows["metric"]
    return names if rows["label"].nunique() == 1 else rows["label"] + ", " + names


def _runs(tables: PageTables, ends: pd.DataFrame) -> pd.DataFrame:
    """Evaluations of the fine-tunes that are compared: at each method's learning rate."""
    numbers = ["learning_rate", "finetune_step", "seed", "value", "phi_p99", "emergence_from_base"]
    rows = rows_of(tables.table("finetunes"), numbers, ["revision", "task", "metric", "method"])
    rows = rows[rows["value"].notna() & rows["finetune_step"].notna()]
    chosen = ends[[*_KEYS, "metric", "score"]].drop_duplicates()
    return rows.merge(chosen, on=[*_KEYS, "metric"]).reset_index(drop=True)


def _ends(ends: pd.DataFrame, runs: pd.DataFrame, scores: list[str]) -> Chart:
    """Scores at the end, by the checkpoint that was fine-tuned and by method."""
    ends = ends.assign(method=ends["method"].map(_METHODS).fillna(ends["method"]))
    ends["low"], ends["high"] = (rounded(ends["mean"] + sign * ends["std"].fillna(0)) for sign in (-1, 1))
    methods = [name for name in _SHADES if name in set(ends["method"])]
    methods += [name for name in dict.fromkeys(ends["method"]) if name not in methods]
    last = runs.merge(
        ends[["label", "revision", "task", "metric", "learning_rate", "finetune_step"]].drop_duplicates(),
        on=["label", "revision", "task", "metric", "learning_rate", "finetune_step"],
    )
    last = last.assign(method=last["method"].map(_METHODS).fillna(last["method"]))
    order = alt.EncodingSortField("step", op="min")
    x = alt.X("revision:N", sort=order, title="fine-tuned from", axis=alt.Axis(labelAngle=0, labelLimit=90))
    beside = alt.XOffset("method:N", scale=alt.Scale(domain=methods))
    colour = colour_by("method", methods, {name: shade for name, shade in _SHADES.items() if name in methods})
    scale = alt.Scale(zero=False)
    tips = tooltip("step:Q", "method:N", "revision:N", model="label:N", mean="mean:Q", std="std:Q", seeds="seeds:Q",
                   difference_to_none="difference:Q", p="p_value:Q", learning_rate="learning_rate:Q", phi_p99="phi_p99:Q",
                   E_from_base="emergence_from_base:Q")  # fmt: skip
    base = alt.Chart(ends).encode(x=x, xOffset=beside, color=colour)
    bars = base.mark_rule(strokeWidth=2).encode(
        y=alt.Y("low:Q", title="score, held out", scale=scale), y2="high:Q", tooltip=tips
    )
    means = base.mark_point(filled=True, size=110, shape="diamond", opacity=0.95).encode(
        y=alt.Y("mean:Q", title="score, held out", scale=scale), tooltip=tips
    )
    marks = [alt.layer(bars, means).transform_filter("datum.score == score")]
    if len(last):
        dots = alt.Chart(last).transform_filter("datum.score == score").mark_point(filled=True, size=22, opacity=0.6)
        seed_tips = tooltip("step:Q", "method:N", "seed:Q", model="label:N", value="value:Q")
        marks.append(dots.encode(x=x, xOffset=beside, color=colour, y=alt.Y("value:Q", scale=scale), tooltip=seed_tips))
    chart = fitted(alt.layer(*marks)).add_params(
        alt.param(name="scores", value=scores), choice("score", scores, "score")
    )
    chart = chart.properties(title=chosen_title("scores[score]"))
    first = ends[ends["score"] == 0]
    means_said = ", ".join(
        f"{row.method} from {row.revision} {number_words(row.mean)}" for row in first.head(8).itertuples()
    )
    return Chart("finetunes-ends", "Scores at the end", chart, f"Mean score at the end, {scores[0]}: {means_said}.")


def _courses(runs: pd.DataFrame, scores: list[str]) -> Iterator[Chart]:
    """Means over seeds against updates, of one checkpoint, task and score."""
    if runs.empty:
        return
    keys = ["score", "label", "revision", "step", "method", "finetune_step"]
    columns = [column for column, _ in _COURSE]
    grouped = runs.groupby(keys, sort=False)[columns]
    means, spread = grouped.mean().reset_index(), grouped.std().reset_index()
    for column in columns:
        means[f"{column}_low"] = rounded(means[column] - spread[column])
        means[f"{column}_high"] = rounded(means[column] + spread[column])
        means[column] = rounded(means[column])
    means = means.sort_values(["score", "step", "method", "finetune_step"], kind="stable", ignore_index=True)
    names = pd.Series(scores).reindex(means["score"]).reset_index(drop=True) + ", from " + means["revision"]
    means["course"], courses = numbers_of(names)
    if len(means) > _MOST_ROWS:  # a list of so many is of no use to a reader either
        kept = evenly(range(len(courses)), max(len(courses) * _MOST_ROWS // len(means), 1))
        means = means[means["course"].isin(kept)].reset_index(drop=True)
        means["course"], courses = numbers_of(pd.Series(courses).reindex(means["course"]).reset_index(drop=True))
    means["method"] = means["method"].map(_METHODS).fillna(means["method"])
    means = means.drop(columns=["score", "step"]).rename(columns={"finetune_step": "step"})
    measures = known_measures(means, _COURSE)
    methods = list(dict.fromkeys(means["method"]))
    means = drawn_ends(means, [column for column, _ in measures], ["course"])
    last = max(float(means["step"].max()), 1.0)
    x = alt.X("step:Q", title="updates", scale=alt.Scale(domain=[0, last], nice=False),
              axis=alt.Axis(grid=False, tickCount=6))  # fmt: skip
    shades = {name: shade for name, shade in _SHADES.items() if name in methods}
    chart = measured_lines(
        means, "coursePoints", measures, colour_by("method", methods, shades), series=("method",), toggle="method",
        where="datum.course == course", x=x, tips=tooltip(base="revision:N"),
    ).add_params(choice("course", courses, "of"))  # fmt: skip
    first = means[means["course"] == 0].sort_values("step", kind="stable")
    ends = "; ".join(
        f"{method}: {number_words(rows['value'].iloc[0])} at the start, {number_words(rows['value'].iloc[-1])} after "
        f"{rows['step'].iloc[-1]:g} updates"
        for method, rows in first.groupby("method", sort=False)
    )
    yield Chart("finetunes-course", "The course of fine-tuning (means over seeds; bands: one standard deviation)", chart,
                f"{courses[0]}: {ends}.")  # fmt: skip
