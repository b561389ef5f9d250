"""Where in a model E arises: heat maps of its parts over training."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ninscope.report.analysis_rows import ALL_PARTS
from ninscope.report.figures import against, has_warning
from ninscope.report.layout import arrange, bar_axes, draw_axes, label_places, say_nothing, styled, title_above
from ninscope.report.step_axis import cell_edges, label_steps, position

# In the order from below, as the parts are named: grouping/part.
_TITLES = {"block": "blocks", "kind": "kinds", "layer": "layers"}
_ROW, _TALLEST = 0.26, 7.0  # inches: of one part, and of all parts of a heat map at most
_LABEL_SIZES = (8, 6)  # points: the larger one where there is room
_APART, _LONG = 1.3, 10.0  # labels of steps, on an axis of this length or less; on a longer one all stands closer
_LINE = 1.15  # of a label, in sizes
_SHOWN = (("emergence", "degree of emergence E", "RdBu_r"), ("alpha0", r"regularity $\alpha_0$", "viridis"))


def groupings_of(emergence: pd.DataFrame) -> list[str]:
    """By what the parts in these rows are grouped, of block, kind and layer."""
    known = {part.partition("/")[0] for part in emergence["part"]}
    return [name for name in _TITLES if name in known]


def parts_figure(emergence: pd.DataFrame, title: str) -> Figure:
    """E and alpha0 of every part (one row) at every step (one column): blocks, kinds and layers, the whole network above them.

    emergence: rows of the table `emergence` of one model and one variant, with those of its parts. Of two methods the exact one
    is shown. What is not known is grey; a cell with a warning has a dot. E is red above 0 and blue below, of one scale for
    all parts.
    """
    rows = emergence.dropna(subset=["step"])
    methods = rows["method"].unique()
    method = "exact" if "exact" in methods else methods[0]
    rows = rows[rows["method"] == method].astype({"step": "int64"})
    groupings = {name: rows[rows["part"].str.startswith(f"{name}/")] for name in groupings_of(rows)}
    tables = {"": rows[rows["part"] == ALL_PARTS], **groupings}
    sizes = [max(part["part"].nunique(), 1) for part in tables.values()]
    heights = [0.32 + min(_ROW * size, _TALLEST) for size in sizes]
    with styled({"axes.grid": False}):
        figure = Figure(figsize=(10.4, sum(heights) + 1.5))
        panels = figure.subplots(len(tables), 2, sharex=True, height_ratios=heights, squeeze=False)
        measured = {"exact": "whole network", "sampled": "means over samples"}[method]
        dots = "; dots: with a warning" if has_warning(rows).any() else ""
        above = title_above(figure, f"{title}: where in the model ({measured}{dots})")
        bars = {}
        steps = np.array(sorted(rows["step"].unique()), dtype=np.int64)
        for column, (name, label, colours) in enumerate(_SHOWN):
            shades = _shades(rows[name].to_numpy(float), symmetric=name == "emergence")
            drawn = None
            for axes, (grouping, part) in zip(panels[:, column], tables.items(), strict=True):
                drawn = _heat_map(axes, part, name, steps, shades, colours) or drawn
                if grouping and column == 0:
                    axes.set_ylabel(_TITLES[grouping])
                if column:
                    axes.tick_params(axis="y", labelleft=False)
            if drawn is not None:
                bar = figure.colorbar(drawn, cax=bar_axes(figure))
                bars[column] = bar.ax
                bar.ax.set_ylim(
                    np.nanmin([0, *rows[name]]) if column == 0 else None
                )  # shades that do not occur are left out
            named = label + against(rows) if name == "emergence" else label
            panels[0, column].set_title(named, fontsize=9)
            label_steps(panels[-1, column], steps, least=_APART * max(1.0, np.ptp(position(steps)) / _LONG))
            panels[-1, column].set_xlabel("training step (log axis)")
        arrange(figure, panels, above=above, bars=bars, heights=heights)
        draw_axes(figure, [*panels.flat, *bars.values()])
        return figure


def _shades(values: np.ndarray, symmetric: bool) -> Normalize:
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    return Normalize(low, high if high > low else low + 1.0)


def _heat_map(
    axes: Axes, rows: pd.DataFrame, name: str, steps: np.ndarray, shades: Normalize, colours: str
) -> QuadMesh | None:
    """Parts in the order of the table, the first (nearest to the input) below; returns what a colour bar is made from."""
    parts = list(dict.fromkeys(rows["part"]))
    if not parts or not steps.size:
        say_nothing(axes, "no checkpoint has a spectrum")
        return None
    table = rows.pivot_table(index="part", columns="step", values=name, dropna=False, aggfunc="first", observed=False)
    values = table.reindex(index=parts, columns=steps).to_numpy(float)
    cells = axes.pcolormesh(
        cell_edges(position(steps)), np.arange(len(parts) + 1), np.ma.masked_invalid(values), norm=shades, cmap=colours
    )
    axes.set_facecolor("#d0d0d0")
    _mark_warnings(axes, rows, parts)
    labels = ["whole network" if part == ALL_PARTS else part.partition("/")[2] for part in parts]
    size = _LABEL_SIZES[len(parts) > _most_labels(_LABEL_SIZES[0])]
    labelled = _labelled(labels, _most_labels(size))
    label_places(axes.yaxis, np.array(labelled) + 0.5, [labels[number] for number in labelled])
    axes.tick_params(length=0)
    axes.tick_params(axis="y", labelsize=size)
    return cells


def _most_labels(size: float) -> int:
    """How many labels of this size stand above each other in the tallest heat map."""
    return int(_TALLEST * 72 / (_LINE * size))


def _labelled(labels: list[str], most: int) -> list[int]:
    """Which rows have a label: all; where these are too many, the same layer of every block; of too many blocks some."""
    chosen = list(range(len(labels)))
    if len(chosen) > most:
        first = labels[0].rpartition(".")[2]
        chosen = [number for number in chosen if labels[number].rpartition(".")[2] == first]
    return chosen[:: -(-len(chosen) // most)]


def _mark_warnings(axes: Axes, rows: pd.DataFrame, parts: list[str]) -> None:
    """A dot in every cell that is not to be trusted."""
    warned = rows[has_warning(rows)]
    heights = {part: number + 0.5 for number, part in enumerate(parts)}
    x = position(warned["step"].to_numpy(np.int64))
    axes.plot(x, [heights[part] for part in warned["part"]], ".", color="black", markersize=2.5, label="warning")
