"""Figures of what `ninscope measure` found of several sources, or of revisions that state no step."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ninscope.report.figures import (
    LINES,
    against,
    has_warning,
    legend_beside,
    mark_warnings,
    method_label,
    methods,
    say_why,
)
from ninscope.report.layout import arrange, draw_axes, label_places, styled, text_width
from ninscope.report.step_axis import label_steps, position
from ninscope.wording import joined_clauses

_VALUES = {"alpha0": r"regularity $\alpha_0$", "width": r"heterogeneity $w$", "emergence": "degree of emergence E"}
_NAME_SIZE = 8


def sources_figure(rows: pd.DataFrame) -> Figure:
    """alpha0, width and E of several sources over their steps, one line each.

    rows: of `MeasuredRows.to_frame()`, with the source in `model`. What states no step is left out, and the title says so.
    """
    with styled():
        figure = Figure()
        panels = figure.subplots(len(_VALUES), 1, sharex=True)
        known = rows.dropna(subset=["step"]).sort_values("step")
        models = known.groupby("model", sort=False)
        colours = mpl.colormaps["plasma"](np.linspace(0, 0.85, max(len(models), 1)))
        several = known["method"].nunique() > 1
        for axes, (name, label) in zip(panels, _VALUES.items(), strict=True):
            for (model, of_model), colour in zip(models, colours, strict=True):
                for method, part in methods(of_model):
                    shown = f"{model}, {method_label(method)}" if several else str(model)
                    x = position(part["step"].to_numpy(np.int64))
                    axes.plot(x, part[name].to_numpy(float), color=colour, label=shown, **LINES[method])
            mark_warnings(axes, known, name)
            axes.set_ylabel(label + (against(known) if name == "emergence" else ""))
            say_why(axes, known, name)
        without = int(rows["step"].isna().sum())
        panels[0].set_title(joined_clauses("Over training", f"{without} without a step left out" if without else ""))
        label_steps(panels[-1], known["step"].unique())
        panels[-1].set_xlabel("training step (log axis)")
        beside = legend_beside(panels[0])
        figure.set_size_inches(6.4 + beside / 72, max(7.6, 0.9 + 0.14 * len(panels[0].lines)))
        arrange(figure, panels[:, None], beyond=beside)
        draw_axes(figure, list(panels))
        return figure


def named_figure(rows: pd.DataFrame) -> Figure:
    """alpha0 and width, and E where there is one, of revisions by their names, where none states a step.

    rows: as in `sources_figure`, at least one.
    """
    with styled():
        known = list(_VALUES)[: 3 if rows["emergence"].notna().any() else 2]
        names = [
            model if revision in (model, "main") else f"{model} {revision}"
            for model, revision in zip(rows["model"], rows["revision"], strict=True)
        ]
        figure = Figure(figsize=(6.4 + text_width(max(names, key=len), _NAME_SIZE) / 72, 1.1 + 0.26 * len(names)))
        panels = figure.subplots(1, len(known), sharey=True, squeeze=False)[0]
        places = np.arange(len(names))[::-1]
        for axes, name in zip(panels, known, strict=True):
            axes.plot(rows[name].to_numpy(float), places, "o", color="#2a6f97")
            mark_warnings(axes, rows, name, places, turned=True)
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.set_xlabel(_VALUES[name])
            axes.set_ylim(-0.6, len(names) - 0.4)
            say_why(axes, rows, name)
            axes.tick_params(axis="y", labelsize=_NAME_SIZE, labelleft=axes is panels[0])
        label_places(panels[0].yaxis, places, names)
        panels[0].set_title("rings: with a warning" if has_warning(rows).any() else "")
        arrange(figure, panels[None, :])
        draw_axes(figure, list(panels))
        return figure
