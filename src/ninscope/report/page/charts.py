"""What charts of report.html share: colours, the axis of steps, lines with bands, heat maps, and choices.

Names that come from a run (models, layers, tasks) are data. They stand in rows, in domains of colours and in the words of a
choice; never in an expression, a filter or a key: filters compare numbers.
Colours are mid-tones that read on white and on near-black.
"""

import colorsys
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from ninscope.report.page.chart_data import SOUND, WARNED, WITHHELD, rounded, steps_in
from ninscope.report.page.parts import PageTables
from ninscope.wording import number

GREY = "#868e96"
_COLOURS = BLUE, ORANGE, GREEN, PINK, PURPLE, OCHRE, TEAL, RED, OLIVE, BROWN = (
    "#3d85c6", "#e0702f", "#3aa17e", "#c2569c", "#9a7bd6", "#b0892a", "#4699ae", "#d65a5a", "#7f9a3c", "#a0785a",
)  # fmt: skip
_LUMINANCES = (0.17, 0.27)  # of colours beyond these: both have a contrast of 3 to white and to the page's dark ground
_MOST_TICKS = 9
_HEIGHT = 260
# Pixels of a row's name: on a wide screen there is room for those of layers in full.
_NAME_WIDTH = alt.ExprRef("windowSize()[0] < 700 ? 110 : 240")
_NARROW = 14  # letters of a name of which two stand side by side in a legend on a telephone
_NAMED = 4  # series that a description names


# --- colours --------------------------------------------------------------------------------------------------


def colours(count: int) -> list[str]:
    """So many colours "#rrggbb" that can be told apart; of more than ten, hues evenly around the circle."""
    if count <= len(_COLOURS):
        return list(_COLOURS[:count])
    return [_of_luminance(number / count, _LUMINANCES[number % 2]) for number in range(count)]


def _of_luminance(hue: float, luminance: float) -> str:
    """The colour of a hue that has a relative luminance (WCAG 2.2), by bisection of its lightness."""
    low, high = 0.0, 1.0
    for _ in range(12):
        lightness = (low + high) / 2
        rgb = np.array(colorsys.hls_to_rgb(hue, lightness, 0.55))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        low, high = (lightness, high) if linear @ (0.2126, 0.7152, 0.0722) < luminance else (low, lightness)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def colour_by_label(data: pd.DataFrame, tables: PageTables) -> alt.Color:
    """A model's colour, the same in every chart of the page."""
    every = dict(zip(tables.labels, colours(len(tables.labels)), strict=True))
    labels = [label for label in tables.labels if label in set(data["label"])]
    return _coloured("label", labels, [every[label] for label in labels])


def colour_by(field: str, names: Sequence[str], fixed: Mapping[str, str] | None = None) -> alt.Color:
    """Colours of the names in a column. fixed: of names that have one of their own."""
    own = fixed or {}
    free = iter([colour for colour in colours(len(names) + len(own)) if colour not in own.values()])
    return _coloured(field, names, [own[name] if name in own else next(free) for name in names])


def _coloured(field: str, names: Sequence[str], shades: Sequence[str]) -> alt.Color:
    scale = alt.Scale(domain=list(names), range=list(shades))
    return alt.Color(f"{field}:N", scale=scale, legend=legend_below(names) if len(names) > 1 else None)


def legend_below(names: Sequence[str]) -> alt.Legend:
    """Below the chart, where it takes no width from it."""
    columns = 2 if all(len(name) <= _NARROW for name in names) else 1
    return alt.Legend(
        orient="bottom", title=None, columns=columns, labelLimit=_room(100, 260), symbolLimit=0, symbolOpacity=1
    )


def legend_above() -> alt.Legend:
    """Above the chart, one entry below the other: of lines and of shapes side by side, as a telephone is wide."""
    return alt.Legend(
        orient="top", title=None, columns=1, labelLimit=130, symbolFillColor=GREY, symbolStrokeColor=GREY, offset=6
    )


# --- axes -----------------------------------------------------------------------------------------------------

