"""What matrices write beside what others read: coupling over training by kind of pair, and by block."""

from collections.abc import Iterator

import altair as alt
import pandas as pd

from ninscope.report.page.chart_data import (
    evenly,
    in_order,
    labels_in,
    mapped,
    numbers_of,
    rounded,
    rows_of,
    step_places,
    steps_in,
)
from ninscope.report.page.charts import (
    BLUE,
    OCHRE,
    PINK,
    PURPLE,
    choice,
    colour_by,
    colour_by_label,
    first_and_last,
    heat_map,
    lines,
    name_rows,
    number_words,
    rows_high,
    step_axis,
    step_slider,
    step_title,
    tooltip,
    with_model_list,
)
from ninscope.report.page.parts import Chart, PagePart, PageTables

KINDS = {"mlp": "MLP: in to out", "vo": "v to o, heads", "qk": "k to q, heads", "across": "across blocks"}
_SHADES = {
    "MLP: in to out": BLUE,
    "v to o, heads": OCHRE,
    "k to q, heads": PURPLE,
    "across blocks": PINK,
}
_MOST_CELLS = 12_000
_TEXT = (
    "Coupling says whether what one matrix writes is what another matrix reads, beyond chance: 0 is chance, 1 as much "
    "as can be. Lines are means over the pairs of a kind; bands hold the middle half of the pairs.",
    "In a study of small models the coupling of k to q told learning from training on noise best, among all that is "
    "read from weights alone. It sees that attention has found a use, not what for; the other kinds are often larger "
    "where nothing is left to learn.",
    "In the map a row is the block that writes and a column the block that reads, at the step of the slider: orange is "
    "more than chance, blue less, grey chance.",
)


def interactions_parts(tables: PageTables) -> Iterator[PagePart]:
    """The part of the table `interactions`."""
    rows = in_order(rows_of(tables.table("interactions"), ["coupling"], ["writer", "reader", "kind"]), tables)
    rows = rows[rows["coupling"].notna()].reset_index(drop=True)
    if rows.empty:
        return
    rows["pair"] = rows["kind"].map(KINDS).fillna(rows["kind"].str.replace("_", " "))
    charts = [*_by_kind(rows), *_all_models(rows, tables)]
    cells, note = _cells(rows)
    charts += _map(cells)
    text = (*_TEXT, note) if note else _TEXT
    yield PagePart(
        "interactions", "Coupling: who reads what is written", "structure", text, tuple(charts), ("interactions",)
    )


