"""The laboratory of polysemanticity: P while networks train and after they are pruned, the verdicts, and what measures see.

Names of experiments come from a DAG file. They are data: entries of lists, and rows.
"""

from collections.abc import Iterator, Sequence

import altair as alt
import numpy as np
import pandas as pd

from ninscope.neurons.polysemanticity.correlations import EVERY_EXPERIMENT, GIVEN, KNOW_FEATURES, MEASURES, TRUTHS
from ninscope.neurons.polysemanticity.over_seeds import mean_over_seeds
from ninscope.neurons.polysemanticity.slopes import (
    FALLS,
    NOT_TOLD_APART,
    RISES,
    TRAINING_KEYS,
    VERDICTS,
    of_degree,
    unpruned_networks,
    verdicts_in_words,
)
from ninscope.neurons.polysemanticity.table_names import ALL_LAYERS, DEGREES, PRUNED, RETRAINED, TRAINING, dropout_name
from ninscope.report.page.chart_data import domain_of, drawn_ends, numbers_of, rounded
from ninscope.report.page.charts import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    choice,
    colour_by,
    fitted,
    known_measures,
    legend_below,
    measured_lines,
    name_rows,
    number_words,
    rows_high,
    tooltip,
)
from ninscope.report.page.parts import Chart, PagePart, PageTables
from ninscope.report.page.phrases import capital
from ninscope.wording import listed

_MEASURES = (
    ("P", "P, degree of polysemanticity"),
    ("D", "D, total feature dimensionality"),
    ("PD", "P times D"),
    ("P_live", DEGREES["P_live"]),
    ("P_samples", DEGREES["P_samples"]),
    ("loss", "loss, held out (MSE)"),
    ("entropy", "normalised entropy"),
    ("monosemanticity", "monosemanticity"),
    ("phi_p99", "phi, 99th percentile"),
)
_BEFORE = "before retraining"
_TENTH = 10.0  # a slope per 1 of the ratio, as per cent for a tenth of the parameters
_PLAIN, _PARTIAL = "plain", "given the epoch or pruning ratio"
_LINE, _MEASURE = 26, 40  # pixels of a slope, and of a measure
_SHADES = {FALLS: BLUE, RISES: ORANGE, NOT_TOLD_APART: GREY}
_TABLES = ("polysemanticity", "polysemanticity_slopes", "polysemanticity_correlations")
_TEXT = (
    "These networks learn a task whose features are known. P says over how many features a neuron spreads: 1 means one feature, "
    "2 means two equal ones. It is a mean over all hidden neurons. One that no single feature moves counts as 0, though it may "
    "answer to several at once: P at the samples counts it as it is among real samples. D says which share of the "
    "features the network represents. Lines are means over seeds; bands are 95 % intervals of these means.",
    "A verdict rests on the slopes of P on the share of parameters that pruning took, one a seed, after retraining. It says "
    "whether P falls or rises in networks that are made this way. It does not say that P stays the same where the slopes are not "
    "told apart from 0: with few seeds an interval is wide. A band or an interval that ends at the edge of its chart goes on.",
    "The correlations show whether a measure that knows no features goes along with P, D or the loss within one seed. Two curves "
    "that only rise always correlate. So look at the correlation given the epoch or the pruning ratio, and at the cross: it "
    "compares a seed's measure with what is true of other seeds. Where it lies on the dot, the measure follows the course that "
    "all seeds share, and says nothing of one network. A dot without a line is of one seed, or of seeds that agree. "
    "Toy networks of this size say little about large ones.",
)  # fmt: skip


