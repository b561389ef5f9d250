"""What neurons, heads and representations do while a model trains: any measure, layer by layer beside its control, and as a map.

Measures, layers, models and texts are data: entries of lists, and rows that are chosen by number.
"""

from collections.abc import Iterator, Sequence

import altair as alt
import pandas as pd

from ninscope.report.neurons_rows import main_rows, of_control, of_layers, of_text, titles_of
from ninscope.report.page.chart_data import entries_of, evenly, in_order, numbers_of, rows_of, steps_in, within
from ninscope.report.page.charts import (
    choice,
    chosen_title,
    colours,
    dashes,
    first_and_last,
    heat_map,
    layer_words,
    legend_below,
    lines,
    name_rows,
    rows_high,
    step_axis,
    step_columns,
    tooltip,
)
from ninscope.report.page.parts import Chart, PagePart, PageTables
from ninscope.wording import listed

_TEXT, _CONTROL = "the text", "shuffled"
_MOST_LAYERS = 12  # that a legend can hold
_MOST_ROWS = 12_000  # of one chart
_WORDS = (
    "What neurons, attention heads and the residual stream do on a fixed text, one measure at a time. A point is a layer's "
    "number, or a mean over its neurons or heads; 'all' is the whole model. Dashed is the control: the same tokens (or "
    "pixels) without their order. What a measure says of language is how far the full line is from the dashed one; what "
    "both share, the weights and how often tokens occur make by themselves. So look at the first step too, where nothing is "
    "learned yet. A gap, or a grey mark on the map, is a checkpoint without a value.",
    "The numbers are of this text, this many tokens and this context alone. A curve that rises with training does not say "
    "that the model is better for it, since all that rises goes together; nor do two measures that fall together measure "
    "one thing. No name of a measure says what a neuron means. In small models many measures say nothing.",
)


def neurons_parts(tables: PageTables) -> Iterator[PagePart]:
    """The part of the table `neurons`: its main facts."""
    rows = main_rows(tables.table("neurons"))
    titles, missing = titles_of(rows)
    if not titles:
        return
    data = _data(_at_every_step(rows[rows["title"].isin(titles)], tables.table("neurons")), tables)
    drawn = [_over_steps(data, titles), _maps(data, titles)]
    notes = [note for _, note in filter(None, drawn) if note]
    notes += [f"No checkpoint has a value of {listed(missing)}: the table says why."] if missing else []
    words = (*_WORDS, *layer_words(data["layer"]), *([" ".join(dict.fromkeys(notes))] if notes else []))
    charts = tuple(chart for chart, _ in filter(None, drawn))
    yield PagePart("neurons", "What neurons do", "models that were run", words, charts, ("neurons",))


def _at_every_step(rows: pd.DataFrame, neurons: pd.DataFrame) -> pd.DataFrame:
    """Rows of the text and of the control, with the column `curve`, and rows without a value where a model was looked at and has
    none: a line would go on there."""
    rows = pd.concat([of_text(rows).assign(curve=_TEXT), of_control(rows).assign(curve=_CONTROL)]).sort_index()
    model = ["label", "text"]
    series = rows[[*model, "title", "layer", "curve"]].drop_duplicates()
    steps = neurons.dropna(subset=["step"])[[*model, "step"]].drop_duplicates().astype({"step": "int64"})
    return series.merge(steps, on=model).merge(rows, on=[*series.columns, "step"], how="left")


def _data(rows: pd.DataFrame, tables: PageTables) -> pd.DataFrame:
    """Rows as data: step, label, layer, value, curve, title, text, and place, the number of the layer in the table's order."""
    data = in_order(rows_of(rows, ["value"], ["layer", "curve", "title", "text"]), tables)
    data["place"], _ = numbers_of(data["layer"])
    return data


def _numbered(data: pd.DataFrame, titles: Sequence[str]) -> tuple[pd.DataFrame, list[str], list[str]]:
    """(data with the numbers `measure` and `entry`, titles by number, entries by number); of what there is.

    Measures that the first model has values of come first, so that the page does not open on an empty chart.
    """
    of_first = (data["label"] == data["label"].iloc[0]) & (data["text"] == data["text"].iloc[0])
    shown_first = set(data.loc[of_first & data["value"].notna(), "title"])
    there = [title for title in titles if (data["title"] == title).any()]
    there.sort(key=lambda title: title not in shown_first)
    numbers = {title: number for number, title in enumerate(there)}
    data = data.assign(measure=data["title"].map(numbers).astype("int64"))
    if data["label"].nunique() > 1 and data["text"].nunique() == 1:  # one text needs no name
        data["entry"], entries = numbers_of(data["label"])
    else:
        data["entry"], entries = entries_of(data, "label", "text")
    return data, there, entries


