"""Figures of average weighted degrees over training (NeuroMFA, Fig. 5 and 21-23): tables in, matplotlib figures out."""

import math
from typing import Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ninscope.report.layout import (
    arrange,
    bar_axes,
    draw_axes,
    label_both,
    label_places,
    line_height,
    name_panel,
    say_nothing,
    styled,
    title_above,
    words_at,
)
from ninscope.report.step_axis import count, label_steps, position

NORMAL_KURTOSIS = 3.0
MAX_PANELS = 24
MAX_RIDGES = 8
_SMALL_PANELS = {"axes.titlepad": 2.0}
_BLUE = "#2a6f97"
_COLOURS = mpl.colormaps["viridis"]
_KURTOSIS = mpl.colormaps["RdBu_r"].with_extremes(bad="#d9d9d9")


def degrees_figure(degrees: pd.DataFrame, title: str) -> Figure:
    """Percentiles of the average weighted degree of each node layer against step: median, quartiles, 5 to 95 %.

    degrees: rows of the table `degrees` of one model (step, layer, p5, p25, p50, p75, p95). A panel a layer, a row of panels a
    block; of many blocks some, evenly spaced, first and last among them, and the title says how many.
    """
    known = degrees.dropna(subset=["step", "p50"]).sort_values("step", kind="stable")
    steps = _steps(known)
    with styled(_SMALL_PANELS):
        figure, grid, panels = _panels(known, f"{title}: average weighted degree over training", share=True)
        for layer, axes in panels.items():
            rows = known[known["layer"] == layer]
            x = position(rows["step"].to_numpy(np.int64))
            for low, high, alpha in (("p5", "p95", 0.18), ("p25", "p75", 0.35)):
                axes.fill_between(
                    x, rows[low].astype(float), rows[high].astype(float), color=_BLUE, alpha=alpha, linewidth=0
                )
            axes.plot(x, rows["p50"].astype(float), color=_BLUE, marker="o", markersize=2.5, linewidth=1.2)
            label_steps(axes, steps, least=2.6)
            axes.yaxis.set_major_locator(MaxNLocator(4))
        _label(figure, grid, "training step (log axis)", "average weighted degree: median, quartiles, 5–95 %")
        return figure


def degree_distributions_figure(
    nodes: pd.DataFrame, title: str, degrees: pd.DataFrame | None = None, min_degree: int = 10
) -> Figure:
    """Distributions of single nodes' average weighted degree, step upon step, with their kurtosis (Fig. 5 and 21-23).

    nodes: one row a node and step: step, layer, degree (average weighted degree), and edges, where nodes of min_degree edges
    or fewer are to be left out, as the table leaves them out. degrees: the table, for its kurtosis; without it, that of the
    nodes. A panel a layer as in `degrees_figure`; at most 8 steps, first and last among them.
    """
    known = nodes.dropna(subset=["step", "average_weighted_degree"])
    if "edges" in known:
        known = known[known["edges"] > min_degree]
    steps = _some(_steps(known), MAX_RIDGES)
    colours = _COLOURS(Normalize(0, max(len(steps) - 1, 1))(np.arange(len(steps))))
    with styled(_SMALL_PANELS | {"axes.grid": False}):
        figure, grid, panels = _panels(
            known, f"{title}: distributions of the average weighted degree (numbers: kurtosis)", 1.5
        )
        for layer, axes in panels.items():
            nodes_of_layer = known[known["layer"] == layer]
            shown = [
                nodes_of_layer.loc[nodes_of_layer["step"] == step, "average_weighted_degree"].to_numpy(float)
                for step in steps
            ]
            low, high = _range(shown)
            for number, (step, values) in enumerate(zip(steps, shown, strict=True)):
                base = len(steps) - 1 - number  # the first step on top
                axes.axhline(base, color="#bbbbbb", linewidth=0.5, zorder=0)
                if not values.size:
                    continue
                bins = int(np.clip(round(2 * values.size ** (1 / 3)), 5, 40))  # Rice's rule, of each step's own range
                inside = np.clip(values, low, high)
                counts, edges = np.histogram(inside, bins, (inside.min() - 1e-9, inside.max() + 1e-9))
                height = base + 0.92 * counts / counts.max()
                axes.stairs(height, edges, baseline=base, fill=True, color=colours[number], alpha=0.75, linewidth=0)
                axes.text(
                    0.99, base + 0.3, _number(_kurtosis_of(values, layer, step, degrees)), fontsize=6.5, ha="right",
                    va="center", transform=axes.get_yaxis_transform(),
                )  # fmt: skip
            axes.set_ylim(0, max(len(steps), 1))
            axes.set_xlim(low, high + 0.16 * (high - low))  # room for the numbers
            axes.set_yticks(np.arange(len(steps)) + 0.3, labels=[count(int(step)) for step in steps[::-1]])
            axes.tick_params(axis="y", length=0)
            axes.xaxis.set_major_locator(MaxNLocator(4))
        _label(figure, grid, "average weighted degree", "training step")
        return figure