def polysemanticity_parts(tables: PageTables) -> Iterator[PagePart]:
    """The part of the tables `polysemanticity`, `polysemanticity_slopes` and `polysemanticity_correlations`."""
    rows = tables.table("polysemanticity")
    if not rows["P"].notna().any():
        return
    whole = rows[rows["layer"] == ALL_LAYERS]
    every = _named(whole.assign(PD=whole["P"] * whole["D"]))
    rows = every[every["P"].notna()]
    slopes = _with_name(_named(tables.table("polysemanticity_slopes")))
    charts = [
        *_training(rows[rows["phase"] == TRAINING]),
        *_pruning(rows, unpruned_networks(every, ("run", *TRAINING_KEYS))),
        *_slopes(of_degree(slopes)),
        *_correlations(_named(tables.table("polysemanticity_correlations"))),
    ]
    yield PagePart("polysemanticity", "Polysemanticity", "models that were run", _texts(slopes), tuple(charts), _TABLES)


def _texts(slopes: pd.DataFrame) -> tuple[str, ...]:
    """The verdicts stand first: they are what was asked."""
    told = [
        f"Does {name} change with pruning? {' '.join(said)}"
        for degree, name in DEGREES.items()
        if degree != "P_live" and (said := verdicts_in_words(slopes, degree))
    ]
    return (" ".join(told), *_TEXT) if told else _TEXT


