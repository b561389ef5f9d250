"""Spectra over training: f(alpha) and tau(q) at the step of a slider, with the spread over samples and other steps beside."""

from collections.abc import Iterator
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from ninscope.report.page.chart_data import SAMPLES, WHOLE, domain_of, evenly, in_order, rounded, step_places
from ninscope.report.page.charts import (
    and_more,
    colour_by_label,
    fitted,
    legend_choice,
    number_words,
    step_slider,
    step_title,
    switch,
    tooltip,
)
from ninscope.report.page.parts import Chart, PagePart, PageTables

_FADED = 24  # lines of other steps that one method has in a chart, of all models together
_HEIGHT = 320
_ENDS = ("f_low", "f_high", "tau_low", "tau_high")
_TEXT = (
    "The multifractal spectrum f(alpha) says which local growth exponents alpha the neurons of the network have, and "
    "how large the share of each is. The dot is its peak, at alpha0; w is how wide the curve is. tau(q), the mass "
    "exponent, is the same in other variables: alpha is its slope. A straight tau(q) is a network whose neurons are "
    "all alike.",
    "Move the slider to see the network at another step; pale lines are other steps of the same training. A model that "
    "was not measured at the step of the slider has pale lines only. A band is "
    "one standard deviation over samples of neurons, where the run drew samples. A dashed line with a triangle is a "
    "spectrum that the tables warn of.",
    "The form of a spectrum rests on power laws that hold but roughly (r2 in the tables says how well), and it changes "
    "with the size of weights alone.",
)


def spectra_parts(tables: PageTables) -> Iterator[PagePart]:
    """The part of the table `spectra`; warnings come from `emergence`."""
    data = spectra_data(tables)
    if data.empty:
        return
    data["place"], steps = step_places(data)
    methods = [name for number, name in enumerate((WHOLE, SAMPLES)) if (data["method"] == number).any()]
    data["method"] = data["method"] if len(methods) == 2 else 0
    data = data.drop(columns=["number", *(name for name in _ENDS if data[name].isna().all())])
    faded = _faded(data)
    described = _described(data)
    charts = []
    for name, title, x, y in (
        ("spectra-f", "Spectrum f(alpha) by step", ("alpha", "Lipschitz–Hölder exponent alpha"), ("f", "f(alpha)")),
        ("spectra-tau", "Mass exponent tau(q) by step", ("q", "q"), ("tau", "mass exponent tau(q)")),
    ):
        chart = _chart(data, faded, x, y, steps, methods, tables)
        charts.append(Chart(name, title, chart, f"{title}. {described}"))
    yield PagePart("spectra", "Spectra over training", "spectra", _TEXT, tuple(charts), ("spectra", "samples"))


def spectra_data(tables: PageTables) -> pd.DataFrame:
    """A row a model, method (0: whole network, 1: mean over samples), step and q, with one standard deviation about means.

    Columns: step, label, number, method, q, alpha, f, tau, f_low, f_high, tau_low, tau_high, peak (1 at the largest f), warned
    (1 where the table `emergence` warns of it).
    """
    rows = tables.table("spectra")
    rows = rows[rows["step"].notna() & rows["alpha"].notna() & rows["f"].notna()]
    columns = ["label", "method", "step", "q", "alpha", "f", "tau", "f_std", "tau_std"]
    if rows.empty:
        return pd.DataFrame(columns=columns)
    plain = pd.DataFrame(
        {
            "label": rows["label"].astype(str), "method": (rows["sample"].to_numpy() >= 0).astype("int64"),
            "step": rows["step"].astype("int64"), "q": rows["q"], "alpha": rows["alpha"], "f": rows["f"], "tau": rows["tau"],
        }
    )  # fmt: skip
    keys = ["label", "method", "step", "q"]
    whole = plain[plain["method"] == 0]
    grouped = plain[plain["method"] == 1].groupby(keys, sort=False)
    means = grouped[["alpha", "f", "tau"]].mean().join(grouped[["f", "tau"]].std().add_suffix("_std")).reset_index()
    data = pd.concat([whole.assign(f_std=np.nan, tau_std=np.nan), means], ignore_index=True)[columns]
    data["peak"] = _peaks(data)
    for name in ("f", "tau"):
        spread = data.pop(f"{name}_std")
        data[f"{name}_low"], data[f"{name}_high"] = rounded(data[name] - spread), rounded(data[name] + spread)
    for name in ("q", "alpha", "f", "tau"):
        data[name] = rounded(data[name])
    data["warned"] = _warned(data, tables)
    data = in_order(data, tables)
    return data.sort_values(["number", "method", "step", "q"], kind="stable", ignore_index=True)


def _peaks(data: pd.DataFrame) -> np.ndarray:
    """1 in the row of the largest f of a spectrum, int64 [rows]."""
    largest = data.groupby(["label", "method", "step"], sort=False)["f"].idxmax()
    peaks = np.zeros(len(data), dtype=np.int64)
    peaks[data.index.get_indexer(pd.Index(largest))] = 1
    return peaks


