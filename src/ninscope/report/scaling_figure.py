"""Figure of how far power laws of growth hold (NeuroMFA, Fig. 4, and local slopes). Tables in, a matplotlib figure out."""

import math

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from ninscope.report.layout import arrange, draw_axes, label_places, plain, say_nothing, styled, title_above

_COLOURS = mpl.colormaps["tab10"]
_NULL, _MASS = "0.5", "#1b7837"
_MOST_NEURONS = 10
_LEGEND_SIZE = 6.5
_EDGE = 0.03  # of an axis: a label so near its end would be cut off with the figure
_ROOM = 0.35  # of the lines' range: as far a band is shown beyond them


def scaling_figure(scaling: pd.DataFrame, curves: pd.DataFrame, title: str) -> Figure:
    """First and last step side by side: N of single neurons, and local slopes of the mean mass and of the partition sums.

    scaling, curves: rows of the tables `scaling` and `scaling_curves` of one model. Grey bands: local slopes of Gaussian weights.
    Dashed: the fitted slope. Coloured bands: the radii at which local slopes are within 10 % of it.
    """
    revisions = list(dict.fromkeys(curves.sort_values("step", kind="stable")["revision"]))
    shown = list(dict.fromkeys([revisions[0], revisions[-1]]))
    neurons = curves["neuron"].ne("").fillna(False).any()
    with styled():
        figure = Figure(figsize=(3.6 * len(shown), 6.9 if neurons else 4.8))
        panels = figure.subplots(3 if neurons else 2, len(shown), sharex=True, sharey="row", squeeze=False)
        for column, revision in enumerate(shown):
            fits, points = (rows[rows["revision"] == revision] for rows in (scaling, curves))
            own = panels[:, column]
            own[0].set_title(revision)
            if neurons:
                _draw_neurons(own[0], points)
            _draw_slopes(own[-2], fits, points, "mass")
            _draw_slopes(own[-1], fits, points, "z")
            own[-1].set_xlabel("radius r (log axis)")
        if neurons:
            panels[0, 0].set_ylabel("N(r) of single neurons")
        panels[-2, 0].set_ylabel("local slope of mean ln N")
        panels[-1, 0].set_ylabel(r"local slope of ln $Z_q$")
        _limit(panels[-2])
        _limit(panels[-1])
        for axes in panels.flat:
            _label_powers(axes.xaxis)
        for axes in panels[0] if neurons else ():
            _label_powers(axes.yaxis)
        above = title_above(figure, f"{title}: how growth scales with radius")
        arrange(figure, panels, above=above)
        draw_axes(figure, panels.flat)
        return figure


def _draw_neurons(axes: Axes, points: pd.DataFrame) -> None:
    """ln N against ln r of each neuron, on axes of powers of ten."""
    rows = points[points["quantity"] == "neuron"]
    for number, (neuron, own) in enumerate(list(rows.groupby("neuron", sort=False))[:_MOST_NEURONS]):
        x, y = np.log10(own["radius"].to_numpy(float)), own["value"].to_numpy(float) / math.log(10)
        axes.plot(x, y, color=_COLOURS(number), marker="o", markersize=1.6, linewidth=0.8, label=plain(str(neuron)))
    if rows.empty:
        say_nothing(axes, "no neuron was asked for")
    else:
        axes.legend(fontsize=_LEGEND_SIZE, loc="lower right")


def _draw_slopes(axes: Axes, fits: pd.DataFrame, points: pd.DataFrame, quantity: str) -> None:
    rows, own_fits = points[points["quantity"] == quantity], fits[fits["quantity"] == quantity]
    axes.axhline(0.0, color="0.6", linewidth=0.8)
    is_mass = quantity == "mass"
    for number, (q, own) in enumerate(rows.groupby("q", sort=False, dropna=False)):
        colour = _MASS if is_mass else _COLOURS(number)
        x = np.log10(own["radius"].to_numpy(float))
        low, high = own["null_low"].to_numpy(float), own["null_high"].to_numpy(float)
        axes.fill_between(
            x, low, high, color=_NULL, alpha=0.45, linewidth=0, label="Gaussian weights" if is_mass else None
        )
        axes.plot(x, own["slope"].to_numpy(float), color=colour, linewidth=1.1, label=None if is_mass else f"q = {q:g}")
        fit = own_fits if is_mass else own_fits[own_fits["q"] == q]
        for slope, first, last in fit[["slope", "range_low", "range_high"]].to_numpy(float).tolist():
            axes.axhline(slope, color=colour, linewidth=0.8, linestyle="--", label="fitted slope" if is_mass else None)
            if not math.isnan(first):
                within = math.log10(first), math.log10(last)
                axes.axvspan(
                    *within, color=colour, alpha=0.2, linewidth=0, label="within 10 % of it" if is_mass else None
                )
    if rows.empty:
        say_nothing(axes, "no two radii with counted edges")
    else:
        axes.legend(fontsize=_LEGEND_SIZE, loc="upper right" if is_mass else "lower right")


def _limit(row: np.ndarray) -> None:
    """Axes that share an ordinate show their lines, and of bands no more than fits."""
    values = [np.asarray(line.get_ydata(), dtype=np.float64) for axes in row for line in axes.lines]
    known = np.concatenate([value[np.isfinite(value)] for value in values])
    low, high = float(known.min()), float(known.max())
    room = _ROOM * max(high - low, 0.1)
    row[0].set_ylim(low - room, high + room)


def _label_powers(axis: Axis) -> None:
    """Ticks at 1, 2, 5, 10, ... of an axis of powers of ten; of a long one at powers alone."""
    low, high = sorted(axis.get_view_interval())
    steps = (1, 2, 5) if high - low < 3 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    places = [power + math.log10(step) for power in powers for step in steps]
    inside = [place for place in places if low <= place <= high - _EDGE * (high - low)]
    label_places(axis, inside, [f"{10**place:.3g}".replace("e+0", "e") for place in inside])
