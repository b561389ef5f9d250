"""What matrices write beside what others read, over training, and who is coupled to whom: tables in, matplotlib figures out."""

import math
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ninscope.report.figures import LINES, against, beside_emergence, methods
from ninscope.report.layout import (
    arrange,
    bar_axes,
    draw_axes,
    label_places,
    plain,
    say_nothing,
    styled,
    text_width,
    title_above,
    words_at,
)
from ninscope.report.step_axis import label_steps, position

KINDS = {"mlp": "MLP: in to out", "vo": "v to o, heads", "qk": "k to q, heads", "across": "across blocks"}
_COLOURS = {"mlp": "#2a6f97", "vo": "#8d5524", "qk": "#9d4edd", "across": "#d62898"}
_MORE = ("#40916c", "#577590", "#bc6c25", "#e36414")
_GREEN, _GREY, _BLUE, _RED = "#2d6a4f", "#6c757d", "#2a6f97", "#c1121f"
_SHADES = mpl.colormaps["RdBu_r"].with_extremes(bad="#d9d9d9")
_LEGEND_SIZE = 7
_MOST_LABELS = 40
_MOST_NUMBERS = 150  # cells with a number in them
_WHOLE = "all"  # the row of the table `weights` that is a network


def interactions_figure(
    interactions: pd.DataFrame,
    emergence: pd.DataFrame,
    benchmarks: pd.DataFrame,
    weights: pd.DataFrame,
    title: str,
) -> Figure:
    """Coupling of each kind of pair, spikes, and E beside the loss, against step.

    interactions, emergence, benchmarks, weights: rows of these tables of one model. A kind's line is the mean over its pairs, its
    band the middle half of them. Where weights know no spikes there is no panel of them.
    """
    with styled():
        known = interactions.dropna(subset=["step", "coupling"])
        spikes = _spikes(weights)
        count = 2 if spikes is None else 3
        figure = Figure(figsize=(6.4, 0.6 + 2.35 * count))
        panels = figure.subplots(count, 1, sharex=True)
        steps = np.array(sorted(interactions["step"].dropna().unique()), dtype=np.int64)
        _coupling_panel(panels[0], known, interactions)
        panels[0].set_title(f"{title}: interaction over training (lines: means; bands: the middle half)")
        twins = []
        if spikes is not None:
            twins.append(_spikes_panel(panels[1], spikes))
        beside = _emergence_panel(panels[-1], emergence.dropna(subset=["step"]).sort_values("step"), benchmarks)
        twins += [] if beside is None else [beside]
        label_steps(panels[-1], steps)
        panels[-1].set_xlabel(f"training step (log axis{'; step 0 at the left edge' if 0 in steps else ''})")
        arrange(figure, panels[:, None], twin=twins)
        draw_axes(figure, [*panels, *twins])
        return figure


def _spikes(weights: pd.DataFrame) -> pd.DataFrame | None:
    """Mean spikes and spike_share over the matrices of each step, by step."""
    rows = weights[weights["matrix"] != _WHOLE].dropna(subset=["step", "spikes", "spike_share"])
    if rows.empty:
        return None
    rows = rows.astype({"step": "int64", "spikes": float})
    return rows.groupby("step")[["spikes", "spike_share"]].mean()


def _coupling_panel(axes: Axes, known: pd.DataFrame, rows: pd.DataFrame) -> None:
    axes.set_ylabel("coupling C")
    if known.empty:
        messages = rows["message"].dropna()
        say_nothing(axes, messages.iloc[0] if len(messages) else "no pair of matrices has a coupling")
        return
    axes.axhline(0, color="black", linewidth=0.6)
    others = [kind for kind in dict.fromkeys(known["kind"]) if kind not in KINDS]
    colours = _COLOURS | {kind: _MORE[number % len(_MORE)] for number, kind in enumerate(others)}
    for kind in [*KINDS, *others]:
        part = known[known["kind"] == kind]
        if part.empty:
            continue
        grouped = part.astype({"step": "int64"}).groupby("step")["coupling"]
        means = grouped.mean()
        x = position(means.index.to_numpy())
        axes.fill_between(
            x, grouped.quantile(0.25), grouped.quantile(0.75), color=colours[kind], alpha=0.18, linewidth=0
        )
        label = f"{KINDS.get(kind, str(kind).replace('_', ' '))} ({int(grouped.size().max())} pairs)"
        axes.plot(x, means, color=colours[kind], marker="o", markersize=3, label=plain(label))
    axes.legend(fontsize=_LEGEND_SIZE)


