"""E, alpha0 and w of all models together, over training, beside null models, against size, and by variants of the analysis."""

from collections.abc import Iterator

import altair as alt
import numpy as np
import pandas as pd

from ninscope.report.analysis_rows import DEFAULT, whole_networks
from ninscope.report.page.chart_data import (
    METHODS,
    domain_of,
    in_order,
    numbers_of,
    rounded,
    rows_of,
    step_places,
    steps_in,
    with_state,
)
from ninscope.report.page.charts import (
    BLUE,
    GREY,
    ORANGE,
    PINK,
    PURPLE,
    choice,
    colour_by,
    colour_by_label,
    dashes,
    first_and_last,
    fitted,
    level,
    lines,
    number_words,
    states,
    step_axis,
    step_slider,
    step_title,
    switch,
    tooltip,
)
from ninscope.report.page.parts import Chart, PagePart, PageTables

# (column, axis, title of the chart)
_SHOWN = (
    ("emergence", "degree of emergence E", "Degree of emergence E"),
    ("alpha0", "regularity alpha0", "Regularity alpha0"),
    ("width", "heterogeneity w", "Heterogeneity w"),
)
_NETWORK = "the network itself"
_NULL_COLOURS = {_NETWORK: BLUE, "shuffled": ORANGE, "gaussian": PINK, "analytic": PURPLE}
_WHAT = (
    "E compares the network of a model's neurons at a step t of its training with that of its first step: "
    "E = w(t)/w(0) · ln(alpha0(0)/alpha0(t)). "
)
_ORDER = "The first figure shows E, the next ones the two numbers that it is made of."
_WITHOUT = "No checkpoint here has an E; the figures show the two numbers that it is made of."
_CARE = (
    "In the small models that ninscope's documentation studies (What does E see?), most of a rise of E was growth of the "
    "weights' norms, and E rose also where nothing could be learned. By itself it does not show that a model has learned "
    "something; the controls, where the run has them, say how much of it is growth."
)
_BANDS = (
    "A band is an interval: of a whole network what becomes of it when one layer of neurons is left out at a "
    "time, of samples 95 % over other draws of neurons; about alpha0 and w of samples it is one standard deviation. "
    "None is the spread between trainings. A band that is cut off at the edge goes on; the ends stand in what a point "
    "shows under the pointer. Triangles are points that the tables warn of. Click on names in the legend to pick out "
    "models."
)


def emergence_parts(tables: PageTables) -> Iterator[PagePart]:
    """The parts of the tables `emergence`, `nulls` and (for sizes) `checkpoints`."""
    data = emergence_data(tables.table("emergence"), tables)
    charts = [*_over_steps(data, tables), *_beside_nulls(data, tables)]
    if charts:
        names = ("emergence", "nulls") if len(tables.table("nulls")) else ("emergence",)
        what = _WHAT + (_ORDER if data["emergence"].notna().any() else _WITHOUT)
        yield PagePart("emergence", "E over training", "emergence", (what, _CARE, _BANDS), tuple(charts), names)
    yield from _sizes(data, tables)
    yield from _variants(tables)


def emergence_data(rows: pd.DataFrame, tables: PageTables) -> pd.DataFrame:
    """Rows of the table `emergence` as data: a row a model, step and method, with the ends of every band.

    alpha0 and width of a whole network have intervals where the table `controls` has them.
    """
    numbers = ["alpha0", "alpha0_std", "width", "width_std", "emergence", "emergence_low", "emergence_high"]
    texts = ["method", "status", "warning", "message", "baseline"]
    data = in_order(with_state(rows_of(rows, numbers, texts)), tables)
    ends = [f"{name}_{end}" for name in ("alpha0", "width") for end in ("low", "high")]
    intervals = rows_of(tables.table("controls"), ends).drop_duplicates(["label", "step"])
    data = data.merge(intervals, on=["label", "step"], how="left")
    of_samples = data["method"] != "exact"
    for name in ("alpha0", "width"):
        spread = data.pop(f"{name}_std")
        for end, other in (("low", data[name] - spread), ("high", data[name] + spread)):
            data[f"{name}_{end}"] = data[f"{name}_{end}"].where(~of_samples, rounded(other))
    order = {name: number for number, name in enumerate(METHODS)}
    data["order"] = data["method"].map(order).fillna(len(order))
    data = data.sort_values(["number", "order", "step"], kind="stable", ignore_index=True).drop(columns="order")
    return data.assign(method=data["method"].map(METHODS).fillna(data["method"]))


