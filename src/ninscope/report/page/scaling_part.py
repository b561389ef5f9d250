"""How far power laws of growth hold: local slopes beside those of random weights, and other curves' fits."""

from collections.abc import Iterator

import altair as alt
import pandas as pd

from ninscope.report.page.chart_data import (
    drawn_ends,
    entries_of,
    in_order,
    labels_in,
    rounded,
    rows_of,
    step_places,
    steps_in,
    within,
)
from ninscope.report.page.charts import (
    BLUE,
    GREY,
    ORANGE,
    choice,
    colour_by_label,
    dashes,
    fitted,
    lines,
    number_words,
    step_axis,
    step_slider,
    step_title,
    tooltip,
)
from ninscope.report.page.parts import Chart, PagePart, PageTables

_CURVES = {"aic_exponential": "exponential", "aic_lognormal": "log-normal"}
_MOST_ROWS = 40_000
_TEXT = (
    "The whole method rests on power laws: the number of neurons within a distance r should grow as a power of r, so "
    "that the line of local slopes is flat. The dashed line is the slope that is fitted to all radii; the shaded "
    "strip, where there is one, holds the radii at which local slopes are within 10 % of it.",
    "The grey band is where 95 of 100 networks of random (Gaussian) weights of the same size lie. Where the line runs "
    "inside the band, the curve's form is that of random weights.",
    "The last figure compares fits by AIC: below 0 a curve without any power law fits better than the power law. "
    "Neighbouring radii hang together, so the differences are no probabilities.",
)


def scaling_parts(tables: PageTables) -> Iterator[PagePart]:
    """The part of the tables `scaling` and `scaling_curves`."""
    curves = in_order(
        _curve_rows(tables.table("scaling_curves"), ["radius", "value", "slope", "null_low", "null_high"]), tables
    )
    curves = curves[(curves["radius"] > 0) & (curves["slope"].notna() | curves["value"].notna())].reset_index(drop=True)
    fits = in_order(_curve_rows(tables.table("scaling"), ["slope", "range_low", "range_high", *_CURVES]), tables)
    charts: list[Chart] = []
    note = ""
    if len(curves):
        curves, note = within(curves, "curve", _MOST_ROWS, few=2)
        charts += _by_radius(curves, fits)
    charts += _fits(fits, tables)
    if charts:
        text = (*_TEXT, note) if note else _TEXT
        yield PagePart(
            "scaling", "Do power laws hold?", "structure", text, tuple(charts), ("scaling", "scaling_curves")
        )


def _curve_rows(table: pd.DataFrame, numbers: list[str]) -> pd.DataFrame:
    """Rows of one of the tables as data, with the column `curve`, what a reader calls the curve."""
    rows = rows_of(table, [*numbers, "q"], ["quantity", "neuron"])
    q = pd.Series([f"{value:g}" for value in rows["q"]], rows.index, dtype=object)
    names = {"mass": "mean ln N", "z": "ln Z, q = " + q, "neuron": "ln N of neuron " + rows["neuron"]}
    rows["curve"] = rows["quantity"]
    for quantity, name in names.items():
        rows["curve"] = rows["curve"].where(rows["quantity"] != quantity, name)
    return rows.drop(columns=["q", "quantity", "neuron"])


