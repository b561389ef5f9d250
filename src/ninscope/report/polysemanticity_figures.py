"""Polysemanticity while networks train and after they are pruned, with bands over seeds; verdicts; and what measures see of it.

Tables in, matplotlib figures out. The thesis' figures are here by experiment: 7, 12, 13, 15, 17, 20, 30 and 31 (training), and
8 to 10, 14, 16, 18, 21 to 23, 25, 27, 28 and 32 (pruning). It has one seed; here lines are means over seeds.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ninscope.neurons.polysemanticity.over_seeds import mean_over_seeds
from ninscope.neurons.polysemanticity.slopes import unpruned_networks
from ninscope.neurons.polysemanticity.table_names import ALL_LAYERS, DEGREES, PRUNED, RETRAINED, TRAINING, dropout_name
from ninscope.report.layout import arrange, name_panel, plain, say_nothing, styled, title_above
from ninscope.report.polysemanticity_correlations_figure import correlations_figures
from ninscope.report.polysemanticity_slopes_figure import slopes_figures
from ninscope.report.polysemanticity_style import COLOURS, GREY, LINES, LOSS, MARKERS, legend_below
from ninscope.wording import of_number

_ROOM = 0.25  # of the seeds' range: as far a band is shown beyond them
_LEAST_RANGE = 0.02  # of the values: less would show rounding, of a D that is 1 throughout
_BANDS = "95 % t interval of the mean, also beyond the panel"
_DEGREE = "degree of polysemanticity P"
_FEATURES = "total feature dimensionality D"


def polysemanticity_figures(
    polysemanticity: pd.DataFrame, slopes: pd.DataFrame, correlations: pd.DataFrame
) -> Iterator[tuple[str, Figure]]:
    """(file name, figure): of every experiment its training and its pruning, then the verdicts, then what measures see.

    polysemanticity, slopes, correlations: the tables `polysemanticity`, `polysemanticity_slopes` and
    `polysemanticity_correlations`. There is no figure of what has no value.
    """
    for experiment, every in polysemanticity.groupby("experiment", sort=False):
        rows = every[every["P"].notna()]
        if (rows["phase"] == TRAINING).any():
            yield f"polysemanticity-{experiment}-training.png", _training_figure(rows, str(experiment))
        pruned = rows[rows["phase"].isin([PRUNED, RETRAINED])]
        if len(pruned):
            baselines = unpruned_networks(every).assign(pruning_ratio=0.0)
            baselines = baselines[baselines["P"].notna()]
            yield f"polysemanticity-{experiment}-pruning.png", _pruning_figure(pruned, baselines, str(experiment))
    yield from slopes_figures(slopes, polysemanticity)
    yield from correlations_figures(correlations)


def _training_figure(rows: pd.DataFrame, experiment: str) -> Figure:
    """P, D and the held-out loss after every epoch, a line a dropout (thesis, figures 7, 12, 13, 15, 17, 20, 30 and 31)."""
    training = rows[(rows["phase"] == TRAINING) & (rows["layer"] == ALL_LAYERS)]
    with styled():
        lines = [
            (column, label)
            for column, label in (("P", _DEGREE), ("P_samples", DEGREES["P_samples"]), ("D", _FEATURES), ("loss", LOSS))
            if column in training
        ]
        figure = Figure(figsize=(3.2 * len(lines), 3.4))
        panels = figure.subplots(1, len(lines), squeeze=False)
        above = title_above(figure, f"{plain(experiment)} while it trains: {_seeds_of(training)}")
        handles: list[Artist] = []
        for axes, (column, label) in zip(panels[0], lines, strict=True):
            shown = []
            for number, dropout in enumerate(sorted(training["dropout"].unique().tolist())):
                own = training[training["dropout"] == dropout]
                colour, line = COLOURS[number % 4], LINES[number % 4]
                shown.append(_curve(axes, own, "epoch", column, colour, line))
                if axes is panels[0, 0]:
                    handles.append(Line2D([], [], color=colour, linestyle=line, label=dropout_name(dropout)))
            _finish(axes, shown, f"no epoch has a {column}", logarithmic=column == "loss")
            axes.set(ylabel=label, xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        below = legend_below(figure, handles + _band_handles(training))
        arrange(figure, panels, above=above, below=below)
        return figure


def _pruning_figure(pruned: pd.DataFrame, baselines: pd.DataFrame, experiment: str) -> Figure:
    """P, P of each layer, P D, D and the loss against the true pruning ratio, without and with dropout (thesis, figures 8 to 10,
    14, 16, 18, 21 to 23, 25, 27, 28 and 32).

    baselines: the unpruned networks, at ratio 0, from which all curves begin.
    """
    rows = pd.concat([baselines, pruned]).assign(PD=lambda table: table["P"] * table["D"])
    dropouts = sorted(pruned["dropout"].unique().tolist())
    rates = sorted(pruned["learning_rate"].dropna().unique().tolist())
    lines = (
        ("P", "P"),
        *((("P_samples", DEGREES["P_samples"]),) if "P_samples" in rows else ()),
        ("layers", "P of each layer,\nretrained"),
        ("PD", r"P$\,\cdot\,$D"),
        ("D", "D"),
        ("loss", LOSS),
    )
    with styled():
        figure = Figure(figsize=(3.7 * len(dropouts) + 1.0, 2.1 * len(lines)))
        panels = figure.subplots(len(lines), len(dropouts), sharex=True, sharey="row", squeeze=False)
        whole = pruned[pruned["layer"] == ALL_LAYERS]
        above = title_above(
            figure,
            f"{plain(experiment)} after pruning: degree of polysemanticity P, total feature dimensionality D; {_seeds_of(whole)}",
        )
        for row, (column, label) in zip(panels, lines, strict=True):
            shown = []
            for axes, dropout in zip(row, dropouts, strict=True):
                own = rows[rows["dropout"] == dropout]
                shown += (
                    _layer_curves(axes, own, rates) if column == "layers" else _pruning_curves(axes, own, rates, column)
                )
            for axes in row:
                _finish(axes, shown, "no network has a value", logarithmic=column == "loss")
            row[0].set_ylabel(label)
        for axes, dropout in zip(panels[0], dropouts, strict=True):
            name_panel(axes, dropout_name(dropout))
        _label_outer(panels, "true pruning ratio (share of the parameters)")
        below = legend_below(figure, _pruning_handles(rates, _layers_of(rows)) + _band_handles(whole))
        arrange(figure, panels, above=above, below=below, beyond=8.0)
        return figure


def _label_outer(panels: np.ndarray, x: str) -> None:
    """Numbers at the left and at the bottom of a grid alone, and there the label x."""
    for axes in panels[:-1].flat:
        axes.xaxis.set_tick_params(labelbottom=False)
    for axes in panels[:, 1:].flat:
        axes.yaxis.set_tick_params(which="both", labelleft=False)
    for axes in panels[-1]:
        axes.set_xlabel(x)


def _pruning_curves(axes: Axes, rows: pd.DataFrame, rates: Sequence[float], column: str) -> list[np.ndarray]:
    """Before retraining, and after it with each learning rate, all from the unpruned baseline on."""
    whole = rows[rows["layer"] == ALL_LAYERS]
    baselines = whole[whole["phase"] == TRAINING]
    before = whole[whole["phase"] == PRUNED]
    shown = []
    if before[column].notna().any():
        shown.append(_curve(axes, pd.concat([baselines, before]), "pruning_ratio", column, GREY, "--"))
    for number, rate in enumerate(rates):
        own = whole[(whole["phase"] == RETRAINED) & (whole["learning_rate"] == rate)]
        colour, marker = COLOURS[number % 4], MARKERS[number % 4]
        shown.append(_curve(axes, pd.concat([baselines, own]), "pruning_ratio", column, colour, "-", marker))
    return shown


def _layer_curves(axes: Axes, rows: pd.DataFrame, rates: Sequence[float]) -> list[np.ndarray]:
    """P of each layer, means over seeds alone: layers by colour, learning rates by line."""
    shown = []
    layers = _layers_of(rows)
    for layer, colour in zip(layers, _layer_colours(len(layers)), strict=True):
        of_layer = rows[rows["layer"] == layer]
        baselines = of_layer[of_layer["phase"] == TRAINING]
        for number, rate in enumerate(rates):
            own = of_layer[(of_layer["phase"] == RETRAINED) & (of_layer["learning_rate"] == rate)]
            joined, line = pd.concat([baselines, own]), LINES[number % 4]
            shown.append(_curve(axes, joined, "pruning_ratio", "P", colour, line, means_only=True))
    return shown


def _layers_of(rows: pd.DataFrame) -> list[str]:
    return sorted(set(rows["layer"]) - {ALL_LAYERS}, key=_number_of)


def _curve(
    axes: Axes,
    rows: pd.DataFrame,
    x: str,
    y: str,
    colour: str,
    line: Any,
    marker: str = "",
    means_only: bool = False,
) -> np.ndarray:
    """Mean over seeds with its interval, and each seed as a thin line; returns every value that is drawn.

    x: the column of where networks stand. Those of one revision belong together, and stand at the mean over seeds.
    """
    known = rows[rows[y].notna()]
    places: list[float] = []
    means: list[float] = []
    lows: list[float] = []
    highs: list[float] = []
    for _, together in sorted(known.groupby("revision"), key=lambda group: float(group[1][x].mean())):
        over = mean_over_seeds(together[y].to_numpy(np.float64))
        places.append(float(together[x].astype("float64").mean()))
        for values, value in ((means, over.mean), (lows, over.low), (highs, over.high)):
            values.append(value)
    if not means_only:
        for _, own in known.groupby("seed"):
            own = own.sort_values(x)
            axes.plot(own[x].astype(float), own[y].astype(float), color=colour, linewidth=0.5, alpha=0.45)
        least = known[y].min()
        floor = 1e-6 * least if least > 0 else -np.inf  # an axis of logarithms has no place for 0
        axes.fill_between(places, np.maximum(lows, floor), highs, color=colour, alpha=0.16, linewidth=0)
    axes.plot(places, means, color=colour, linestyle=line, linewidth=1.6, marker=marker or None, markersize=3.2)
    return np.array(means) if means_only else known[y].to_numpy(np.float64)


def _finish(axes: Axes, shown: Sequence[np.ndarray], message: str, logarithmic: bool = False) -> None:
    """Limits that hold every seed, and of the bands as much as leaves them legible; loss has a logarithmic axis."""
    values = np.concatenate(shown) if shown else np.empty(0)
    values = values[np.isfinite(values)]
    if not values.size:
        say_nothing(axes, message)
        return
    logarithmic = logarithmic and values.min() > 0
    scaled = np.log(values) if logarithmic else values
    low, high = float(scaled.min()), float(scaled.max())
    room = _ROOM * max(high - low, _LEAST_RANGE * max(abs(low), abs(high)), 1e-9)
    ends = np.array([low - room, high + room])
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        ends = np.exp(ends)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_ylim(*ends.tolist())


def _seeds_of(rows: pd.DataFrame) -> str:
    """ "mean over 3 seeds" """
    seeds = rows["seed"].nunique()
    return f"mean over {of_number(seeds, 'seed')}" if seeds > 1 else "one seed"


def _number_of(layer: str) -> tuple[int, str]:
    return (int(layer), "") if layer.isdigit() else (1 << 30, layer)


def _layer_colours(count: int) -> list[str]:
    return [mpl.colors.to_hex(colour) for colour in mpl.colormaps["viridis"](np.linspace(0.05, 0.8, max(count, 1)))][
        :count
    ]


def _pruning_handles(rates: Sequence[float], layers: Sequence[str]) -> list[Artist]:
    handles: list[Artist] = [Line2D([], [], color=GREY, linestyle="--", label="before retraining")]
    handles += [
        Line2D(
            [],
            [],
            color=COLOURS[number % 4],
            marker=MARKERS[number % 4],
            markersize=3.2,
            label=f"retrained at {rate:g}",
        )
        for number, rate in enumerate(rates)
    ]
    handles += [
        Line2D([], [], color=colour, label=f"hidden layer {layer}")
        for layer, colour in zip(layers, _layer_colours(len(layers)), strict=True)
    ]
    if len(rates) > 1:
        handles += [
            Line2D([], [], color="black", linestyle=LINES[number % 4], label=f"layers, retrained at {rate:g}")
            for number, rate in enumerate(rates)
        ]
    return handles


def _band_handles(rows: pd.DataFrame) -> list[Artist]:
    if rows["seed"].nunique() < 2:
        return []
    return [
        Patch(color=GREY, alpha=0.3, linewidth=0, label=f"band: {_BANDS}"),
        Line2D([], [], color=GREY, linewidth=0.5, label="thin: single seeds"),
    ]