def kurtosis_figure(degrees: pd.DataFrame, title: str) -> Figure:
    """Kurtosis of the average weighted degree, layer by step; white is 3, a normal distribution's, red has heavier tails.

    degrees: rows of the table `degrees` of one model (step, layer, kurtosis). Colours follow the logarithm. Grey: no kurtosis,
    since the layer has no node that counts, or all are alike.
    """
    steps = _steps(degrees.dropna(subset=["step"]))
    layers = list(dict.fromkeys(degrees["layer"]))
    values = np.full((len(layers), len(steps)), np.nan)
    places = {layer: row for row, layer in enumerate(layers)}, {int(step): column for column, step in enumerate(steps)}
    for layer, step, kurtosis in degrees.dropna(subset=["step"])[["layer", "step", "kurtosis"]].itertuples(index=False):
        values[places[0][layer], places[1][int(step)]] = kurtosis
    with styled({"axes.grid": False}):
        height = float(np.clip(1.6 + 0.2 * len(layers), 2.6, 12))
        figure = Figure(figsize=(float(np.clip(2.6 + 0.42 * len(steps), 4.8, 14)), height))
        axes = figure.add_subplot()
        axes.set_title(f"{title}: kurtosis of the average weighted degree")
        known = values[np.isfinite(values) & (values > 0)]
        if not known.size:
            axes.set_axis_off()
            say_nothing(axes, "no layer has a kurtosis at any step")
            return figure
        logs = np.log(np.where(values > 0, values, np.nan) / NORMAL_KURTOSIS)
        reach = max(math.log(known.max() / NORMAL_KURTOSIS), -math.log(known.min() / NORMAL_KURTOSIS), math.log(4 / 3))
        norm = TwoSlopeNorm(0, -reach, reach)
        axes.imshow(np.ma.masked_invalid(logs), cmap=_KURTOSIS, norm=norm, aspect="auto", interpolation="nearest")
        some = _some(np.arange(len(layers)), 48)
        label_places(axes.yaxis, some, [layers[row] for row in some])
        axes.tick_params(axis="y", labelsize=7 if len(some) <= 32 else 5)
        columns = _some(np.arange(len(steps)), 20)
        label_places(axes.xaxis, columns, [count(int(steps[column])) for column in columns])
        axes.tick_params(axis="x", labelsize=7)
        axes.set_xlabel("training step")
        if values.size <= 400:
            cells = np.argwhere(np.isfinite(values))
            numbers = [(_number(values[row, column]), "center", "center") for row, column in cells]
            strong = np.abs(norm(logs[tuple(cells.T)]) - 0.5) > 0.32
            colours = np.where(strong, "white", "black").tolist()
            axes.add_collection(
                words_at(numbers, cells[:, ::-1], axes.transData, 6, figure.dpi_scale_trans, colours), autolim=False
            )
        bar = figure.colorbar(ScalarMappable(norm, _KURTOSIS), cax=bar_axes(figure), label="kurtosis")
        ticks = _kurtosis_ticks(reach)
        bar.set_ticks(
            np.log(ticks / NORMAL_KURTOSIS).tolist(),
            labels=["3 (normal)" if tick == NORMAL_KURTOSIS else f"{tick:.3g}" for tick in ticks],
        )
        bar.ax.axhline(0, color="black", linewidth=0.8)
        arrange(figure, np.array([[axes]]), bars={0: bar.ax})
        draw_axes(figure, [axes, bar.ax])
        return figure


def _steps(rows: pd.DataFrame) -> np.ndarray:
    return np.array(sorted(rows["step"].dropna().unique()), dtype=np.int64)


