"""Neurons as points: their places in the neuron interaction network against what they do."""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ninscope.neurons.observatory.measure import SHUFFLED
from ninscope.neurons.observatory.place_correlations import LEAST, PLACES, place_correlations
from ninscope.report.layout import arrange, name_beside, plain, say_nothing, styled, title_above
from ninscope.report.neurons_figures import LOG_FROM, few_ticks
from ninscope.report.neurons_rows import title_of_column
from ninscope.report.polysemanticity_style import GREY, legend_below, text_below
from ninscope.wording import of_number

# What a reader calls the columns that say where a neuron is.
PLACE_TITLES = {"alpha": r"exponent $\alpha_i$", "mean_distance": "mean distance", "degree": "degree"}
MOST_MEASURES = 6  # of a figure that chooses them itself
# What such a figure shows first; what else there is of single neurons comes after, as the table has it.
_FIRST = (
    "dead_firing_frequency", "dead_kurtosis", "phi", "universal_rho/seed", "dormant_score", "positional_information",
)  # fmt: skip
_KEYS = ("layer", "index")
_NO_MEASURES = ("suite", "model", "revision", "step", *_KEYS, "unit", *PLACES.values(), "r2")  # of `neuron_values`
_MOST_POINTS = 4_000  # of a panel
_MOST_LINES = 8  # of panels, one below the other; more measures go beside them
_WIDTH, _HEIGHT, _TALLEST = 2.25, 1.75, 1.35  # of a panel, in inches; of all, so many times their width
_MOST_LAYERS = 8  # of the legend
_TICK = 6.5


def chosen_measures(names: Iterable[str], most: int = MOST_MEASURES) -> list[str]:
    """At most so many of the columns of single neurons, those first that readers ask for, the others in their order.

    names: as in `neuron_values`; those of the control are left out.
    """
    there = [name for name in names if not name.endswith(f"/{SHUFFLED}")]
    first = [name for name in _FIRST if name in there]
    return [*first, *(name for name in there if name not in first)][:most]


def placed_neurons(values: pd.DataFrame, most: int = MOST_MEASURES) -> pd.DataFrame:
    """Single neurons of a run as `neuron_places_figure` takes them: layer, index, the columns of PLACES, and measures.

    values: of `run.neuron_values(..., nodes=True)`. Of the measures by which neurons differ at most so many are kept, by
    `chosen_measures`. Heads are left out, and neurons without any place or any of these measures.
    """
    neurons = values[values["unit"] == "neuron"]
    known = [str(name) for name in neurons if name not in _NO_MEASURES and _differ(neurons[name])]
    measures = chosen_measures(known, most)
    placed = neurons[list(_KEYS)].assign(**{name: neurons[column] for name, column in PLACES.items()})
    placed = placed.assign(**neurons[measures])
    there = placed[list(PLACES)].notna().any(axis=1) & placed[measures].notna().any(axis=1)
    return placed[there].reset_index(drop=True)


def _differ(values: pd.Series) -> bool:
    known = values[np.isfinite(values)]
    return len(known) > 0 and bool(known.min() < known.max())


def neuron_places_figure(values: pd.DataFrame, title: str = "Neurons") -> Figure:
    """Where a neuron is (alpha_i, mean distance, degree in the network) against what it does, a panel a pair, a colour a layer.

    values: a row a neuron of one checkpoint: layer, index, the columns of PLACES as far as there are any, and measures of single
    neurons, all other columns, float64; NaN where a number is not known. Above each panel stands Spearman's correlation over all
    neurons, and within what 95 % of permutations within layers would lie (`place_correlations`); grey where it lies there too. A
    column without three neurons has no panel, and is named below.
    """
    places = [name for name in PLACES if name in values]
    measures = [str(name) for name in values if name not in (*_KEYS, *PLACES)]
    found = place_correlations(values, places, measures)
    enough = found[found["neurons"] >= LEAST]
    shown_places = [name for name in places if (enough["place"] == name).any()]
    shown = [name for name in measures if (enough["measure"] == name).any()]
    missing = [name for name in (*places, *measures) if name not in (*shown_places, *shown)]
    with styled({"axes.titlepad": 3.0}):
        figure, panels, grid = _panels(shown, shown_places)
        above = title_above(figure, f"{plain(title)}: place in the network against what neurons do")
        layers = list(dict.fromkeys(values["layer"]))
        shades = mpl.colormaps["viridis"](np.linspace(0, 0.9, max(len(layers), 1)))
        colours = shades[pd.Categorical(values["layer"], layers).codes] if len(values) else shades
        for (measure, place), axes in grid.items():
            _panel(axes, values, place, measure, colours)
            (row,) = found[(found["place"] == place) & (found["measure"] == measure)].to_dict("records")
            _write_correlation(axes, row)
        if not grid:
            say_nothing(panels[0, 0], "no measure is known of three neurons whose place is known")
            panels[0, 0].set_axis_off()
        _label(panels, grid)
        foot = text_below(figure, _how_to_read(values, found, missing, bool(grid)))
        below = legend_below(figure, _layer_handles(layers, shades), foot + 3) if grid and len(layers) > 1 else 0.0
        arrange(figure, panels, above=above, below=foot + 3 + below, beyond=4.0)
        return figure