def _over_steps(data: pd.DataFrame, tables: PageTables) -> Iterator[Chart]:
    if data.empty or not data[[name for name, _, _ in _SHOWN]].notna().any(axis=None):
        return
    used = [name for name in METHODS.values() if name in set(data["method"])]
    for name, axis, title in _SHOWN:
        ends = f"{name}_low", f"{name}_high"
        domain = domain_of(data[name], [data[end] for end in ends])
        if domain is None:
            continue
        tips = tooltip(
            "step:Q", model="label:N", method="method:N", value=f"{name}:Q", low=f"{ends[0]}:Q", high=f"{ends[1]}:Q",
            compared_with="baseline:N", warning="warning:N",
        )  # fmt: skip
        chart = lines(
            data,
            f"{name}Points",
            step_axis(steps_in(data)),
            alt.Y(f"{name}:Q", title=axis, scale=alt.Scale(domain=domain, nice=False, zero=False)),
            colour_by_label(data, tables),
            tips,
            series=("label", "method"),
            band=ends,
            dash=dashes("method", used),
            shape=states(data),
            zero=0.0 if name == "emergence" else None,
        )
        yield Chart(f"emergence-{name}", title, chart, first_and_last(data, name, title, ("label", "method")))


# --- null models ----------------------------------------------------------------------------------------------


def _beside_nulls(data: pd.DataFrame, tables: PageTables) -> Iterator[Chart]:
    """Each model beside its null models, by a choice of the model and of what is shown."""
    null_rows = _null_data(tables)
    if null_rows["value"].notna().sum() == 0:
        return
    own = data[data["label"].isin(set(null_rows["label"]))]
    method = METHODS["exact"] if METHODS["exact"] in set(own["method"]) else METHODS["sampled"]
    own = own[own["method"] == method]
    network = [
        pd.DataFrame(
            {
                "step": own["step"], "label": own["label"], "what": _NETWORK, "keeps": method, "shown": number, "value": own[name],
                "low": np.nan, "high": np.nan, "warning": own["warning"],
            }
        )
        for number, (name, _, _) in enumerate(_SHOWN)
    ]  # fmt: skip
    both = in_order(pd.concat([*network, null_rows], ignore_index=True), tables)
    both = both[both["value"].notna()].reset_index(drop=True)
    both["number"], labels = numbers_of(both["label"])
    kinds = list(dict.fromkeys(both["what"]))
    parameters = [switch("quantity", ["E", "alpha0", "w"], "shown")]
    if len(labels) > 1:
        parameters.append(choice("model", labels, "model"))
    both["random"] = (both["what"] != _NETWORK).astype("int64")
    kept = both[["number", "shown", "step", "label", "what", "random", "keeps", "value", "low", "high", "warning"]]
    # Null models lie over the network where they agree with it: it must be seen below them.
    dash = alt.StrokeDash("random:O", scale=alt.Scale(domain=[0, 1], range=[[1, 0], [6, 4]]), legend=None)
    chart = lines(
        with_state(kept),
        "nullPoints",
        step_axis(steps_in(both)),
        alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
        colour_by("what", kinds, _NULL_COLOURS),
        tooltip(
            "step:Q", model="label:N", network="what:N", keeps="keeps:N", value="value:Q", low="low:Q", high="high:Q"
        ),
        series=("what",),
        band=("low", "high"),
        dash=dash,
        toggle="what",
        where="datum.shown == quantity" + (" && datum.number == model" if len(labels) > 1 else ""),
    ).add_params(alt.param(name="quantities", value=[title for _, _, title in _SHOWN]), *parameters)
    chart = chart.properties(title=alt.Title(alt.expr("quantities[quantity]"), anchor="start", fontWeight="normal"))
    e_rows = both[both["shown"] == 0]
    last = e_rows[e_rows["number"] == 0].sort_values("step").groupby("what", sort=False).tail(1)
    ends = ", ".join(f"{row.what} {number_words(row.value)}" for row in last.itertuples())
    yield Chart(
        "emergence-nulls",
        "Beside null models (dashed; bands: two standard deviations over draws)",
        chart,
        f"E of {labels[0]} and of its null models over training; at the last step {ends}.",
    )