_COUNT = (
    "datum.value >= 1000 && datum.value % 1000 == 0 ? format(datum.value / 1000, ',') + 'k' : format(datum.value, ',')"
)


def ticks_of(steps: Sequence[int]) -> list[int]:
    """Steps to label, evenly on the axis: the first and the last, and about nine."""
    kept: list[int] = []
    places = np.log2(np.array(steps, dtype=np.float64) + 1)
    apart = (places[-1] - places[0]) / (_MOST_TICKS - 1) * 0.8 if len(steps) > 1 else 0.0
    last = np.inf
    for step, place in zip(steps[::-1], places[::-1].tolist(), strict=True):
        if last - place >= apart:
            kept.append(step)
            last = place
    if kept[-1] != steps[0]:
        near = len(kept) > 1 and np.log2(kept[-1] + 1) - places[0] < apart
        kept[len(kept) - near :] = [steps[0]]
    return kept[::-1]


def step_axis(steps: Sequence[int], title: str = "training step (log axis)") -> alt.X:
    """Logarithmic, with a place for step 0: symlog of constant 1. steps: ascending; at least one."""
    first, last = steps[0], steps[-1]
    domain = [first, last] if first < last else [first / 2, 2 * first + 1]
    return alt.X(
        "step:Q",
        title=title,
        scale=alt.Scale(type="symlog", constant=1, domain=domain, nice=False, padding=8),
        axis=alt.Axis(
            values=ticks_of(steps),
            labelExpr=_COUNT,
            labelOverlap="greedy",
            labelSeparation=4,
            grid=False,
            labelFlush=False,
        ),
    )


# --- what a reader chooses ------------------------------------------------------------------------------------


def legend_choice(name: str = "shown", field: str = "label") -> alt.Parameter:
    """A click on an entry of the legend keeps its lines in full colour and fades the others; more clicks, more lines."""
    return alt.selection_point(name=name, fields=[field], bind="legend", toggle="true")


def choice(name: str, names: Sequence[str], shown_as: str, chosen: int = 0) -> alt.Parameter:
    """A list to choose from, whose value is the number of the entry; of one entry there is no list."""
    if len(names) == 1:
        return alt.param(name=name, value=0)
    numbers = list(range(len(names)))
    return alt.param(
        name=name, value=chosen, bind=alt.binding_select(options=numbers, labels=list(names), name=f"{shown_as} ")
    )


def switch(name: str, names: Sequence[str], shown_as: str) -> alt.Parameter:
    """Round buttons, for few entries; the value is the number of the entry."""
    numbers = list(range(len(names)))
    return alt.param(
        name=name, value=0, bind=alt.binding_radio(options=numbers, labels=list(names), name=f"{shown_as} ")
    )


def with_model_list(chart: alt.LayerChart, labels: Sequence[str]) -> alt.LayerChart:
    """The chart with a list of models, the parameter `model`, where there are several."""
    return chart.add_params(choice("model", labels, "model")) if len(labels) > 1 else chart


def step_slider(name: str, steps: Sequence[int], chosen: int = -1) -> list[alt.Parameter]:
    """A slider over the numbers of the steps, the chosen one (the last) to begin with, and the steps that it stands for.

    These are `<name>Steps`, of which the page shows the one that the slider is at (page.js).
    """
    slider = alt.binding_range(min=0, max=len(steps) - 1, step=1, name="step ")
    return [
        alt.param(name=f"{name}Steps", value=list(steps)),
        alt.param(name=name, value=chosen % len(steps), bind=slider),
    ]


def step_title(name: str) -> alt.Title:
    """The step that a slider of this name is at."""
    return alt.Title(alt.expr(f"'step ' + format({name}Steps[{name}], ',')"), anchor="start")


def chosen_title(expression: str) -> alt.Title:
    """The words that a list stands at, cut off where the page ends: fitted to longer ones, the chart would have no width."""
    return alt.Title(alt.expr(expression), anchor="start", fontWeight="normal", limit=_room(10, 600))