def _spikes_panel(axes: Axes, spikes: pd.DataFrame) -> Axes:
    x = position(spikes.index.to_numpy())
    lines = axes.plot(x, spikes["spikes"], color=_BLUE, marker="o", markersize=3, label="spikes of a matrix, mean")
    axes.set_ylabel("spikes", color=_BLUE)
    twin = _twin(axes)
    lines += twin.plot(
        x,
        spikes["spike_share"],
        color=_RED,
        marker="s",
        markersize=3,
        linestyle="-.",
        label=r"their share of $\|W\|^2$",
    )
    twin.set_ylabel("share", color=_RED)
    for panel in (axes, twin):
        panel.set_ylim(0, None)
    axes.legend(handles=lines, fontsize=_LEGEND_SIZE, loc="upper left")
    return twin


def _emergence_panel(axes: Axes, rows: pd.DataFrame, benchmarks: pd.DataFrame) -> Axes | None:
    """E by its methods, and the loss on a second ordinate, where there is one; returns the axes of that."""
    axes.set_ylabel("degree of emergence E", color=_GREEN)
    lines = []
    if rows["emergence"].isna().all():
        axes.set_yticks([])
        say_nothing(axes, rows["message"].iloc[0] if len(rows) else "no checkpoint has a spectrum")
    else:
        axes.axhline(0, color="black", linewidth=0.6)
        for method, part in methods(rows):
            shown = "whole network" if method == "exact" else "samples"
            x = position(part["step"].to_numpy(np.int64))
            label = f"E{against(rows)}, {shown}"
            lines += axes.plot(x, part["emergence"].to_numpy(float), color=_GREEN, label=label, **LINES[method])
    name, results = beside_emergence(benchmarks)
    twin = None
    if len(results):
        twin = _twin(axes)
        x = position(results["step"].to_numpy(np.int64))
        lines += twin.plot(
            x, results["value"], color=_GREY, marker="s", markersize=3, linestyle="-.", label=plain(name)
        )
        twin.set_ylabel(plain(name), color=_GREY)
    if lines:
        axes.legend(handles=lines, fontsize=_LEGEND_SIZE, loc="upper center")
    return twin


def _twin(axes: Axes) -> Axes:
    twin = axes.twinx()
    twin.spines["right"].set_visible(True)
    twin.grid(visible=False)
    return twin


