"""Figure of weights over training: norm, kurtosis, distance from the start, stable rank. Tables in, a matplotlib figure out."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ninscope.report.layout import arrange, draw_axes, plain, say_nothing, styled, title_above
from ninscope.report.step_axis import label_steps, position

_PANELS = (
    ("norm", "norm"),
    ("kurtosis", "kurtosis (normal: 3)"),
    ("distance_from_start", r"$\|W - W_0\|\,/\,\|W_0\|$"),
    ("stable_rank", "stable rank"),
)
_ALWAYS = 1  # panels that are there even where they have no value
_MOST_KINDS = 10  # that a legend can hold
_COLOURS = mpl.colormaps["tab10"]
_WHOLE = "all"
_LEGEND_SIZE = 7.0


def weights_figure(weights: pd.DataFrame, title: str) -> Figure:
    """Statistics of the weights against step: of all together in black, and of matrices of each kind their median.

    weights: rows of the table `weights` of one model. A kind is what joins two kinds of layers: "x -> q" of every block. All but
    norms have a panel where there are any.
    """
    known = weights.dropna(subset=["step"]).sort_values("step", kind="stable")
    shown = [
        panel
        for number, panel in enumerate(_PANELS)
        if number < _ALWAYS or (panel[0] in known and known[panel[0]].notna().any())
    ]
    with styled():
        figure = Figure(figsize=(6.4, 1.0 + 1.9 * len(shown)))
        panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)
        whole = known[known["matrix"] == _WHOLE]
        kinds = _kinds(known[known["matrix"] != _WHOLE])
        for axes, (column, label) in zip(panels[:, 0], shown, strict=True):
            for number, (kind, rows) in enumerate(kinds.items()):
                medians = rows.groupby("step")[column].median().dropna()
                x = position(medians.index.to_numpy(np.int64))
                axes.plot(x, medians.to_numpy(float), color=_COLOURS(number), linewidth=1, label=plain(kind))
            _draw_whole(axes, whole, column)
            if not known[column].notna().any():
                say_nothing(axes, "no checkpoint with a step has a value")
            axes.set_ylabel(label)
        steps = known["step"].unique()
        label_steps(panels[-1, 0], steps)
        panels[-1, 0].set_xlabel(f"training step (log axis{'; step 0 at the left edge' if 0 in steps else ''})")
        above = title_above(
            figure, f"{title}: weights over training{' (coloured: medians of a kind)' if kinds else ''}"
        )
        below = _legend_below(figure, panels[0, 0]) if kinds else 0.0
        arrange(figure, panels, above=above, below=below)
        draw_axes(figure, panels[:, 0])
        return figure


def _draw_whole(axes: Axes, whole: pd.DataFrame, column: str) -> None:
    rows = whole.dropna(subset=[column])
    x = position(rows["step"].to_numpy(np.int64))
    axes.plot(
        x, rows[column].to_numpy(float), color="black", marker="o", markersize=3, linewidth=1.6, label="all together"
    )


def _kinds(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of the matrices of each kind, in the table's order; none where there are too many kinds to tell apart."""
    kinds = rows["matrix"].map(_kind)
    names = list(dict.fromkeys(kinds))
    return {name: rows[kinds == name] for name in names} if len(names) <= _MOST_KINDS else {}


def _kind(matrix: str) -> str:
    """ "block3.x -> block3.q" is of the kind "x -> q"."""
    source, _, target = matrix.partition(" -> ")
    return f"{source.rpartition('.')[2]} → {target.rpartition('.')[2]}"


def _legend_below(figure: Figure, axes: Axes) -> float:
    """The legend of a panel below all panels; returns its height in points. The figure grows by it."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(labels), 5)
    height = 11.0 * -(-len(labels) // columns) + 6.0
    width, tall = figure.get_size_inches()
    figure.set_size_inches(width, tall + height / 72)
    figure.legend(handles, labels, fontsize=_LEGEND_SIZE, loc="lower center", ncols=columns, borderaxespad=0.2)
    return height
