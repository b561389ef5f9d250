"""Measures of checkpoints beside accuracy: correlations over training, and the curves themselves (NeuroMFA, Fig. 7 and 16 to 20).

Tables in, matplotlib figures out.
"""

import math
from collections.abc import Sequence
from textwrap import fill

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ninscope.report.figures import benchmark_label
from ninscope.report.layout import (
    arrange,
    bar_axes,
    draw_axes,
    label_places,
    line_height,
    name_beside,
    name_panel,
    plain,
    say_nothing,
    styled,
    title_above,
)
from ninscope.report.result_order import ORDER, results_in_order
from ninscope.report.step_axis import count, position, thinned

# (kind, what a legend calls it, colour), from top to bottom.
KINDS = (
    ("levels", "levels", "#2d6a4f"),
    ("differences", "differences from point to point", "#2a6f97"),
    ("partial", "levels given the step", "#d95f02"),
)
# Measures that are drawn first; the others follow in the order of the table.
FIRST = (
    "emergence", "emergence_growth", "emergence_fixed", "alpha0", "width", "structure", "null_emergence/shuffled", "norm",
    "kurtosis",
)  # fmt: skip
WARNING = (
    "Two curves that rise while a model trains always correlate. Grey bands hold what unrelated curves give that rise or fall as "
    "much (95 % of them, by default): a dot within its band says nothing of the two."
)
_ACROSS = (
    "Two curves that rise while a model trains always correlate: a narrow line says nothing of the two. The figure of "
    f"correlations shows what unrelated curves give. {ORDER}"
)
_MOST_MEASURES, _MOST_TASKS = 12, 12
_MOST_ACROSS, _MOST_COLUMNS, _MOST_LINES = 3, 4, 6  # of the panels of `accuracy_figure`
_COLUMNS = 3  # panels side by side
_NUMBERS = ("value", "low", "high", "null_low", "null_high")
_BAND = "#d9d9d9"
_MARGIN = 0.012  # about a band, so that one of no width is seen
_COLOURS = mpl.colormaps["viridis"]
_LINE = 0.145  # inches of one interval
_NOTE = 7.5  # font size of what stands below


def correlations_figure(correlations: pd.DataFrame, benchmarks: pd.DataFrame, title: str) -> Figure:
    """Correlations of measures with every task and metric: of levels, differences and levels given the step, with intervals.

    correlations, benchmarks: rows of these tables of one model. A panel a task and metric, the first 12 of them in the order of
    `results_in_order`; a line a measure, 12 at most. The title says how many more there are. Bars are what unrelated curves of
    the same differences give.
    """
    rows = of_one_method(correlations[correlations["kind"].notna()])
    measures, tasks = measures_in_order(rows), tasks_in_order(rows, benchmarks)
    shown, panels_of = measures[:_MOST_MEASURES], tasks[:_MOST_TASKS]
    valued = set(rows.loc[rows["value"].notna(), "kind"])
    kinds = [kind for kind in KINDS if kind[0] in valued] or list(KINDS)
    columns = min(_COLUMNS, len(panels_of))
    lines = math.ceil(len(panels_of) / columns)
    height = _LINE * (len(kinds) + 0.6) * max(len(shown), 3) + 0.5
    with styled():
        figure = Figure(figsize=(2.7 * columns + 2.0, height * lines + 1.1))
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        beyond = _beyond(len(measures) - len(shown), "measures", len(tasks) - len(panels_of), "tasks")
        above = title_above(figure, f"{plain(title)}: measures against benchmark results over training{beyond}")
        for axes, (task, metric) in zip(panels.flat, panels_of, strict=False):
            _correlation_panel(axes, rows[(rows["task"] == task) & (rows["metric"] == metric)], shown, kinds)
            name_panel(axes, benchmark_label(task, metric))
        for axes in panels.flat[len(panels_of) :]:
            axes.set_visible(False)
        for number, axes in enumerate(panels.flat[: len(panels_of)]):
            label_places(axes.yaxis, [_middle(line, kinds) for line in range(len(shown))], shown)
            axes.yaxis.set_tick_params(labelleft=number % columns == 0, length=0)
            label_places(axes.xaxis, [-1, -0.5, 0, 0.5, 1], ["\N{MINUS SIGN}1", "\N{MINUS SIGN}.5", "0", ".5", "1"])
            if number + columns >= len(panels_of):
                axes.xaxis.set_tick_params(labelbottom=True)
                axes.set_xlabel("Spearman's rank correlation")
        below = _note_below(figure, kinds)
        arrange(figure, panels, above=above, below=below)
        draw_axes(figure, panels.flat[: len(panels_of)])
        return figure