def coupling_by_kind(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a model, kind and step: mean, low and high (quartiles) of the coupling over pairs, and how many there are."""
    grouped = rows.groupby(["number", "label", "pair", "step"], sort=False)["coupling"]
    means = grouped.agg(mean="mean", pairs="size").reset_index()
    for name, share in (("low", 0.25), ("high", 0.75)):
        means[name] = rounded(grouped.quantile(share).to_numpy())
    means["mean"] = rounded(means["mean"])
    names = [*KINDS.values(), *(name for name in dict.fromkeys(means["pair"]) if name not in KINDS.values())]
    means["kind"] = means["pair"].map(
        {name: number for number, name in enumerate(name for name in names if name in set(means["pair"]))}
    )
    return means.sort_values(["number", "kind", "step"], kind="stable", ignore_index=True)


def _by_kind(rows: pd.DataFrame) -> Iterator[Chart]:
    means = coupling_by_kind(rows)
    means["number"], labels = numbers_of(means["label"])
    kinds = list(dict.fromkeys(means.sort_values("kind", kind="stable")["pair"]))
    chart = lines(
        means,
        "couplingPoints",
        step_axis(steps_in(means)),
        alt.Y("mean:Q", title="coupling", scale=alt.Scale(zero=True)),
        colour_by("pair", kinds, {name: shade for name, shade in _SHADES.items() if name in kinds}),
        _pointed_at(),
        series=("pair",),
        band=("low", "high"),
        toggle="pair",
        where="datum.number == model" if len(labels) > 1 else None,
    )
    chart = with_model_list(chart, labels)
    said = first_and_last(means[means["number"] == 0], "mean", f"Mean coupling of {labels[0]}", ("pair",))
    yield Chart("interactions-kinds", "Coupling by kind of pair", chart, said)


def _pointed_at() -> list[alt.Tooltip]:
    """What stands under the pointer at a mean of the pairs of a kind."""
    return tooltip(
        "step:Q",
        kind="pair:N",
        model="label:N",
        coupling="mean:Q",
        quarter="low:Q",
        three_quarters="high:Q",
        pairs="pairs:Q",
    )


def _all_models(rows: pd.DataFrame, tables: PageTables) -> Iterator[Chart]:
    """One kind of pair of every model, where there are several."""
    if len(labels_in(rows)) < 2:
        return
    means = coupling_by_kind(rows)
    kinds = list(dict.fromkeys(means.sort_values("kind", kind="stable")["pair"]))
    chart = lines(
        means,
        "modelPoints",
        step_axis(steps_in(means)),
        alt.Y("mean:Q", title="coupling", scale=alt.Scale(zero=True)),
        colour_by_label(means, tables),
        _pointed_at(),
        band=("low", "high"),
        where="datum.kind == kind",
    ).add_params(choice("kind", kinds, "kind of pair"))
    first = means[means["kind"] == 0]
    yield Chart(
        "interactions-models",
        "Coupling of all models",
        chart,
        first_and_last(first, "mean", f"Mean coupling, {kinds[0]},"),
    )


def _cells(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """(mean coupling by step, writer's block and reader's block, what was left out in words)."""
    rows = rows.assign(writes=mapped(rows["writer"], block_of), reads=mapped(rows["reader"], block_of))
    grouped = rows.groupby(["number", "label", "step", "writes", "reads"], sort=False)["coupling"]
    means = grouped.agg(coupling="mean", pairs="size").reset_index()
    means["coupling"] = rounded(means["coupling"])
    steps = steps_in(means)
    if len(means) <= _MOST_CELLS:
        return means, ""
    kept = evenly(steps, max(len(steps) * _MOST_CELLS // len(means), 1))
    note = f"The map has {len(kept)} of {len(steps):,} steps, evenly spaced; the table has all."
    return means[means["step"].isin(kept)].reset_index(drop=True), note


def _map(cells: pd.DataFrame) -> Iterator[Chart]:
    places = numbers_of(pd.concat([cells["writes"], cells["reads"]]))[0]
    cells = cells.assign(row=places[: len(cells)], column=places[len(cells) :])
    blocks = set(places.tolist())
    if len(blocks) < 2:
        return
    cells["place"], steps = step_places(cells)
    cells["number"], labels = numbers_of(cells["label"])
    where = "datum.place == at" + (" && datum.number == model" if len(labels) > 1 else "")
    x = alt.X(
        "reads:O",
        sort=alt.EncodingSortField("column", op="min"),
        title="block that reads",
        axis=alt.Axis(labelLimit=70, labelOverlap="greedy", labelBound=10, labelAngle=0),
    )
    tips = tooltip(
        "step:Q", model="label:N", writes="writes:N", reads="reads:N", coupling="coupling:Q", pairs="pairs:Q"
    )
    chart = heat_map(
        cells,
        x,
        name_rows("writes", "row", "block that writes"),
        "coupling",
        "mean coupling",
        tips,
        where=where,
    )
    chart = rows_high(chart, 26, cells.groupby(["number", "place"])["writes"].nunique())
    chart = chart.add_params(*step_slider("at", steps)).properties(title=step_title("at"))
    chart = with_model_list(chart, labels)
    last = cells[(cells["step"] == steps[-1])]
    top = last.iloc[int(last["coupling"].argmax())]
    said = (
        f"Mean coupling between {len(blocks)} blocks at step {steps[-1]:,}; the largest is "
        f"{number_words(top['coupling'])}, of what {top['writes']} writes and {top['reads']} reads, of {top['label']}."
    )
    yield Chart("interactions-map", "Coupling by block", chart, said)


def block_of(matrix: str) -> str:
    """The block of the layer that a matrix reads: what stands before the last point of its name."""
    source = matrix.partition(" -> ")[0]
    return source.rpartition(".")[0] or source