def coupling_map_figure(interactions: pd.DataFrame, title: str) -> Figure:
    """Coupling at the last step, the writer's block by the reader's: means over pairs, across blocks and within them.

    interactions: rows of that table of one model. Red: more than at random; blue: less. Grey: no pair. A row is what a block
    writes, a column what a block reads.
    """
    known = interactions.dropna(subset=["step", "coupling"])
    step = int(known["step"].max()) if len(known) else None
    last = known[known["step"] == step]
    parts = {"across blocks": last[last["kind"] == "across"], "within blocks": last[last["kind"] != "across"]}
    parts = {name: part for name, part in parts.items() if len(part)}
    with styled({"axes.grid": False}):
        figure = Figure(figsize=(2.2 + 3.6 * max(len(parts), 1), 4.1))
        panels = np.atleast_1d(figure.subplots(1, max(len(parts), 1)))
        at = "" if step is None else f" (step {step})"
        above = title_above(
            figure,
            f"{title}: coupling of what blocks write and read{at}",
        )
        if not parts:
            panels[0].set_axis_off()
            say_nothing(panels[0], "no pair of matrices has a coupling")
            return figure
        tables = [_by_block(part, name) for name, part in parts.items()]
        reach = max(max(float(np.nanmax(np.abs(table.to_numpy(float)))) for table in tables), 0.05)
        norm = Normalize(-reach, reach)
        for axes, table, name in zip(panels, tables, parts, strict=True):
            _draw_map(figure, axes, table, norm)
            axes.set_title(name, fontsize=9)
            axes.set_xlabel("reader's block" if name == "across blocks" else "kind of pair")
        panels[0].set_ylabel("writer's block")
        bar = figure.colorbar(ScalarMappable(norm, _SHADES), cax=bar_axes(figure), label="coupling C")
        shown = np.concatenate([table.to_numpy(float).ravel() for table in tables])
        bar.ax.set_ylim(min(float(np.nanmin(shown)), 0.0), reach)  # shades that do not occur are left out
        arrange(figure, panels[None, :], above=above, bars={len(panels) - 1: bar.ax})
        for axes, table in zip(panels, tables, strict=True):
            _thin_names(axes, _short(table.columns))
        draw_axes(figure, [*panels, bar.ax])
        return figure


def _by_block(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Mean coupling, a row a writer's block and a column a reader's block or, within blocks, a kind."""
    writers = rows["writer"].map(_block_of)
    columns = rows["reader"].map(_block_of) if name == "across blocks" else rows["kind"].astype(str)
    table = (
        rows["coupling"].astype(float).groupby([writers.rename("writer"), columns.rename("column")]).mean().unstack()
    )
    if name == "across blocks":  # in the order of the table, which is that of the model
        return table.reindex(index=list(dict.fromkeys(writers)), columns=list(dict.fromkeys(columns)))
    known = [kind for kind in KINDS if kind in table.columns]
    return table.reindex(
        index=list(dict.fromkeys(writers)), columns=[*known, *(kind for kind in table.columns if kind not in known)]
    )


def _block_of(matrix: str) -> str:
    """The block of the layer that a matrix reads: what stands before the last point of its name."""
    source = matrix.partition(" -> ")[0]
    return source.rpartition(".")[0] or source


def _short(names: pd.Index) -> list[str]:
    return [re.sub(r"^block(?=\d)", "", str(name)) for name in names]


def _name(axis: Axis, names: list[str], every: int) -> None:
    label_places(axis, np.arange(len(names))[::every], names[::every])


def _thin_names(axes: Axes, names: list[str]) -> None:
    """Of the names below a map that is placed, only as many as do not meet."""
    width = max(text_width(name, 8) for name in names) + 6.0
    cell = axes.bbox.width / axes.figure.dpi * 72 / len(names)
    _name(axes.xaxis, names, max(math.ceil(width / cell), -(-len(names) // _MOST_LABELS)))


def _draw_map(figure: Figure, axes: Axes, table: pd.DataFrame, norm: Normalize) -> None:
    values = table.to_numpy(float)
    axes.imshow(np.ma.masked_invalid(values), cmap=_SHADES, norm=norm, aspect="auto", interpolation="nearest")
    for axis, names in ((axes.yaxis, table.index), (axes.xaxis, table.columns)):
        _name(axis, _short(names), max(-(-len(names) // _MOST_LABELS), 1))
    axes.tick_params(length=0, labelsize=8 if max(values.shape) <= 20 else 6)
    if values.size <= _MOST_NUMBERS:
        cells = np.argwhere(np.isfinite(values))
        numbers = [(f"{values[row, column]:.2f}", "center", "center") for row, column in cells]
        strong = np.abs(norm(values[tuple(cells.T)]) - 0.5) > 0.32
        colours = np.where(strong, "white", "black").tolist()
        axes.add_collection(
            words_at(numbers, cells[:, ::-1], axes.transData, 7, figure.dpi_scale_trans, colours), autolim=False
        )