def _room(taken: int, otherwise: int) -> alt.ExprRef:
    """Pixels that the page has beside those that are taken; otherwise: where there is no page.

    The width of the chart stands there so that Vega computes it again when the page's changes.
    """
    wide = "width > 0 && isFinite(containerSize()[0])"
    return alt.ExprRef(expr=f"{wide} ? containerSize()[0] - {taken} : {otherwise}")


# --- lines ----------------------------------------------------------------------------------------------------


def tooltip(*fields: str, **named: str) -> list[alt.Tooltip]:
    """Of fields as "name:type", and of `title=field`; of steps with thousands apart, of numbers with four digits."""
    shown = [(field.split(":")[0].replace("_", " "), field) for field in fields]
    shown += [(title.replace("_", " "), field) for title, field in named.items()]
    return [
        alt.Tooltip(field, title=title, format={"step:Q": ",d"}.get(field, ".4g"))
        if field.endswith(":Q")
        else alt.Tooltip(field, title=title)
        for title, field in shown
    ]


def states(data: pd.DataFrame) -> alt.Shape:
    """Shapes by the column `state`, with a legend where a point is not as it should be."""
    there = [state for state in (SOUND, WARNED, WITHHELD) if state in set(data["state"])]
    shapes = {SOUND: "circle", WARNED: "triangle-up", WITHHELD: "cross"}
    legend = legend_above() if there != [SOUND] else None
    return alt.Shape("state:N", scale=alt.Scale(domain=there, range=[shapes[state] for state in there]), legend=legend)


def dashes(field: str, names: Sequence[str]) -> alt.StrokeDash:
    """Lines by a column whose names are this program's own: in full, dashed, dotted."""
    patterns = [[1, 0], [6, 4], [2, 3], [8, 3, 2, 3]]
    legend = legend_above() if len(names) > 1 else None
    return alt.StrokeDash(
        f"{field}:N",
        scale=alt.Scale(domain=list(names), range=[patterns[number % 4] for number in range(len(names))]),
        legend=legend,
    )


def lines(
    data: pd.DataFrame,
    name: str,
    x: alt.X,
    y: alt.Y,
    colour: alt.Color,
    tips: Sequence[alt.Tooltip],
    *,
    series: Sequence[str] = ("label",),
    band: tuple[str, str] | None = None,
    dash: alt.StrokeDash | None = None,
    shape: alt.Shape | None = None,
    zero: float | None = None,
    toggle: str | None = "label",
    where: str | None = None,
    calculated: Mapping[str, str] | None = None,
    below: Sequence[alt.Chart] = (),
) -> alt.LayerChart:
    """Lines with points, and bands below them.

    name: of the chart, which keeps its parts apart. series: columns that tell lines apart. band: columns of its ends. dash: by
    what lines are dashed. shape: of points. zero: where a thin line lies across. toggle: the column whose legend fades lines, if
    any. where: which rows are shown, an expression of numbers. calculated: more columns, as expressions. below: marks that are
    drawn first.
    """
    chosen = legend_choice(field=toggle) if toggle is not None else None

    def strength(full: float, faded: float) -> Any:
        return alt.value(full) if chosen is None else alt.condition(chosen, alt.value(full), alt.value(faded))

    named = [alt.Tooltip(f"{field}:N", title={"label": "model"}.get(field, field)) for field in series]
    base = alt.Chart(data).encode(x=x, color=colour, detail=[alt.Detail(f"{field}:N") for field in series])
    base = base if where is None else base.transform_filter(where)
    base = base.transform_calculate(**calculated) if calculated else base
    marks = []
    if band is not None and (band[0] not in data or data[list(band)].notna().any(axis=None)):
        low, high = (f"{end}:Q" for end in band)
        area = base.mark_area(clip=True, strokeWidth=0)
        marks.append(
            area.encode(
                y=alt.Y(low, scale=y["scale"], title=y["title"]), y2=high, opacity=strength(0.2, 0.02), tooltip=named
            )
        )
    line = base.mark_line(clip=True, strokeWidth=2).encode(y=y, opacity=strength(1, 0.12), tooltip=named)
    marks.append(line if dash is None else line.encode(strokeDash=dash))
    points = base.mark_point(filled=True, size=46).encode(y=y, opacity=strength(0.95, 0.12), tooltip=list(tips))
    points = points.properties(name=name)
    marks.append(points if shape is None else points.encode(shape=shape))
    behind = [*below, *([] if zero is None else [level(zero)])]
    own = alt.layer(*marks)
    chart = alt.layer(*behind, own) if behind else own
    if chosen is not None:
        chart = chart.add_params(chosen)
    return fitted(chart)