def _over_steps(data: pd.DataFrame, titles: Sequence[str]) -> tuple[Chart, str]:
    """(lines of layers with the control, what was left out in words)."""
    kept = {
        (*names, layer)
        for names, rows in data.groupby(["label", "text", "title"], sort=False)
        for layer in evenly(list(dict.fromkeys(rows["layer"])), _MOST_LAYERS)
    }
    every = len(data[["label", "text", "title", "layer"]].drop_duplicates())
    keys = zip(data["label"], data["text"], data["title"], data["layer"], strict=True)
    shown, note = within(data[[key in kept for key in keys]].reset_index(drop=True), "layer", _MOST_ROWS)
    if len(kept) < every:
        note = " ".join(
            filter(None, [f"Lines are of at most {_MOST_LAYERS} layers of a measure, evenly spaced.", note])
        )
    shown, there, entries = _numbered(shown, titles)
    curves = [curve for curve in (_TEXT, _CONTROL) if (shown["curve"] == curve).any()]
    first = shown[(shown["entry"] == 0) & (shown["measure"] == 0) & (shown["curve"] == curves[0])]
    data = shown.drop(columns=["title", "text", "number"])
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    chart = lines(
        data, "neuronPoints", step_axis(steps_in(shown)), y, _by_layer(shown),
        tooltip("step:Q", "layer:N", "value:Q", model="label:N", examples="curve:N"), series=("layer", "curve"),
        dash=dashes("curve", curves), toggle="layer", where="datum.measure == measure && datum.entry == entry",
    )  # fmt: skip
    chart = chart.add_params(
        alt.param(name="measures", value=there), choice("measure", there, "measure"), choice("entry", entries, "of")
    ).properties(title=chosen_title("measures[measure]"))
    description = first_and_last(first, "value", there[0], ("layer",))
    return Chart("neurons-layers", "A measure over training, layer by layer", chart, description), note


def _by_layer(data: pd.DataFrame) -> alt.Color:
    """Colours by layer, of the layers that the chosen measure has: no domain is given, so that the legend is of these alone."""
    most = int(data.groupby(["measure", "entry"])["layer"].nunique().max())
    return alt.Color(
        "layer:N",
        scale=alt.Scale(range=colours(most)),
        sort=alt.EncodingSortField("place", op="min"),
        legend=legend_below(list(dict.fromkeys(data["layer"]))),
    )


def _maps(data: pd.DataFrame, titles: Sequence[str]) -> tuple[Chart, str] | None:
    """(layers by steps in colour, what was left out in words); nothing where measures are of whole models alone."""
    rows = of_layers(data[data["curve"] == _TEXT])
    valued = set(rows.loc[rows["value"].notna(), "title"])
    rows = rows[rows["title"].isin(valued)].reset_index(drop=True)
    if rows.empty:
        return None
    rows, note = within(rows, "layer", _MOST_ROWS)
    rows, there, entries = _numbered(rows, titles)
    first = rows[(rows["entry"] == 0) & (rows["measure"] == 0)]
    rows = rows.drop(columns=["title", "text", "number", "curve"])
    rows["missing"] = rows["value"].isna().astype("int64")
    x, y = step_columns(), name_rows("layer", "place")
    tips = tooltip("step:Q", "layer:N", "value:Q", model="label:N")
    cells = heat_map(rows, x, y, "value", "value", tips, middle=None, where="datum.missing == 0")
    marks = alt.Chart(rows).transform_filter("datum.missing == 1").mark_point(
        shape="cross", angle=45, filled=True, size=36, color="#868e96"
    )  # fmt: skip
    chart = alt.layer(cells, marks.encode(x=x, y=y, tooltip=tips)) if rows["missing"].any() else cells
    chart = chart.transform_filter("datum.measure == mapped && datum.entry == entry")
    chart = rows_high(chart, 18, rows.groupby(["measure", "entry"])["layer"].nunique())
    chart = chart.add_params(
        alt.param(name="measures", value=there), choice("mapped", there, "measure"), choice("entry", entries, "of")
    ).properties(title=chosen_title("measures[mapped]"))
    description = first_and_last(first, "value", there[0], ("layer",))
    return Chart("neurons-map", "A measure as a map of layers by steps", chart, description), note