def _some(values: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the values, evenly spaced, first and last among them."""
    if len(values) <= most:
        return values
    return values[np.unique(np.rint(np.linspace(0, len(values) - 1, most)).astype(int))]


def _panels(
    rows: pd.DataFrame, title: str, height: float = 1.25, share: bool = False
) -> tuple[Figure, np.ndarray, dict[str, Axes]]:
    """(figure, grid of panels, {layer: axes}) with a row of panels for each block that is shown.

    share: one ordinate for a column of blocks.
    """
    parts: dict[str, list[str]] = {}
    for layer in dict.fromkeys(rows["layer"]):
        parts.setdefault(layer.rpartition(".")[0], []).append(layer)
    widest = max((len(layers) for layers in parts.values()), default=1)
    if widest == 1 or widest > 6:  # no blocks of layers to put side by side
        layers = [layer for block in parts.values() for layer in block]
        chosen = _some(np.array(layers, dtype=object), MAX_PANELS).tolist()
        grid = [chosen[start : start + 4] for start in range(0, len(chosen), 4)]
        selection = f"{len(chosen)} of {len(layers)} layers" if len(chosen) < len(layers) else ""
    else:
        names = _some(np.array(list(parts), dtype=object), max(MAX_PANELS // widest, 1)).tolist()
        grid = [parts[name] for name in names]
        selection = f"{len(names)} of {len(parts)} blocks" if len(names) < len(parts) else ""
    sharing: Literal["col", "none"] = (
        "col" if share and len({tuple(layer.rpartition(".")[2] for layer in row) for row in grid}) == 1 else "none"
    )
    columns = max((len(row) for row in grid), default=1)
    rows_of_panels = max(len(grid), 1)
    size = (max(5.4, 2.35 * columns + 0.5), max(2.6, height * rows_of_panels + 1.0))
    figure = Figure(figsize=size)
    title_above(figure, f"{title}{f' ({selection})' if selection else ''}")
    panels = np.atleast_2d(figure.subplots(rows_of_panels, columns, squeeze=False, sharey=sharing))
    axes_of = {}
    for row, layers in enumerate(grid):
        for column in range(columns):
            if column < len(layers):
                axes_of[layers[column]] = panels[row, column]
                name_panel(panels[row, column], layers[column], 8.0)
            else:
                panels[row, column].set_axis_off()
    if not grid:
        panels[0, 0].set_axis_off()
        say_nothing(panels[0, 0], "no layer has a node that counts at any step")
    return figure, panels, axes_of


def _label(figure: Figure, panels: np.ndarray, x: str, y: str) -> None:
    """Label both axes of all panels together, and arrange the panels."""
    label_both(figure, x, y)
    for axes in panels.flat:
        axes.tick_params(labelsize=6.5)
    arrange(figure, panels, above=line_height(10) + 4, below=line_height(9) + 3, left=line_height(9) + 3)
    draw_axes(figure, panels.flat)


def _range(shown: list[np.ndarray]) -> tuple[float, float]:
    """Where at every step all but the outermost percent lies; values beyond are counted in the outermost bins."""
    ends = [np.percentile(values, [1, 99]) for values in shown if values.size]
    if not ends:
        return 0.0, 1.0
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    room = 0.05 * (high - low) or max(abs(low), 1.0) * 0.05
    return float(low - room), float(high + room)


def _kurtosis_of(values: np.ndarray, layer: str, step: int, degrees: pd.DataFrame | None) -> float:
    if degrees is not None:
        kurtosis = degrees.loc[(degrees["layer"] == layer) & (degrees["step"] == step), "kurtosis"]
        return float(kurtosis.iloc[0]) if len(kurtosis) else math.nan
    spread = values.std()
    return float((((values - values.mean()) / spread) ** 4).mean()) if spread > 0 else math.nan


def _number(kurtosis: float) -> str:
    if math.isnan(kurtosis):
        return ""
    return f"{kurtosis:.1f}" if kurtosis < 99.5 else f"{kurtosis:.0f}"


def _kurtosis_ticks(reach: float) -> np.ndarray:
    """3, and round numbers around it within e^reach either way."""
    steps = [1.2, 1.5, 2, 2.5, 4, 6, 10, 20, 50, 100, 300, 1000]
    inside = [tick for tick in steps if abs(math.log(tick / NORMAL_KURTOSIS)) <= reach]
    far = [tick for tick in inside if abs(math.log(tick / NORMAL_KURTOSIS)) > reach / 8]  # not upon each other
    return np.array(sorted([*far, NORMAL_KURTOSIS]))