def _warned(data: pd.DataFrame, tables: PageTables) -> np.ndarray:
    """1 in the rows of a spectrum that the table `emergence` warns of, int64 [rows]."""
    emergence = tables.table("emergence")
    warnings = emergence["warning"].fillna("") if "warning" in emergence else pd.Series("", emergence.index)
    bad = emergence[(warnings != "") & emergence["step"].notna()]
    known = {
        (str(label), int(step), int(method == "sampled"))
        for label, step, method in bad[["label", "step", "method"]].itertuples(index=False)
    }
    spectra = data[["label", "step", "method"]].drop_duplicates()
    flags = [int(key in known) for key in spectra.itertuples(index=False, name=None)]
    return data.merge(spectra.assign(warned=flags), on=["label", "step", "method"], how="left")["warned"].to_numpy(
        np.int64
    )


def _faded(data: pd.DataFrame) -> pd.DataFrame:
    """What stands pale behind the step of the slider: some steps of each model, evenly spaced, first and last among them."""
    models = data["label"].nunique()
    most = max(_FADED // models, 2)
    kept = [
        rows[rows["step"].isin(evenly(sorted(set(rows["step"].tolist())), most))]
        for _, rows in data.groupby(["label", "method"], sort=False)
    ]
    columns = ["label", "method", "step", "q", "alpha", "f", "tau"]
    return pd.concat(kept, ignore_index=True)[columns]


def _chart(
    data: pd.DataFrame,
    faded: pd.DataFrame,
    x: tuple[str, str],
    y: tuple[str, str],
    steps: list[int],
    methods: list[str],
    tables: PageTables,
) -> Any:
    """Lines of one step over pale ones of others. x, y: column and title."""
    chosen = legend_choice()
    axis_x = alt.X(
        f"{x[0]}:Q", title=x[1], scale=alt.Scale(domain=domain_of(data[x[0]]) or alt.Undefined, nice=False, zero=False),
        axis=alt.Axis(tickCount=6, grid=False),
    )  # fmt: skip
    axis_y = alt.Y(
        f"{y[0]}:Q", title=y[1], scale=alt.Scale(domain=domain_of(data[y[0]]) or alt.Undefined, nice=False, zero=False)
    )
    axis_end = alt.Y(f"{y[0]}_low:Q", title=y[1], scale=axis_y["scale"])
    colour = colour_by_label(data, tables)
    where = "datum.place == at" if len(methods) < 2 else "datum.place == at && datum.method == method"
    named = tooltip("step:Q", model="label:N")
    tips = [*named, *tooltip("q:Q", "alpha:Q", "f:Q", "tau:Q")]

    def strength(full: float) -> Any:
        return alt.condition(chosen, alt.value(full), alt.value(full / 10))

    pale = alt.Chart(faded)
    pale = pale.transform_filter("datum.method == method") if len(methods) > 1 else pale
    pale = pale.mark_line(strokeWidth=1, clip=True).encode(
        x=axis_x, y=axis_y, color=colour, detail=[alt.Detail("label:N"), alt.Detail("step:Q")], order=alt.Order("q:Q"),
        opacity=strength(0.25), tooltip=named,
    )  # fmt: skip
    shown = alt.Chart(data).encode(x=axis_x, color=colour)
    marks = []
    if f"{y[0]}_low" in data:
        marks.append(
            shown.mark_area(strokeWidth=0, clip=True).encode(
                y=axis_end, y2=f"{y[0]}_high:Q", opacity=strength(0.22), tooltip=named
            )
        )
    marks.append(
        shown.mark_line(strokeWidth=2.5, clip=True).encode(
            y=axis_y, order=alt.Order("q:Q"), opacity=strength(1), tooltip=named,
            strokeDash=alt.condition("datum.warned == 1", alt.value([7, 4]), alt.value([1, 0])),
        )
    )  # fmt: skip
    marks.append(
        shown.mark_point(filled=True, size=70, opacity=0).encode(y=axis_y, tooltip=tips)
    )  # what the pointer meets
    peaks = shown.transform_filter("datum.peak == 1").mark_point(filled=True, size=110).encode(
        y=axis_y, opacity=strength(0.95), tooltip=tips,
        shape=alt.condition("datum.warned == 1", alt.value("triangle-up"), alt.value("circle")),
    )  # fmt: skip
    marks.append(peaks.properties(name="peaks"))
    at_step = alt.layer(*marks).transform_filter(where)  # one copy of the data for all, and one filter
    chart = alt.layer(pale, at_step).add_params(chosen, *step_slider("at", steps))
    if len(methods) > 1:
        chart = chart.add_params(switch("method", methods, "of the"))
    return fitted(chart, _HEIGHT).properties(title=step_title("at"))


def _described(data: pd.DataFrame) -> str:
    """Peak and width of each model's spectrum at its first and last step, in words."""
    clauses = []
    models = list(data.groupby("label", sort=False))
    for label, rows in models[:4]:
        rows = rows[rows["method"] == rows["method"].min()]
        for step in dict.fromkeys([rows["step"].min(), rows["step"].max()]):
            curve = rows[rows["step"] == step]
            width, peak = np.ptp(curve["alpha"].to_numpy(float)), float(curve.loc[curve["peak"] == 1, "alpha"].iloc[0])
            clauses.append(f"{label} at step {step:,}: peak at alpha {number_words(peak)}, width {number_words(width)}")
    more = f"; and {and_more(len(models) - 4, 'model')}" if len(models) > 4 else ""
    return "; ".join(clauses) + more + "."
