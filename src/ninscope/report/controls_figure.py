"""Figure of the controls of E over training. Tables in, a matplotlib figure out."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ninscope.report.layout import arrange, bands_may_leave, draw_axes, say_nothing, styled, title_above
from ninscope.report.step_axis import label_steps, position

# (column, label, colour) of each panel's lines.
_EMERGENCE = (
    ("emergence", "E", "black"),
    ("emergence_growth", "growth alone: the baseline's weights at these norms", "#d95f02"),
    ("emergence_fixed", "fixed norms: these weights at the baseline's norms", "#1b9e77"),
)
_RATIOS = (
    ("alpha0_ratio", r"$\alpha_0(0)\,/\,\alpha_0$", "#7570b3"),
    ("width_ratio", r"$w\,/\,w(0)$", "#e7298a"),
)
_STRUCTURE = (("structure", "structure index", "#1f78b4"),)
_PANELS = (
    ("degree of emergence", _EMERGENCE),
    ("factors of E", _RATIOS),
    (r"structure index $\ln(w/w_{\mathrm{shuffled}})$", _STRUCTURE),
)


def controls_figure(controls: pd.DataFrame, title: str) -> Figure:
    """E split into growth and the rest, its two factors, and the structure index at unit norms, each with its interval.

    controls: rows of the table `controls` of one model. Bands are intervals by leaving out one node layer at a time.
    """
    known = controls.dropna(subset=["step"]).sort_values("step", kind="stable")
    with styled():
        figure = Figure(figsize=(6.4, 7.2))
        panels = figure.subplots(3, 1, sharex=True, squeeze=False)
        for axes, (label, lines) in zip(panels[:, 0], _PANELS, strict=True):
            _draw(axes, known, lines)
            axes.set_ylabel(label)
        steps = known["step"].unique()
        label_steps(panels[-1, 0], steps)
        panels[-1, 0].set_xlabel(f"training step (log axis{'; step 0 at the left edge' if 0 in steps else ''})")
        above = title_above(figure, f"{title}: what E is made of (bands: one node layer left out at a time)")
        arrange(figure, panels, above=above)
        draw_axes(figure, panels[:, 0])
        return figure


def _draw(axes: Axes, rows: pd.DataFrame, lines: tuple[tuple[str, str, str], ...]) -> None:
    axes.axhline(1.0 if lines is _RATIOS else 0.0, color="0.6", linewidth=0.8)
    for column, label, colour in lines:
        there = rows.dropna(subset=[column])
        x = position(there["step"].to_numpy(np.int64))
        axes.plot(x, there[column].to_numpy(float), color=colour, marker="o", markersize=3, label=label)
        if f"{column}_low" in rows and column != "emergence_growth":  # two bands one can tell apart, three no more
            low, high = (there[f"{column}_{end}"].to_numpy(float) for end in ("low", "high"))
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    bands_may_leave(axes, rows[[column for column, _, _ in lines]].to_numpy(float))
    if not rows[[column for column, _, _ in lines]].notna().any(axis=None):
        say_nothing(axes, "no checkpoint with a step has a value")
    elif len(lines) > 1:
        axes.legend(fontsize=6.5, loc="upper left")
