"""What charts of report.html share: rows as data, colours, the axis of steps, lines with bands, and choices.

Names that come from a run (models, layers, tasks) are data. They stand in rows, in domains of colours and in the words of a choice;
never in an expression, a filter or a key: filters compare numbers. Colours are mid-tones that read on white and on near-black.
"""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from ninscope.report.page.parts import PageTables

WHOLE, SAMPLES = "whole network", "samples (mean)"
METHODS = {"exact": WHOLE, "sampled": SAMPLES}
SOUND, WARNED, WITHHELD = "no warning", "with a warning", "duplicate: no E"
GREY = "#868e96"
_COLOURS = (
    "#3d85c6", "#e0702f", "#3aa17e", "#c2569c", "#9a7bd6", "#b0892a", "#4fa3b8", "#d65a5a", "#7f9a3c", "#a0785a",
)  # fmt: skip
_DIGITS = 6  # of a number on the page; the tables hold all
_MOST_TICKS = 9
_ROOM = 0.35  # of the lines' range: as far a band is shown beyond them
_HEIGHT = 260
_NARROW = 18  # letters of a name of which two stand side by side in a legend on a telephone
_NAMED = 4  # series that a description names

# --- rows -----------------------------------------------------------------------------------------------------


def rounded(values: Any) -> np.ndarray:
    """float64, to six significant digits, of any shape; what is not finite is missing."""
    numbers = np.array(pd.to_numeric(pd.Series(values), errors="coerce").astype("float64"), dtype=np.float64)
    numbers[~np.isfinite(numbers)] = np.nan
    sizes = np.abs(np.where(np.isnan(numbers) | (numbers == 0), 1.0, numbers))
    digits = _DIGITS - 1 - np.floor(np.log10(sizes))
    up, down = 10.0 ** np.clip(digits, 0, 300), 10.0 ** np.clip(-digits, 0, 300)
    return np.where(numbers == 0, 0.0, np.round(numbers / down * up) / up * down)


def rows_of(rows: pd.DataFrame, numbers: Sequence[str] = (), texts: Sequence[str] = ()) -> pd.DataFrame:
    """Rows as data of a chart: step, label, these columns. A column that the table lacks is missing throughout.

    Rows without a step are left out. Rows of a model stand together, models in the order of the rows, each by step.
    """
    known = rows[rows["step"].notna()]
    data = {"step": known["step"].astype("int64").to_numpy(), "label": known["label"].astype(str).to_numpy()}
    missing = pd.Series(np.nan, known.index)
    for name in numbers:
        data[name] = rounded(known.get(name, missing))
    for name in texts:
        column = known[name] if name in known else pd.Series("", known.index)
        data[name] = column.astype(object).where(column.notna(), "").astype(str).to_numpy()
    return pd.DataFrame(data)


def in_order(data: pd.DataFrame, tables: PageTables) -> pd.DataFrame:
    """Data with the column `number`, the place of a model on the page, in that order, and of a model by step."""
    places = {label: number for number, label in enumerate(tables.labels)}
    numbers = data["label"].map(places).fillna(len(places)).astype("int64")
    return data.assign(number=numbers).sort_values(["number", "step"], kind="stable").reset_index(drop=True)


def with_state(data: pd.DataFrame) -> pd.DataFrame:
    """Data with the column `state`: whether a point is to be trusted, by its columns `warning` and (where it has one) `status`."""
    state = np.where(data["warning"].str.len() > 0, WARNED, SOUND)
    if "status" in data:
        state = np.where(data["status"] == "duplicate", WITHHELD, state)
    return data.assign(state=state)


def labels_in(data: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(data["label"]))


def steps_in(data: pd.DataFrame) -> list[int]:
    return sorted(set(data["step"].tolist()))