def _with_name(slopes: pd.DataFrame) -> pd.DataFrame:
    """Slopes with the column `name`: the experiment, and its dropout where there is one: a telephone is narrow."""
    return slopes.assign(name=slopes["label"] + (", " + slopes["setting"]).where(slopes["dropout"] > 0, ""))


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the column `label`: the experiment, of several runs or suites with their names."""
    label = rows["experiment"].astype("object")
    for name in ("suite", "run"):
        if name in rows and rows[name].nunique() > 1:
            label = rows[name].astype("object") + ", " + label
    dropouts = {value: dropout_name(value) for value in rows["dropout"].dropna().unique()}
    return rows.assign(label=label, setting=rows["dropout"].map(dropouts).astype("object"))


# --- over training and over ratios --------------------------------------------------------------------------------------


def _over_seeds(rows: pd.DataFrame, keys: Sequence[str], place: str, columns: Sequence[str]) -> pd.DataFrame:
    """Means over seeds of columns, with `<column>_low` and `_high`; place: where a point stands, a mean as well."""
    found = []
    for names, group in rows.groupby(list(keys), sort=False):
        row = dict(zip(keys, names, strict=True)) | {place: float(group[place].astype("float64").mean())}
        row["seeds"] = int(group["seed"].nunique())
        for column in columns:
            over = mean_over_seeds(group[column].to_numpy(np.float64))
            row |= {column: over.mean, f"{column}_low": over.low, f"{column}_high": over.high}
        found.append(row)
    data = pd.DataFrame(found)
    numbers = [place, *(f"{column}{end}" for column in columns for end in ("", "_low", "_high"))]
    return data.assign(**{name: rounded(data[name]) for name in numbers})


def _training(rows: pd.DataFrame) -> Iterator[Chart]:
    measures = known_measures(rows, _MEASURES)
    if rows.empty:
        return
    columns = [column for column, _ in measures]
    data = _over_seeds(rows.assign(at=rows["epoch"]), ["label", "setting", "at"], "epoch", columns).drop(columns="at")
    data["entry"], entries = numbers_of(data["label"])
    data = drawn_ends(data, columns, ["entry"])
    settings = list(dict.fromkeys(data["setting"]))
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(grid=False, tickCount=6), scale=alt.Scale(nice=False))
    chart = measured_lines(
        data, "polysemanticityPoints", measures, colour_by("setting", settings), series=("setting",), toggle="setting",
        where="datum.entry == entry", x=x, place="epoch", tips=tooltip(seeds="seeds:Q"),
    ).add_params(choice("entry", entries, "experiment"))  # fmt: skip
    first = data[data["entry"] == 0]
    said = "; ".join(
        f"{setting}: {number_words(own['P'].iloc[0])} at epoch {own['epoch'].iloc[0]:g}, {number_words(own['P'].iloc[-1])} at "
        f"epoch {own['epoch'].iloc[-1]:g}"
        for setting, own in first.sort_values("epoch", kind="stable").groupby("setting", sort=False)
    )
    yield Chart(
        "polysemanticity-training",
        "While networks train",
        chart,
        f"Mean P over seeds, of {entries[0]}. {capital(said)}.",
    )


def _pruning(rows: pd.DataFrame, baselines: pd.DataFrame) -> Iterator[Chart]:
    """baselines: the unpruned networks, from which all curves begin."""
    pruned = rows[rows["phase"].isin([PRUNED, RETRAINED])]
    if pruned.empty:
        return
    measures = known_measures(rows, _MEASURES)
    columns = [column for column, _ in measures]
    data = _over_seeds(
        _curves(pruned, baselines[baselines["P"].notna()]),
        ["label", "setting", "curve", "revision"],
        "pruning_ratio",
        columns,
    )
    data = data.drop(columns="revision")
    data["entry"], entries = numbers_of(data["label"] + ", " + data["setting"])
    data = drawn_ends(data, columns, ["entry"])
    curves = list(dict.fromkeys(data["curve"]))
    x = alt.X("pruning_ratio:Q", title="pruning ratio (share of parameters)",
              axis=alt.Axis(grid=False, tickCount=6), scale=alt.Scale(nice=False))  # fmt: skip
    chart = measured_lines(
        data, "prunedPoints", measures, colour_by("curve", curves, {_BEFORE: GREY} if _BEFORE in curves else None),
        series=("curve",), toggle="curve", where="datum.entry == entry", x=x, place="pruning_ratio",
        tips=tooltip(seeds="seeds:Q"),
    ).add_params(choice("entry", entries, "experiment"))  # fmt: skip
    first = data[data["entry"] == 0].sort_values("pruning_ratio", kind="stable")
    said = "; ".join(
        f"{curve}: {number_words(own['P'].iloc[0])} at ratio {number_words(own['pruning_ratio'].iloc[0])}, "
        f"{number_words(own['P'].iloc[-1])} at {number_words(own['pruning_ratio'].iloc[-1])}"
        for curve, own in first.groupby("curve", sort=False)
    )
    yield Chart(
        "polysemanticity-pruning", "After pruning", chart, f"Mean P over seeds, of {entries[0]}. {capital(said)}."
    )


def _curves(pruned: pd.DataFrame, baselines: pd.DataFrame) -> pd.DataFrame:
    """Pruned networks with the column `curve`, and before each curve the baselines at ratio 0."""
    names = {rate: f"retrained at {rate:g}" for rate in pruned["learning_rate"].dropna().unique().tolist()}
    curve = np.where(pruned["phase"] == PRUNED, _BEFORE, pruned["learning_rate"].map(names).astype("object"))
    pruned = pruned.assign(curve=curve)
    starts = [baselines.sort_index().assign(pruning_ratio=0.0, curve=name) for name in dict.fromkeys(pruned["curve"])]
    return pd.concat([*starts, pruned], ignore_index=True)


# --- verdicts -----------------------------------------------------------------------------------------------------------


def _slopes(rows: pd.DataFrame) -> Iterator[Chart]:
    rows = rows[rows["slope"].notna() & (rows["baseline"] > 0)].reset_index(drop=True)
    if rows.empty:
        return
    rows["rate"], rates = numbers_of(rows["learning_rate"].map(lambda rate: f"{rate:g}"))
    data, domain = _slope_data(rows)
    chart = _slope_chart(data, domain).add_params(choice("rate", rates, "learning rate of retraining"))
    counts = data.groupby("rate")["line"].count()
    (said,) = verdicts_in_words(rows[rows["rate"] == 0])
    yield Chart(
        "polysemanticity-slopes", "Does P change with pruning? (thick: 95 % interval; thin: one that holds with all the others)",
        rows_high(chart, _LINE, counts), said,
    )  # fmt: skip


def _slope_data(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[float]]:
    """(what is drawn of each slope, in per cent of the baseline's P for a tenth of the parameters; the ends of the axis)."""
    share = _TENTH / rows["baseline"]
    ends = ("slope", "low", "high", "own_low", "own_high", "retrained_slope")
    data = rows.assign(**{name: rounded(rows[name] * share) for name in ends}, change=rounded(100 * rows["change"]))
    data["line"], _ = numbers_of(data["name"])
    data["note"] = data["message"].fillna("").astype("object")
    data["p"] = rounded(data["p_adjusted"])
    domain = domain_of(data[["slope", "own_low", "own_high"]], [data["low"], data["high"]], hold=[0.0]) or [-1.0, 1.0]
    for end in ("low", "high", "own_low", "own_high"):
        data[f"{end}_drawn"] = rounded(data[end].clip(*domain))
    texts = ["name", "verdict", "note"]
    drawn = [f"{end}_drawn" for end in ("low", "high", "own_low", "own_high")]
    data = data[["rate", "line", "seeds", *texts, *ends, *drawn, "change", "p"]]
    return data.astype(dict.fromkeys(texts, object) | {"seeds": "float64"}), domain


def _slope_chart(data: pd.DataFrame, domain: list[float]) -> alt.LayerChart | alt.FacetChart:
    scale = alt.Scale(domain=domain, nice=False)
    title = "% of P per 10 % of parameters"
    tips = tooltip(
        "name:N", "verdict:N", slope="slope:Q", p_by_Holm="p:Q", interval_from="own_low:Q", interval_to="own_high:Q",
        together_with_the_others_from="low:Q", together_to="high:Q", without_the_unpruned_network="retrained_slope:Q",
        change_of_P_at_the_largest_ratio_in_per_cent="change:Q", seeds="seeds:Q", note="note:N",
    )  # fmt: skip
    colour = alt.Color("verdict:N", scale=alt.Scale(domain=list(VERDICTS), range=[_SHADES[name] for name in VERDICTS]),
                       legend=legend_below(VERDICTS))  # fmt: skip
    base = alt.Chart(data).transform_filter("datum.rate == rate")
    base = base.encode(y=name_rows("name", "line"), color=colour, tooltip=tips)
    zero = alt.Chart(pd.DataFrame({"at": [0.0]})).mark_rule(color=GREY, opacity=0.7)
    marks = [
        zero.encode(x=alt.X("at:Q", scale=scale, title=title), tooltip=[alt.Tooltip("at:Q", title="line at")]),
        base.mark_rule(strokeWidth=1).encode(x=alt.X("low_drawn:Q", scale=scale, title=title), x2="high_drawn:Q"),
        base.mark_rule(strokeWidth=5, opacity=0.5).encode(
            x=alt.X("own_low_drawn:Q", scale=scale, title=title), x2="own_high_drawn:Q"
        ),
        base.mark_point(filled=True, size=60, opacity=1).encode(x=alt.X("slope:Q", scale=scale, title=title)),
    ]
    return alt.layer(*marks)


# --- what measures see --------------------------------------------------------------------------------------------------


def _correlations(rows: pd.DataFrame) -> Iterator[Chart]:
    rows = rows[rows["correlation"].notna()].reset_index(drop=True)
    if rows.empty:
        return
    measures = [name for name in MEASURES if (rows["measure"] == name).any()]
    truths = {name: number for number, name in enumerate(TRUTHS)}
    everything = rows["experiment"] == EVERY_EXPERIMENT
    rows = rows.assign(truth_place=rows["truth"].map(truths), together=~everything)
    rows = rows.sort_values(["together", "truth_place"], kind="stable").reset_index(drop=True)
    data = _correlation_data(rows)
    data["entry"], entries = numbers_of(rows["truth"].replace(DEGREES) + _when(rows) + ", " + rows["setting"])
    data["whose"], experiments = numbers_of(
        rows["label"].where(rows["experiment"] != EVERY_EXPERIMENT, "all experiments")
    )
    chart = _correlation_chart(data, measures)
    chart = chart.add_params(choice("entry", entries, "against"), choice("whose", experiments, "of"))
    first = data[(data["entry"] == 0) & (data["whose"] == 0) & (data["kind"] == _PLAIN)]
    said = "; ".join(f"{row.measure} {number_words(row.value)}" for row in first.itertuples())
    known = [name for name in KNOW_FEATURES if name in measures]
    stars = (
        f" {capital(listed(known))} {'takes' if len(known) == 1 else 'take'} the features as known." if known else ""
    )
    yield Chart(
        "polysemanticity-correlations", "What measures see", chart,
        f"Mean rank correlations with {entries[0]}, of {experiments[0]}: {said}.{stars}",
    )  # fmt: skip


def _when(rows: pd.DataFrame) -> pd.Series:
    """ " over training", " over pruning ratios, retrained at 0.01" """
    rates = {
        rate: f" over pruning ratios, retrained at {rate:g}"
        for rate in rows["learning_rate"].dropna().unique().tolist()
    }
    return rows["learning_rate"].map(rates).astype("object").where(rows["phase"] != TRAINING, " over training")


def _correlation_data(rows: pd.DataFrame) -> pd.DataFrame:
    kinds = {"": _PLAIN} | dict.fromkeys(GIVEN.values(), _PARTIAL)
    return pd.DataFrame(
        {
            "measure": rows["measure"].astype("object"),
            "kind": rows["given"].fillna("").map(kinds).astype("object"),
            "place": (rows["given"].fillna("") != "").astype("int64"),
            "value": rounded(rows["correlation"]), "low": rounded(rows["low"]), "high": rounded(rows["high"]),
            "other_seeds": rounded(rows["other_seeds"]), "seeds": rows["seeds"].astype("float64"),
            "points": rows["points"].astype("float64"), "note": rows["message"].fillna("").astype("object"),
        }
    )  # fmt: skip


def _correlation_chart(data: pd.DataFrame, measures: Sequence[str]) -> alt.LayerChart:
    kinds = [_PLAIN, _PARTIAL]
    tips = tooltip(
        "measure:N", correlation="kind:N", value="value:Q", interval_from="low:Q", interval_to="high:Q",
        with_the_truth_of_other_seeds="other_seeds:Q", seeds="seeds:Q", networks_of_a_seed="points:Q", note="note:N",
    )  # fmt: skip
    scale = alt.Scale(domain=[-1.04, 1.04], nice=False)
    title = ["rank correlation", "(cross: other seeds)"]
    colour = alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[GREEN, ORANGE]), legend=legend_below(kinds))
    base = (
        alt.Chart(data)
        .transform_filter("datum.entry == entry && datum.whose == whose")
        .encode(
            y=alt.Y("measure:N", sort=list(measures), title=None, axis=alt.Axis(labelLimit=125, grid=False)),
            yOffset=alt.YOffset("place:O", scale=alt.Scale(domain=[0, 1])),
            tooltip=tips,
        )
    )
    zero = alt.Chart(pd.DataFrame({"at": [0.0]})).mark_rule(color=GREY, opacity=0.7)
    marks = [
        zero.encode(
            x=alt.X("at:Q", scale=scale, title=title, axis=alt.Axis(tickCount=5)),
            tooltip=[alt.Tooltip("at:Q", title="line at")],
        ),
        base.mark_point(shape="cross", filled=True, size=90, color=GREY, angle=45, opacity=1).encode(
            x=alt.X("other_seeds:Q", scale=scale, title=title)
        ),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=scale, title=title), x2="high:Q", color=colour),
        base.mark_point(filled=True, size=46, opacity=1).encode(
            x=alt.X("value:Q", scale=scale, title=title), color=colour
        ),
    ]
    return fitted(alt.layer(*marks), _MEASURE * len(measures) + 20)