def of_one_method(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the values of samples, where there are those of whole networks."""
    is_sampled = rows["method"].fillna("") == "sampled"
    return rows[~is_sampled] if (rows["method"] == "exact").any() else rows


def measures_in_order(rows: pd.DataFrame) -> list[str]:
    """Names of the measures that any row has a value of, those of `FIRST` first."""
    known = rows.loc[rows["value"].notna(), "measure"].unique().tolist()
    return [name for name in FIRST if name in known] + [name for name in known if name not in FIRST]


def tasks_in_order(rows: pd.DataFrame, benchmarks: pd.DataFrame) -> list[tuple[str, str]]:
    """Every (task, metric) of rows of the table `correlations`, in the order of their results (`results_in_order`)."""
    there = dict.fromkeys(rows[["task", "metric"]].itertuples(index=False, name=None))
    ordered = [pair for pair in results_in_order(benchmarks) if pair in there]
    return list(dict.fromkeys([*ordered, *there]))


def _beyond(measures: int, what: str, tasks: int, other: str) -> str:
    more = [f"{number} more {name}" for number, name in ((measures, what), (tasks, other)) if number > 0]
    return f" ({' and '.join(more)} in the table correlations)" if more else ""


def _middle(line: int, kinds: Sequence[tuple[str, str, str]]) -> float:
    """Where a measure stands on the vertical axis: a unit a kind, and a gap to the next measure."""
    return -line * (len(kinds) + 0.6)


def _correlation_panel(
    axes: Axes, rows: pd.DataFrame, measures: Sequence[str], kinds: Sequence[tuple[str, str, str]]
) -> None:
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color="black", linewidth=0.6)
    for line, measure in enumerate(measures):
        own = rows[rows["measure"] == measure]
        if line:
            axes.axhline((_middle(line - 1, kinds) + _middle(line, kinds)) / 2, color="0.85", linewidth=0.5)
        for number, (kind, _, colour) in enumerate(kinds):
            y = _middle(line, kinds) + (len(kinds) - 1) / 2 - number
            numbers = own.loc[own["kind"] == kind, list(_NUMBERS)].to_numpy(np.float64)
            for value, low, high, null_low, null_high in numbers.tolist():
                width = null_high - null_low + 2 * _MARGIN
                axes.barh(y, width, 0.85, null_low - _MARGIN, color=_BAND, linewidth=0)
                axes.plot([low, high], [y, y], color=colour, linewidth=1.2)
                axes.plot([value], [y], "o", color=colour, markersize=3.5)
    room = (len(kinds) + 0.6) / 2
    axes.set(xlim=(-1.05, 1.05), ylim=(_middle(max(len(measures), 1) - 1, kinds) - room, room))
    if rows["value"].isna().all():
        say_nothing(axes, fill(next((message for message in rows["message"].dropna() if message), "not known"), 40))


def _note_below(figure: Figure, kinds: Sequence[tuple[str, str, str]]) -> float:
    """The legend, and under it a note over the width of the figure; returns the height of both, in points."""
    absent = [label for kind, label, colour in KINDS if (kind, label, colour) not in kinds]
    text = f"{WARNING} {ORDER}" + "".join(f" No value of {label}: the table correlations says why." for label in absent)
    width, height = figure.get_size_inches() * 72
    foot = _text_below(figure, text)
    handles: list[Artist] = [
        Line2D([], [], color=colour, marker="o", markersize=3.5, label=label) for _, label, colour in kinds
    ]
    handles.append(Patch(color=_BAND, label="unrelated curves"))
    columns = len(handles) if width > 400 else 2
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, foot / height),
        ncols=columns,
        fontsize=_NOTE,
        borderaxespad=0.2,
    )
    return foot + line_height(_NOTE) * 1.9 * math.ceil(len(handles) / columns) + 4


def _text_below(figure: Figure, text: str) -> float:
    """A text over the width of the figure, at its lower edge; returns its height, in points."""
    width, height = figure.get_size_inches() * 72
    lines = fill(text, max(30, int(width / (0.5 * _NOTE)))).split("\n")
    for number, line in enumerate(lines, 1):
        figure.text(
            0.5, (4 + 1.25 * _NOTE * (len(lines) - number)) / height, line, fontsize=_NOTE, ha="center", va="bottom"
        )
    return 4 + 1.25 * _NOTE * len(lines)


# --- accuracy beside E --------------------------------------------------------------------------------------------------
def accuracy_figure(correlations: pd.DataFrame, measured: pd.DataFrame, benchmarks: pd.DataFrame, title: str) -> Figure:
    """Every benchmark result against E, and against E by growth of norms and at fixed norms where controls know them.

    correlations, benchmarks: rows of these tables of one model. measured: measure, method, step, value, a row a measure and
    checkpoint. A dot a checkpoint, its colour the step, a line from each to the next; as many panels as measures a task and
    metric, of the first 12 or fewer in the order of `results_in_order`; above each its correlations.
    """
    rows = of_one_method(correlations[correlations["kind"].notna()])
    every = measures_in_order(rows)
    first = [name for name in ("emergence", "emergence_growth", "emergence_fixed") if name in every]
    measures, tasks = (first or every)[:_MOST_ACROSS], tasks_in_order(rows, benchmarks)
    wide = max(len(measures), 1)  # panels of a task, side by side
    beside = max(min(_MOST_COLUMNS // wide, len(tasks)), 1)  # tasks side by side
    shown = tasks[: min(_MOST_TASKS, _MOST_LINES * beside)]
    lines = math.ceil(len(shown) / beside)
    values = of_one_method(measured)
    both = set(benchmarks["step"].dropna()) & set(values["step"].dropna())
    steps = np.array(sorted(both), dtype=np.int64)
    norm = Normalize(0, max(float(position(steps).max(initial=0)), 1.0))
    with styled():
        figure = Figure(figsize=(2.5 * wide * beside + 1.4, 2.15 * lines + 0.8))
        panels = figure.subplots(lines, wide * beside, squeeze=False)
        beyond = _beyond(0, "", len(tasks) - len(shown), "tasks")
        above = title_above(figure, f"{plain(title)}: benchmark results against E over training{beyond}")
        for number, (task, metric) in enumerate(shown):
            line, column = divmod(number, beside)
            of_task = panels[line, column * wide : (column + 1) * wide]
            results = benchmarks[(benchmarks["task"] == task) & (benchmarks["metric"] == metric)]
            for axes, measure in zip(of_task, measures, strict=False):
                of_pair = rows[(rows["measure"] == measure) & (rows["task"] == task) & (rows["metric"] == metric)]
                _accuracy_panel(axes, values[values["measure"] == measure], results, of_pair, norm)
                axes.set_xlabel(plain(measure) if number + beside >= len(shown) else "")
            name_beside(of_task[0], benchmark_label(task, metric))
            for axes in of_task[1:]:
                axes.yaxis.set_tick_params(labelleft=False)
        for axes in panels.flat[len(shown) * wide :]:
            axes.set_visible(False)
        bar = figure.colorbar(ScalarMappable(norm, _COLOURS), cax=bar_axes(figure), label="training step")
        ticks = thinned(steps, least=1.0)
        bar.set_ticks(position(ticks).tolist(), labels=[count(step) for step in ticks.tolist()])
        below = _text_below(figure, _ACROSS) + 4
        arrange(figure, panels, above=above, below=below, bars={panels.shape[1] - 1: bar.ax})
        draw_axes(figure, [*panels.flat[: len(shown) * wide], bar.ax])
        return figure


def _accuracy_panel(
    axes: Axes, measured: pd.DataFrame, results: pd.DataFrame, correlations: pd.DataFrame, norm: Normalize
) -> None:
    scores = results.dropna(subset=["step", "value"]).drop_duplicates("step").set_index("step")["value"]
    both = (
        measured.dropna(subset=["value"])
        .set_index("step")["value"]
        .to_frame("x")
        .join(scores.to_frame("y"), how="inner")
    )
    both = both.sort_index()
    x, y = both["x"].to_numpy(float), both["y"].to_numpy(float)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # a factor above would hide the title
    if not len(both):
        say_nothing(axes, "no step has both")
        return
    path = np.stack([x, y], axis=1)
    axes.add_collection(
        LineCollection(list(np.stack([path[:-1], path[1:]], axis=1)), colors="0.7", linewidths=0.8, zorder=1)
    )
    axes.scatter(x, y, c=_COLOURS(norm(position(both.index.to_numpy(np.int64)))), s=14, zorder=2)
    numbers = correlations.drop_duplicates("kind").set_index("kind")["value"]
    said = [
        f"{label} {_short(numbers[kind])}"
        for kind, label in (("levels", "levels"), ("differences", "diff."), ("partial", "given step"))
        if kind in numbers
    ]
    axes.set_title(", ".join(said), fontsize=7)


def _short(value: float) -> str:
    """ "−.53", "1.00", "none" """
    return "none" if math.isnan(value) else f"{value:.2f}".replace("0.", ".").replace("-", "\N{MINUS SIGN}")