def _panels(measures: Sequence[str], places: Sequence[str]) -> tuple[Figure, np.ndarray, dict[tuple[str, str], Axes]]:
    """(figure, panels, {(measure, place): its panel}): a row a measure, a column a place; of many measures in several blocks."""
    blocks = next(
        blocks
        for blocks in range(1, len(measures) + 2)
        if (lines := math.ceil(len(measures) / blocks)) <= _MOST_LINES
        and (lines * _HEIGHT <= _TALLEST * _WIDTH * blocks * len(places) or lines < 2)
    )
    lines = max(1, math.ceil(len(measures) / blocks))
    columns = max(1, blocks * len(places))
    width = 6.4 if columns == 1 else _WIDTH * columns + 0.5 * blocks
    figure = Figure(figsize=(max(width, 5.4), _HEIGHT * lines + 1.3 if lines > 1 else 3.9))
    panels = figure.subplots(lines, columns, squeeze=False)
    grid = {}
    for number, measure in enumerate(measures):
        block, line = divmod(number, lines)
        for column, place in enumerate(places):
            grid[measure, place] = panels[line, block * len(places) + column]
    there = set(map(id, grid.values()))
    for axes in panels.flat:
        if grid and id(axes) not in there:
            axes.set_axis_off()
    return figure, panels, grid


def _panel(axes: Axes, values: pd.DataFrame, place: str, measure: str, colours: np.ndarray) -> None:
    x, y = (values[name].to_numpy(np.float64) for name in (place, measure))
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if len(known) > _MOST_POINTS:
        known = known[np.unique(np.rint(np.linspace(0, len(known) - 1, _MOST_POINTS)).astype(int))]
    axes.scatter(x[known], y[known], s=5, c=colours[known], alpha=0.55, linewidths=0, rasterized=True)
    axes.tick_params(labelsize=_TICK, length=2)
    for axis, scale, numbers in ((axes.xaxis, axes.set_xscale, x[known]), (axes.yaxis, axes.set_yscale, y[known])):
        low, high = np.quantile(numbers, [0.05, 0.95]) if numbers.size else (0.0, 0.0)  # single ones decide nothing
        logarithmic = bool(numbers.size) and numbers.min() > 0 and high >= LOG_FROM * low
        if logarithmic:
            scale("log")
        few_ticks(axis, logarithmic, numbers)


def _write_correlation(axes: Axes, row: dict[Hashable, Any]) -> None:
    """Spearman's correlation and the range of permutations; grey where it lies within."""
    if math.isnan(row["correlation"]):
        few = f"{row['neurons']:.0f} neurons" if row["neurons"] < LEAST else "all are alike"
        axes.set_title(f"no correlation: {few}", fontsize=7.5, color=GREY)
        return
    correlation, low, high = (_two_digits(row[name]) for name in ("correlation", "low", "high"))
    outside = not row["low"] <= row["correlation"] <= row["high"]
    axes.set_title(
        rf"$\rho$ = {correlation} (permuted {low} to {high})", fontsize=7.5, color="black" if outside else GREY
    )


def _two_digits(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def _label(panels: np.ndarray, grid: dict[tuple[str, str], Axes]) -> None:
    """Measures at the left of each block, places below the lowest panel of each column."""
    firsts = {measure: axes for (measure, _), axes in reversed(grid.items())}
    for measure, axes in firsts.items():
        name_beside(axes, title_of_column(measure), 8.0)
    of_axes = {id(axes): place for (_, place), axes in grid.items()}
    for column in panels.T:
        there = [axes for axes in column if id(axes) in of_axes]
        if there:
            there[-1].set_xlabel(PLACE_TITLES[of_axes[id(there[-1])]], fontsize=8)


def _layer_handles(layers: Sequence[str], shades: np.ndarray) -> list[Line2D]:
    """Layers by colour; of many some, evenly spaced."""
    some = np.unique(np.rint(np.linspace(0, len(layers) - 1, min(len(layers), _MOST_LAYERS))).astype(int)).tolist()
    return [
        Line2D([], [], color=shades[number], marker="o", markersize=3.5, linestyle="", label=plain(layers[number]))
        for number in some
    ]


def _how_to_read(values: pd.DataFrame, found: pd.DataFrame, missing: Sequence[str], drawn: bool) -> str:
    sentences = []
    if drawn:
        counts = found.loc[found["correlation"].notna(), "neurons"]
        sentences.append(
            "Spearman's correlation over all neurons, and in brackets what 95 % of permutations within layers give: grey lies "
            f"within, so which neuron is which tells nothing more. Of {of_number(len(counts), 'panel')} "
            f"{0.05 * len(counts):.2g} would lie outside by chance."
        )
        if counts.max() > _MOST_POINTS:
            sentences.append(f"Drawn are at most {_MOST_POINTS:,} of {len(values):,} neurons, evenly spaced.")
    names = [PLACE_TITLES.get(name, title_of_column(name)) for name in missing]
    sentences += [f"Not drawn, since fewer than {LEAST} neurons have a value: {'; '.join(names)}."] if names else []
    return " ".join(sentences)