def evenly(values: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the values, evenly spaced, first and last among them."""
    if len(values) <= most:
        return list(values)
    return [values[place] for place in np.unique(np.rint(np.linspace(0, len(values) - 1, most)).astype(int)).tolist()]


# --- colours --------------------------------------------------------------------------------------------------


def colours(count: int) -> list[str]:
    """So many colours that can be told apart; of more than ten, hues evenly around the circle."""
    if count <= len(_COLOURS):
        return list(_COLOURS[:count])
    hues = ((number / count, (0.46, 0.58)[number % 2]) for number in range(count))
    parts = (colorsys.hls_to_rgb(hue, lightness, 0.5) for hue, lightness in hues)
    return ["#" + "".join(f"{round(255 * part):02x}" for part in rgb) for rgb in parts]


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
    return alt.Legend(orient="bottom", title=None, columns=columns, labelLimit=260, symbolLimit=0, symbolOpacity=1)


def legend_above() -> alt.Legend:
    """Above the chart, one entry below the other: of lines and of shapes side by side, as a telephone is wide."""
    return alt.Legend(
        orient="top", title=None, columns=1, labelLimit=130, symbolFillColor=GREY, symbolStrokeColor=GREY, offset=6
    )


# --- axes -----------------------------------------------------------------------------------------------------

_COUNT = "datum.value >= 1000 && datum.value % 1000 == 0 ? format(datum.value / 1000, ',') + 'k' : format(datum.value, ',')"


def ticks_of(steps: Sequence[int]) -> list[int]:
    """Steps to label, evenly on the axis: the first and the last, and no more than nine."""
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
        axis=alt.Axis(values=ticks_of(steps), labelExpr=_COUNT, labelOverlap="greedy", grid=False, labelFlush=False),
    )


def domain_of(values: Any, ends: Sequence[Any] = (), hold: Sequence[float] = ()) -> list[float] | None:
    """What an ordinate shows: all values, and of the bands between `ends` as much as leaves the values legible.

    hold: numbers that it also shows. None where no value is known.
    """
    known = [number for number in np.ravel(np.array(values, dtype=np.float64)) if np.isfinite(number)]
    if not known:
        return None
    low, high = min([*known, *hold]), max([*known, *hold])
    room = _ROOM * max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-9)
    bounds = [number for end in ends for number in np.ravel(np.array(end, dtype=np.float64)) if np.isfinite(number)]
    small = 0.06 * room / _ROOM
    shown = [max(min([low, *bounds]), low - room) - small, min(max([high, *bounds]), high + room) + small]
    return rounded(shown).tolist()


# --- what a reader chooses ------------------------------------------------------------------------------------


def legend_choice(name: str = "shown", field: str = "label") -> alt.Parameter:
    """A click on an entry of the legend keeps its lines in full colour and fades the others; more clicks, more lines."""
    return alt.selection_point(name=name, fields=[field], bind="legend", toggle="true")


def choice(name: str, names: Sequence[str], shown_as: str, chosen: int = 0) -> alt.Parameter:
    """A list to choose from, whose value is the number of the entry."""
    numbers = list(range(len(names)))
    return alt.param(name=name, value=chosen, bind=alt.binding_select(options=numbers, labels=list(names), name=f"{shown_as} "))


def switch(name: str, names: Sequence[str], shown_as: str) -> alt.Parameter:
    """Round buttons, for few entries; the value is the number of the entry."""
    numbers = list(range(len(names)))
    return alt.param(name=name, value=0, bind=alt.binding_radio(options=numbers, labels=list(names), name=f"{shown_as} "))


def step_slider(name: str, steps: Sequence[int]) -> list[alt.Parameter]:
    """A slider over the numbers of the steps, the last one to begin with, and the steps that it stands for (`<name>Steps`)."""
    slider = alt.binding_range(min=0, max=len(steps) - 1, step=1, name="number of the step ")
    return [
        alt.param(name=f"{name}Steps", value=list(steps)),
        alt.param(name=name, value=len(steps) - 1, bind=slider),
    ]


def step_title(name: str) -> alt.Title:
    """The step that a slider of this name is at."""
    return alt.Title(alt.expr(f"'step ' + format({name}Steps[{name}], ',')"), anchor="start")


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
    below: Sequence[alt.Chart] = (),
) -> alt.LayerChart:
    """Lines with points, and bands below them.

    name: of the chart, which keeps its parts apart. series: columns that tell lines apart. band: columns of its ends. dash: by what
    lines are dashed. shape: of points. zero: where a thin line lies across. toggle: the column whose legend fades lines, if any.
    where: which rows are shown, an expression of numbers. below: marks that are drawn first.
    """
    chosen = legend_choice(field=toggle) if toggle is not None else None

    def strength(full: float, faded: float) -> Any:
        return alt.value(full) if chosen is None else alt.condition(chosen, alt.value(full), alt.value(faded))

    named = [alt.Tooltip(f"{field}:N", title={"label": "model"}.get(field, field)) for field in series]
    base = alt.Chart(data).encode(x=x, color=colour, detail=[alt.Detail(f"{field}:N") for field in series])
    base = base if where is None else base.transform_filter(where)
    marks: list[alt.Chart] = list(below)
    if zero is not None:
        marks.append(level(zero))
    if band is not None and data[list(band)].notna().any(axis=None):
        low, high = (f"{end}:Q" for end in band)
        area = base.mark_area(clip=True, strokeWidth=0)
        marks.append(area.encode(y=alt.Y(low, scale=y["scale"], title=y["title"]), y2=high, opacity=strength(0.2, 0.02), tooltip=named))
    line = base.mark_line(clip=True, strokeWidth=2).encode(y=y, opacity=strength(1, 0.12), tooltip=named)
    marks.append(line if dash is None else line.encode(strokeDash=dash))
    points = base.mark_point(filled=True, size=46).encode(y=y, opacity=strength(0.95, 0.12), tooltip=list(tips))
    points = points.properties(name=name)
    marks.append(points if shape is None else points.encode(shape=shape))
    chart = alt.layer(*marks)
    if chosen is not None:
        chart = chart.add_params(chosen)
    return fitted(chart)


def level(value: float) -> alt.Chart:
    """A thin line across at a value."""
    rule = alt.Chart(pd.DataFrame({"level": [float(value)]})).mark_rule(color=GREY, strokeWidth=1, opacity=0.7)
    return rule.encode(y="level:Q", tooltip=[alt.Tooltip("level:Q", title="line at")])


def fitted(chart: Any, height: int = _HEIGHT) -> Any:
    """As wide as the page lets it."""
    return chart.properties(width="container", height=height)


# --- words ----------------------------------------------------------------------------------------------------


def number_words(value: float) -> str:
    """ "0.115", "-1.09", "0" """
    return f"{value:.3g}" if np.isfinite(value) else "not known"


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
    more = f"; and {len(groups) - _NAMED} more lines" if len(groups) > _NAMED else ""
    return f"{what} over training. {'; '.join(clauses)}{more}."