def measured_lines(
    data: pd.DataFrame,
    name: str,
    measures: Sequence[tuple[str, str]],
    colour: alt.Color,
    *,
    where: str | None = None,
    series: Sequence[str] = ("label",),
    toggle: str = "label",
    tips: Sequence[alt.Tooltip] = (),
    x: alt.X | None = None,
    place: str = "step",
) -> alt.LayerChart:
    """Lines of one of several columns, which a list above the chart chooses, and which is its title.

    measures: (column, title) of columns that have a value. x: where it is not the training step; place: the column that it shows.
    Where data has `<column>_low` and `_high`, and what `drawn_ends` makes of them, there are bands.
    """
    columns = [column for column, _ in measures]

    def one_of(end: str = "", otherwise: str = "null") -> str:
        known = [f"{column}{end}" in data and bool(data[f"{column}{end}"].notna().any()) for column in columns]
        fields = [f"datum.{column}{end}" if there else otherwise for column, there in zip(columns, known, strict=True)]
        return f"[{', '.join(fields)}][measure]"

    bands = any(f"{column}_from" in data and data[f"{column}_from"].notna().any() for column in columns)
    # A measure without intervals has bands of no height: an axis of nothing but missing values would have no extent.
    drawn = {"from": one_of("_from", "datum.value"), "to": one_of("_to", "datum.value")}
    ends = {"low": one_of("_low"), "high": one_of("_high"), **drawn} if bands else {}
    shown = tooltip(
        f"{place}:Q", *(f"{field}:N" for field in series if field != "label"), model="label:N", value="value:Q"
    )
    shown += tooltip(low="low:Q", high="high:Q") if bands else []
    # Bands are cut where they would make the lines flat: the chart ends there, so that none seems to end inside it.
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False, nice=not bands))
    chart = lines(
        data, name, step_axis(steps_in(data)) if x is None else x, y, colour, [*shown, *tips],
        series=series, band=("from", "to") if bands else None, where=where, toggle=toggle,
        calculated={"value": one_of(), **ends},
    )  # fmt: skip
    titles = [title for _, title in measures]
    chart = chart.add_params(alt.param(name="measures", value=titles), choice("measure", titles, "shown"))
    return chart.properties(title=chosen_title("measures[measure]"))


