"""Do neurons' places in the network tell what they do: correlations of single neurons while a model trains.

Measures, models and texts are data: entries of lists, and rows that are chosen by number. Places are this program's own words.
"""

from collections.abc import Iterator

import altair as alt
import pandas as pd

from ninscope.neurons.observatory.measure import NONE
from ninscope.neurons.observatory.place_correlations import NUMBERS
from ninscope.report.neuron_places_figure import chosen_measures
from ninscope.report.neurons_rows import columns_of, title_of_column
from ninscope.report.page.chart_data import entries_of, in_order, mapped, rows_of, steps_in, within
from ninscope.report.page.charts import (
    choice,
    chosen_title,
    colours,
    dashes,
    first_and_last,
    legend_below,
    lines,
    step_axis,
    tooltip,
)
from ninscope.report.page.parts import Chart, PagePart, PageTables

TABLE = "neuron_places"
_TEXT, _CONTROL = "the text", "shuffled"
_TITLES = {"alpha": "exponent alpha", "mean_distance": "mean distance", "degree": "degree"}
_MOST_ROWS = 12_000
_WORDS = (
    "Spearman's correlation over single neurons: where a neuron is in the network (its exponent, the mean distance and the number "
    "of its edges) against what it does on a text. Layers differ in both, so that neurons of all layers correlate though those "
    "of none do. So look at the band: there lie 95 % of permutations within layers. A line inside it says that which neuron of "
    "a layer is which tells nothing more. Dashed is the same measure on the control, the tokens (or pixels) without their order: "
    "what both share comes of the weights and of how often tokens occur.",
    "There are many pairs and many steps, and of 20 bands one is left by chance alone. Neurons of a layer read and write the "
    "same neighbours, so they are no independent samples, and a place that goes with a measure is no cause of it.",
)


def neuron_places_parts(tables: PageTables) -> Iterator[PagePart]:
    """The part of the table `neuron_places`."""
    rows = tables.table(TABLE).dropna(subset=["step"])
    rows = rows[rows["layer"] == "all"]
    if rows["correlation"].isna().all():
        return
    rows = rows.assign(column=columns_of(rows), curve=_TEXT).astype({"step": "int64"})
    rows["curve"] = rows["curve"].where(rows["control"] == NONE, _CONTROL)
    data = _data(_at_every_step(rows), tables)
    chart, note = _over_steps(data)
    words = (*_WORDS, *([note] if note else []))
    yield PagePart(
        "neuron-places", "Does a neuron's place tell what it does?", "models that were run", words, (chart,), (TABLE,)
    )


def _at_every_step(rows: pd.DataFrame) -> pd.DataFrame:
    """Lines that have a value anywhere, with rows without one where the model was looked at and has none: a line would go on."""
    model, line = ["label", "text"], ["label", "text", "column", "place", "curve"]
    lines_there = rows.loc[rows["correlation"].notna(), line].drop_duplicates()
    return lines_there.merge(rows[[*model, "step"]].drop_duplicates(), on=model).merge(
        rows, on=[*line, "step"], how="left"
    )


def _data(rows: pd.DataFrame, tables: PageTables) -> pd.DataFrame:
    """Rows as data: step, label, correlation, low, high, place, curve, text, title; measures that readers ask for come first."""
    data = in_order(rows_of(rows, NUMBERS, ["place", "column", "curve", "text"]), tables)
    columns = list(dict.fromkeys(data["column"]))
    order = {column: number for number, column in enumerate(chosen_measures(columns, len(columns)))}
    data["measure"] = data["column"].map(order)
    data["title"] = mapped(data["column"], title_of_column)
    return data.drop(columns="column").sort_values(["number", "measure", "step"], kind="stable", ignore_index=True)


def _over_steps(data: pd.DataFrame) -> tuple[Chart, str]:
    """(lines of places with the control, what was left out in words)."""
    data, note = within(data, "title", _MOST_ROWS)
    note = note.replace("titles", "measures")
    data["place"] = data["place"].map(_TITLES)
    places = [title for title in _TITLES.values() if (data["place"] == title).any()]
    curves = [curve for curve in (_TEXT, _CONTROL) if (data["curve"] == curve).any()]
    titles = list(dict.fromkeys(data.sort_values("measure", kind="stable")["title"]))
    data["measure"] = data["title"].map({title: number for number, title in enumerate(titles)})
    data["entry"], entries = entries_of(data, "label", "text")
    ends = {end: data[end].where(data["curve"] == _TEXT) for end in ("low", "high")}
    shown = data.assign(**ends).drop(columns=["title", "text", "number"])
    first = shown[(shown["measure"] == 0) & (shown["entry"] == 0) & (shown["curve"] == curves[0])]
    tips = tooltip("step:Q", "place:N", "correlation:Q", "low:Q", "high:Q", model="label:N", examples="curve:N")
    chart = lines(
        shown, "placePoints", step_axis(steps_in(shown)), alt.Y("correlation:Q", title="Spearman's correlation"),
        alt.Color(
            "place:N", scale=alt.Scale(domain=places, range=colours(len(places))), legend=legend_below(places)
        ),
        tips, series=("place", "curve"), band=("low", "high"), dash=dashes("curve", curves), toggle="place", zero=0.0,
        where="datum.measure == placed && datum.entry == entry",
    )  # fmt: skip
    chart = chart.add_params(
        alt.param(name="measures", value=titles), choice("placed", titles, "measure"), choice("entry", entries, "of")
    ).properties(title=chosen_title("measures[placed]"))
    description = first_and_last(first, "correlation", titles[0], ("place",))
    return Chart("neuron-places", "Correlation of place and measure over training", chart, description), note
