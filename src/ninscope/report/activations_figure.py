"""Does monosemanticity fall while a model trains, and as models grow? phi over steps, and over sizes."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from ninscope.neurons.finetuning.recipe import ALL_LAYERS
from ninscope.report.layout import arrange, say_nothing, styled, text_width, title_above
from ninscope.report.step_axis import label_steps, position

_MEASURES = (("phi_p99", "99th percentile"), ("phi_largest_mean", "largest of a sample, mean"))
_NAME_SIZE = 6  # of a model's name, to the right of its point


def activations_figure(activations: pd.DataFrame, checkpoints: pd.DataFrame, title: str) -> Figure:
    """phi's tail against the training step, a line a model (thin ones: its layers), and at the last step that all models have
    against their sizes.

    activations: rows of that table of one task; checkpoints: the table, for parameters. Sizes have panels where there are several.
    """
    with styled():
        rows = activations.dropna(subset=["step", "phi_mean"]).merge(
            checkpoints[["suite", "model", "revision", "parameters"]], on=["suite", "model", "revision"], how="left"
        )
        models = rows[["suite", "model"]].drop_duplicates()
        several = len(models) > 1
        figure = Figure(figsize=(6.4 if not several else 9.6, 6.4))
        panels = figure.subplots(2, 2 if several else 1, squeeze=False)
        above = title_above(figure, f"{title}: monosemantic scale")
        colours = mpl.colormaps["viridis"](np.linspace(0, 0.8, max(len(models), 1)))
        for line, (column, label) in zip(panels, _MEASURES, strict=True):
            if rows.empty:
                say_nothing(line[0], "no checkpoint has activations with a step")
            for (suite, model), colour in zip(models.itertuples(index=False), colours, strict=False):
                part = rows[(rows["suite"] == suite) & (rows["model"] == model)]
                _over_steps(line[0], part, column, colour, model)
            line[0].set_ylabel(rf"$\phi$, {label}")
            line[0].set_yscale("log")
            _plain_numbers(line[0])
            label_steps(line[0], rows["step"].unique())
            if several:
                _over_sizes(line[1], rows, column)
        panels[-1][0].set_xlabel("training step (log axis)")
        below = _legend_below(figure, panels[0][0]) if not rows.empty else 0.0
        names = max((text_width(model, _NAME_SIZE) for model in models["model"]), default=0.0) if several else 0.0
        arrange(figure, panels, above=above, below=below, beyond=names)
        return figure


def _legend_below(figure: Figure, axes: Axes) -> float:
    """The legend of a panel below all panels, where it hides no curve; returns its height in points. The figure grows by it."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if len(labels) > 1 else 1
    height = 10.0 * -(-len(labels) // columns) + 6.0
    width, tall = figure.get_size_inches()
    figure.set_size_inches(width, tall + height / 72)
    figure.legend(handles, labels, fontsize=7, loc="lower center", ncols=columns, borderaxespad=0.2)
    return height


def _over_steps(axes: Axes, rows: pd.DataFrame, column: str, colour: np.ndarray, model: str) -> None:
    for layer, part in rows.groupby("layer", sort=False):
        part = part.sort_values("step")
        x, y = position(part["step"].to_numpy(np.int64)), part[column].to_numpy(float)
        if layer == ALL_LAYERS:
            axes.plot(x, y, color=colour, marker="o", markersize=3, label=f"{model}, all layers")
        else:
            axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.5)


def _over_sizes(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    whole = rows[(rows["layer"] == ALL_LAYERS) & rows["parameters"].notna()]
    steps = [set(part["step"]) for _, part in whole.groupby(["suite", "model"])]
    if not steps or not (shared := set.intersection(*steps)):
        say_nothing(axes, "no step that all models have")
        return
    last = whole[whole["step"] == max(shared)].drop_duplicates(["suite", "model"]).sort_values("parameters")
    axes.set_title(f"step {max(shared)}", fontsize=9)
    axes.plot(last["parameters"].to_numpy(float), last[column].to_numpy(float), "o-", color="#2a6f97", markersize=4)
    for row in last.itertuples():
        axes.annotate(row.model, (row.parameters, getattr(row, column)), fontsize=_NAME_SIZE)
    axes.set(xscale="log", yscale="log", xlabel="parameters")
    _plain_numbers(axes)


def _plain_numbers(axes: Axes) -> None:
    """7, 8, 9 on an axis that spans less than a decade, not powers of ten."""
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(ScalarFormatter())
    axes.tick_params(axis="y", which="minor", labelsize=7)