def known_measures(data: pd.DataFrame, measures: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of (column, title) that have a value."""
    return [(column, title) for column, title in measures if column in data and data[column].notna().any()]


DIVERGING = ("#2f6fb5", "#868e96", "#d9622b")  # below, at, above the middle: blue, grey, orange


def heat_map(
    data: pd.DataFrame,
    x: alt.X,
    y: alt.Y,
    value: str,
    title: str,
    tips: Sequence[alt.Tooltip],
    *,
    middle: float | None = 0.0,
    where: str | None = None,
    label_expr: str | None = None,
) -> Any:
    """Cells in colour, whose rows `rows_high` makes high. label_expr: how the legend writes a value.

    middle: the value that is grey, between blue and orange; None: a scale from dark to light.
    """
    known = data[value].dropna()
    if middle is None:
        scale = alt.Scale(scheme="viridis")
    else:
        reach = max(float((known - middle).abs().max()) if len(known) else 0.0, 1e-9)
        domain = rounded([middle - reach, middle, middle + reach]).tolist()
        scale = alt.Scale(domain=domain, range=list(DIVERGING), interpolate="lab")
    legend = alt.Legend(orient="bottom", title=title, gradientLength=160, tickCount=5, titleLimit=280)
    legend = legend if label_expr is None else alt.Legend(labelExpr=label_expr, **legend.to_dict())
    chart = alt.Chart(data)
    chart = chart if where is None else chart.transform_filter(where)
    colour = alt.Color(f"{value}:Q", scale=scale, legend=legend)
    return chart.mark_rect().encode(x=x, y=y, color=colour, tooltip=list(tips))


def rows_high(chart: Any, row: int, counts: Iterable[int]) -> Any:
    """As wide as the page lets it, and as high as its rows together. row: pixels. counts: of rows, by what a reader may choose."""
    different = set(counts)
    height = row * different.pop() if len(different) == 1 else alt.Step(row)
    return chart.properties(width="container", height=height, autosize=_fit())


def _fit() -> alt.AutoSizeParams:
    """What Vega-Lite takes by itself, and again when a choice makes the labels of an axis longer."""
    return alt.AutoSizeParams(type="fit-x", contains="padding", resize=True)


def step_columns(title: str = "training step") -> alt.X:
    """Steps side by side, as columns of a heat map."""
    return alt.X(
        "step:O", title=title, axis=alt.Axis(labelExpr=_COUNT, labelOverlap="greedy", labelSeparation=5, labelAngle=0)
    )


def name_rows(field: str, order: str, title: str | None = None) -> alt.Y:
    """Names one below the other, in the order of the numbers in another column, as rows of a heat map."""
    sort = alt.EncodingSortField(order, op="min")
    return alt.Y(f"{field}:O", sort=sort, title=title, axis=alt.Axis(labelLimit=_NAME_WIDTH, labelOverlap="greedy"))


def level(value: float) -> alt.Chart:
    """A thin line across at a value."""
    rule = alt.Chart(pd.DataFrame({"level": [float(value)]})).mark_rule(color=GREY, strokeWidth=1, opacity=0.7)
    return rule.encode(y="level:Q", tooltip=[alt.Tooltip("level:Q", title="line at")])


def fitted(chart: Any, height: int = _HEIGHT, title: alt.Title | None = None) -> Any:
    """As wide as the page lets it."""
    chart = chart.properties(width="container", height=height, autosize=_fit())
    return chart if title is None else chart.properties(title=title)


# --- names of layers ------------------------------------------------------------------------------------------

_BLOCK_LAYER = re.compile(r"block\d+\.[xqkvcam]")
_OF_TRANSFORMERS = (
    "Layers of a transformer's block: x is what the block reads; q, k, v and c are attention's queries, keys, values and what its "
    "heads bring together; a is what comes after attention, m the neurons of the MLP."
)


def layer_words(names: Iterable[str]) -> tuple[str, ...]:
    """A paragraph on what short names of layers mean, where there are such."""
    return (_OF_TRANSFORMERS,) if any(_BLOCK_LAYER.search(name) for name in names) else ()


# --- words ----------------------------------------------------------------------------------------------------


def number_words(value: Any) -> str:
    """As sentences write it: "0.115", "-1.09", "0.560", "0", "not known"."""
    return number(float(value))


def and_more(count: int, noun: str) -> str:
    """ "1 more line", "12 more lines" """
    return f"{count:,} more {noun}{'' if count == 1 else 's'}"


def first_and_last(data: pd.DataFrame, column: str, what: str, series: Sequence[str] = ("label",)) -> str:
    """What a chart of lines shows, in words: the value of each line at its first and its last step."""
    known = data[data[column].notna()]
    if known.empty:
        return f"{what}: no step has a value."
    clauses = []
    groups = list(known.groupby(list(series), sort=False))
    for names, rows in groups[:_NAMED]:
        rows = rows.sort_values("step", kind="stable")
        first, last = rows.iloc[0], rows.iloc[-1]
        name = ", ".join(str(part) for part in (names if isinstance(names, tuple) else (names,)))
        start = f"{name}: {number_words(first[column])} at step {first['step']:,}"
        clauses.append(start if len(rows) == 1 else f"{start}, {number_words(last[column])} at step {last['step']:,}")
    more = f"; and {and_more(len(groups) - _NAMED, 'line')}" if len(groups) > _NAMED else ""
    return f"{what} over training. {'; '.join(clauses)}{more}."