def _null_data(tables: PageTables) -> pd.DataFrame:
    """A row a model, step, null model and quantity; low and high are 2 standard deviations over draws away."""
    names = [name for name, _, _ in _SHOWN]
    rows = rows_of(tables.table("nulls"), [*names, *(f"{name}_std" for name in names)], ["null", "keeps"])
    parts = [
        pd.DataFrame(
            {
                "step": rows["step"], "label": rows["label"], "what": rows["null"], "keeps": rows["keeps"], "shown": number,
                "value": rows[name], "low": rounded(rows[name] - 2 * rows[f"{name}_std"]),
                "high": rounded(rows[name] + 2 * rows[f"{name}_std"]), "warning": "",
            }
        )
        for number, name in enumerate(names)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


# --- size -----------------------------------------------------------------------------------------------------


def _sizes(data: pd.DataFrame, tables: PageTables) -> Iterator[PagePart]:
    """E against the number of parameters, at a step that several models have."""
    parameters = (
        tables.table("checkpoints").dropna(subset=["parameters"]).groupby("label", sort=False)["parameters"].first()
    )
    rows = data.assign(parameters=rounded(data["label"].map(parameters)))
    rows = rows[rows["parameters"].notna() & rows["emergence"].notna()]
    # Where there are both methods, the whole network, which stands first.
    rows = rows[~rows.duplicated(["label", "step"])]
    models_at = rows.groupby("step")["parameters"].nunique()
    steps = [int(step) for step in models_at.index[models_at > 1]]
    if not steps:
        return
    sizes = [int(models_at[step]) for step in steps]
    first = max(range(len(steps)), key=lambda number: (sizes[number], number))  # the last step that most sizes have
    rows = rows[rows["step"].isin(steps)].reset_index(drop=True)
    rows["place"], _ = step_places(rows)
    low, high = float(rows["parameters"].min()), float(rows["parameters"].max())
    domain = domain_of(rows["emergence"], [rows["emergence_low"], rows["emergence_high"]], hold=[0.0])
    axis = alt.Axis(format="~s", labelOverlap="greedy", grid=False, tickCount=5)
    x = alt.X("parameters:Q", title="parameters (log axis)", axis=axis,
              scale=alt.Scale(type="log", domain=[low / 1.3, high * 1.3], nice=False))  # fmt: skip
    y = alt.Y("emergence:Q", title="degree of emergence E", scale=alt.Scale(domain=domain or alt.Undefined, nice=False))
    base = alt.Chart(rows).transform_filter("datum.place == at").encode(x=x, color=colour_by_label(rows, tables))
    tips = tooltip("step:Q", model="label:N", method="method:N", E="emergence:Q", low="emergence_low:Q", high="emergence_high:Q",
                   warning="warning:N")  # fmt: skip
    tips.insert(2, alt.Tooltip("parameters:Q", title="parameters", format=",d"))
    marks = [
        level(0.0),
        base.mark_rule(clip=True, strokeWidth=3, opacity=0.35).encode(
            y=alt.Y("emergence_low:Q", scale=y["scale"], title=y["title"]), y2="emergence_high:Q", tooltip=tips
        ),
        base.mark_point(filled=True, size=90, opacity=0.95).encode(y=y, shape=states(rows), tooltip=tips),
    ]
    chart = alt.layer(*marks).add_params(*step_slider("at", steps, first))
    chart = fitted(chart).properties(title=step_title("at"))
    last = rows[rows["step"] == steps[first]].sort_values("parameters", kind="stable")
    ends = "; ".join(
        f"{row.label} ({row.parameters:,.0f} parameters): {number_words(row.emergence)}"
        for row in last.head(6).itertuples()
    )
    text = (
        "Each point is a model at the step that the slider is at, with its interval. The slider has the steps at which "
        "models of at least two sizes have an E.",
        "Models of unlike sizes differ in more than size (their data, learning rates, layers), and E of a larger one "
        "is not E of the smaller one grown. A few points make no law.",
    )
    described = f"E against the number of parameters at step {steps[first]:,}: {ends}."
    made = Chart("sizes-emergence", "E against model size", chart, described)
    yield PagePart("sizes", "E and model size", "emergence", text, (made,), ("emergence", "checkpoints"))


# --- variants -------------------------------------------------------------------------------------------------


def _variants(tables: PageTables) -> Iterator[PagePart]:
    """E of every analysis of [[variants]] beside that of [analysis], by a choice of the model."""
    rows = whole_networks(tables.every_row("emergence"))
    if "variant" not in rows or not (rows["variant"].fillna(DEFAULT) != DEFAULT).any():
        return
    data = with_state(rows_of(rows, ["emergence", "emergence_low", "emergence_high"], ["variant", "method", "warning"]))
    data = in_order(data, tables)
    data = data[data["emergence"].notna()].reset_index(drop=True)
    if data.empty:
        return
    names = list(dict.fromkeys([DEFAULT, *data["variant"]]))
    data["method"] = data["method"].map(METHODS).fillna(data["method"])
    data["group"] = data["variant"].str.split("-", n=1).str[0]
    groups = [name for name in dict.fromkeys(data["group"]) if name != DEFAULT]
    data["group"] = data["group"].map({name: number for number, name in enumerate(groups)}).fillna(-1).astype("int64")
    data["number"], labels = numbers_of(data["label"])
    data["order"] = data["variant"].map({name: number for number, name in enumerate(names)})
    data = data.sort_values(["number", "order", "method", "step"], kind="stable", ignore_index=True).drop(
        columns="order"
    )
    used = [name for name in METHODS.values() if name in set(data["method"])]
    chart = lines(
        data,
        "variantPoints",
        step_axis(steps_in(data)),
        alt.Y("emergence:Q", title="degree of emergence E", scale=alt.Scale(zero=False)),
        colour_by("variant", list(dict.fromkeys(data["variant"])), {DEFAULT: GREY}),
        tooltip("step:Q", model="label:N", variant="variant:N", method="method:N", E="emergence:Q", low="emergence_low:Q",
                high="emergence_high:Q", warning="warning:N"),
        series=("variant", "method"),
        dash=dashes("method", used),
        shape=states(data),
        toggle="variant",
        where="(datum.group == -1 || datum.group == key)" + (" && datum.number == model" if len(labels) > 1 else ""),
    )  # fmt: skip
    parameters = [choice("key", groups, "what is changed")]
    if len(labels) > 1:
        parameters.append(choice("model", labels, "model"))
    chart = chart.add_params(*parameters)
    text = (
        'The same checkpoints, analysed otherwise: each line has one key of the analysis changed, and "default" is the analysis '
        "of the rest of this page. What holds for one line alone hangs on how the analysis was made.",
        "Lines of samples are means over draws. The size of E may differ between analyses without meaning; look "
        "whether they rise and fall together.",
    )
    made = Chart("variants-emergence", "E by variants of the analysis", chart,
                 first_and_last(data[data["number"] == 0], "emergence", f"E of {labels[0]}", ("variant", "method")))  # fmt: skip
    yield PagePart("variants", "E by variants of the analysis", "emergence", text, (made,), ("emergence",))
