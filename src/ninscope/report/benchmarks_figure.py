"""The results that came with a model, beside its E: one panel for every task and metric."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ninscope.report.figures import LINES, against, benchmark_label, methods, series_of
from ninscope.report.layout import arrange, draw_axes, name_panel, styled, title_above
from ninscope.report.step_axis import label_steps, position

_COLUMNS = 4  # panels side by side
_MOST = 40  # panels of one figure
_APART = 1.7  # of labels of steps in these panels, on an axis as long as `_LONG`
_LONG = 12.0  # an axis of steps 0 to 4000
_GREEN, _GREY = "#2d6a4f", "#6c757d"


def benchmarks_figure(emergence: pd.DataFrame, benchmarks: pd.DataFrame, title: str) -> Figure:
    """Every (task, metric) against step, the first 40 of them, and in a panel of its own E.

    emergence, benchmarks: rows of these tables of one model.
    """
    series = dict(list(series_of(benchmarks).items())[:_MOST])
    left_out = len(series_of(benchmarks)) - len(series)
    rows = emergence.dropna(subset=["step"]).sort_values("step")
    count = len(series) + 1
    columns = min(_COLUMNS, count)
    lines = math.ceil(count / columns)
    with styled():
        figure = Figure(figsize=(2.9 * columns + 0.6, 2.3 * lines + 0.8))
        panels = figure.subplots(lines, columns, sharex=True, squeeze=False)
        beyond = f" ({left_out} more are in the table benchmarks)" if left_out else ""
        above = title_above(figure, f"{title}: results that came with it{beyond}")
        first, *others = panels.flat
        for method, part in methods(rows):
            x = position(part["step"].to_numpy(np.int64))
            first.plot(x, part["emergence"].to_numpy(float), color=_GREEN, **LINES[method])
        first.set_title(f"E{against(rows)}", fontsize=9)
        for axes, ((task, metric), results) in zip(others, series.items(), strict=False):
            x = position(results["step"].to_numpy(np.int64))
            axes.plot(x, results["value"].to_numpy(float), color=_GREY, marker="s", markersize=3, linewidth=1)
            name_panel(axes, benchmark_label(task, metric))
        for axes in panels.flat[count:]:
            axes.set_visible(False)
        steps = sorted({*rows["step"], *(step for results in series.values() for step in results["step"])})
        longer = max(1.0, np.ptp(position(steps)) / _LONG) if steps else 1.0
        for number in range(count):
            axes = panels.flat[number]
            label_steps(axes, steps, least=_APART * longer)
            if number + columns >= count:
                axes.xaxis.set_tick_params(labelbottom=True)
                axes.set_xlabel("training step (log axis)")
        arrange(figure, panels, above=above)
        draw_axes(figure, panels.flat[:count])
        return figure