def _by_radius(curves: pd.DataFrame, fits: pd.DataFrame) -> Iterator[Chart]:
    """Local slopes, and the curves themselves, of one curve of one model at the step of the slider."""
    curves = curves.rename(columns={"null_low": "slope_low", "null_high": "slope_high"})
    curves["kind"], names = entries_of(curves, "label", "curve")
    curves["place"], steps = step_places(curves)
    curves = drawn_ends(curves, ["slope"], ["kind", "step"])
    for end in ("slope_from", "slope_to"):  # of neurons, which have no null band, there is one of no height
        curves[end] = curves[end].fillna(curves["slope"])
    keys = ["label", "curve", "step"]
    known = curves[[*keys, "kind", "place"]].drop_duplicates(keys)
    fits = fits[fits["slope"].notna()].drop(columns=[*_CURVES, "number"]).merge(known, on=keys)
    where = "datum.place == at && datum.kind == curve"
    radii = [float(curves["radius"].min()), float(curves["radius"].max())]
    x = alt.X("radius:Q", title="radius r (log axis)", scale=alt.Scale(type="log", domain=radii, nice=False),
              axis=alt.Axis(labelOverlap="greedy", labelSeparation=4, grid=False, format="~s"))  # fmt: skip
    parameters = [choice("curve", names, "curve"), *step_slider("at", steps)]
    tips = tooltip("step:Q", "curve:N", "radius:Q", model="label:N", local_slope="slope:Q", random_low="slope_low:Q",
                   random_high="slope_high:Q", value="value:Q")  # fmt: skip
    named = tooltip("step:Q", "curve:N", model="label:N")
    points = alt.Chart(curves).encode(x=x)
    ordinate = alt.Y("slope:Q", title="local slope", scale=alt.Scale(zero=False))
    marks = [
        points.mark_line(color=BLUE, strokeWidth=2).encode(y=ordinate, tooltip=named),
        points.mark_point(color=BLUE, filled=True, size=26, opacity=0.9).encode(y=ordinate, tooltip=tips),
    ]
    if curves["slope_low"].notna().any():
        band = alt.Y("slope_from:Q", title="local slope", scale=alt.Scale(zero=False))
        marks.insert(0, points.mark_area(color=GREY, opacity=0.35).encode(y=band, y2="slope_to:Q", tooltip=named))
    layers = [alt.layer(*marks).transform_filter(where)]
    if len(fits):
        strips = alt.Chart(fits).transform_filter(where)
        about = [*named, *tooltip(fitted_slope="slope:Q", range_from="range_low:Q", range_to="range_high:Q")]
        layers.append(
            strips.mark_rule(color=ORANGE, strokeDash=[6, 4], strokeWidth=1.5).encode(y=ordinate, tooltip=about)
        )
        within_range = alt.X("range_low:Q", title=x["title"], scale=x["scale"])
        layers.insert(
            0, strips.mark_rect(color=ORANGE, opacity=0.25).encode(x=within_range, x2="range_high:Q", tooltip=about)
        )
    chart = fitted(alt.layer(*layers), title=step_title("at")).add_params(*parameters)
    yield Chart("scaling-slopes", "Local slopes beside those of random weights", chart, _said(fits, names[0]))
    if curves["value"].notna().any():
        value = alt.Y("value:Q", title="value of the curve", scale=alt.Scale(zero=False))
        line = points.mark_line(color=BLUE, strokeWidth=2).encode(y=value, tooltip=named)
        dots = points.mark_point(color=BLUE, filled=True, size=26, opacity=0.9).encode(y=value, tooltip=tips)
        both = alt.layer(line, dots).transform_filter(where)
        chart = fitted(both, title=step_title("at")).add_params(*parameters)
        yield Chart("scaling-curves", "The curves themselves: straight where a power law holds", chart,
                    f"{names[0]} against the logarithm of the radius, at {len(steps)} steps.")  # fmt: skip


def _said(fits: pd.DataFrame, name: str) -> str:
    first = fits[fits["kind"] == 0].sort_values("step", kind="stable")
    said = f"Local slopes of {name}"
    if first.empty:
        return f"{said}; no slope is fitted."
    ends = " and ".join(f"{number_words(row.slope)} at step {row.step:,}" for row in first.iloc[[0, -1]].itertuples())
    return f"{said}; the fitted slope is {ends}."


def _fits(fits: pd.DataFrame, tables: PageTables) -> Iterator[Chart]:
    """AIC of other curves less that of the power law, over training."""
    parts = [
        pd.DataFrame({"step": fits["step"], "label": fits["label"], "curve": name, "value": rounded(fits[column])})
        for column, name in _CURVES.items()
    ]
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[rows["value"].notna()].reset_index(drop=True)
    if rows.empty:
        return
    rows = in_order(rows, tables)
    used = [name for name in _CURVES.values() if name in set(rows["curve"])]
    chart = lines(
        rows, "fitPoints", step_axis(steps_in(rows)), alt.Y("value:Q", title="AIC less that of the power law"),
        colour_by_label(rows, tables), tooltip("step:Q", "curve:N", model="label:N", difference="value:Q"),
        series=("label", "curve"), dash=dashes("curve", used), zero=0.0,
    )  # fmt: skip
    last = (
        rows[(rows["label"] == labels_in(rows)[0])]
        .sort_values("step", kind="stable")
        .groupby("curve", sort=False)
        .tail(1)
    )
    ends = ", ".join(f"{row.curve} {number_words(row.value)}" for row in last.itertuples())
    yield Chart("scaling-fits", "Other curves against the power law (below 0: the other curve fits better)", chart,
                f"AIC less that of the power law, of {labels_in(rows)[0]} at the last step: {ends}.")  # fmt: skip
