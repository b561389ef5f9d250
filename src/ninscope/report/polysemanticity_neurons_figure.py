"""The figure of which measures of neurons see P: rank correlations over the neurons of a layer, experiment by experiment."""

from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ninscope.neurons.polysemanticity.correlations import EVERY_EXPERIMENT
from ninscope.neurons.polysemanticity.neuron_correlations import OVER_NEURONS
from ninscope.neurons.polysemanticity.table_names import NEURON_TRUTHS, TRAINING, dropout_name
from ninscope.report.layout import arrange, label_places, name_panel, styled, title_above
from ninscope.report.polysemanticity_style import BLUE, COLOURS, GREY, MARKERS, legend_below
from ninscope.wording import of_number

_MINUS = "\N{MINUS SIGN}"
_CHANCE = "0.88"  # of what is drawn behind marks


def neurons_figures(correlations: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """A figure of trained networks, where there are some. correlations: the table `polysemanticity_neuron_correlations`."""
    rows = correlations[
        (correlations["over"] == OVER_NEURONS)
        & (correlations["phase"] == TRAINING)
        & correlations["correlation"].notna()
    ]
    if len(rows):
        yield "polysemanticity-neurons.png", _neurons_figure(rows[rows["dropout"] == rows["dropout"].min()])


def _neurons_figure(rows: pd.DataFrame) -> Figure:
    """Spearman's correlations of measures with P over the neurons of a layer, a panel a truth; what chance gives is behind them.

    rows: with a value, of one dropout, of trained networks.
    """
    truths = [name for name in NEURON_TRUTHS if (rows["truth"] == name).any()]
    measures = list(dict.fromkeys(rows["measure"]))
    experiments = [name for name in dict.fromkeys(rows["experiment"]) if name != EVERY_EXPERIMENT]
    lines = len(experiments) + 1.2
    with styled():
        figure = Figure(figsize=(2.75 * len(truths) + 1.7, 0.085 * len(measures) * lines + 1.7))
        panels = figure.subplots(1, len(truths), sharex=True, sharey=True, squeeze=False)
        seeds = int(rows.loc[rows["experiment"] != EVERY_EXPERIMENT, "seeds"].max())
        above = title_above(
            figure,
            f"Which measures see P? Rank correlations over the neurons of a layer, trained networks {_dropout(rows)}, "
            f"{of_number(seeds, 'seed')}",
        )
        for axes, truth in zip(panels[0], truths, strict=True):
            _truth_panel(axes, rows[rows["truth"] == truth], measures, experiments)
            name_panel(axes, NEURON_TRUTHS[truth])
            axes.set_xlabel("Spearman's correlation")
            label_places(axes.xaxis, [-1, -0.5, 0, 0.5, 1], [f"{_MINUS}1", f"{_MINUS}.5", "0", ".5", "1"])
            label_places(axes.yaxis, [-lines * number for number in range(len(measures))], measures)
            axes.yaxis.set_tick_params(length=0, labelleft=axes is panels[0, 0])
        arrange(figure, panels, above=above, below=legend_below(figure, _handles(experiments)))
        return figure


def _dropout(rows: pd.DataFrame) -> str:
    dropout = float(rows["dropout"].iloc[0])
    return f"with {dropout_name(dropout)}" if dropout else dropout_name(dropout)


def _truth_panel(axes: Axes, rows: pd.DataFrame, measures: Sequence[str], experiments: Sequence[str]) -> None:
    lines = len(experiments) + 1.2
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color="black", linewidth=0.6)
    for place, measure in enumerate(measures):
        if place:
            axes.axhline(-lines * (place - 0.5), color="0.85", linewidth=0.5)
        for number, experiment in enumerate(experiments):
            y = -lines * place + (len(experiments) - 1) / 2 - number
            own = rows[(rows["measure"] == measure) & (rows["experiment"] == experiment)]
            for row in own.to_dict("records"):
                axes.plot([-row["by_chance"], row["by_chance"]], [y, y], color=_CHANCE, linewidth=4, zorder=0)
                axes.plot([row["low"], row["high"]], [y, y], color=_colour(number), linewidth=1.0)
                axes.plot([row["before"]], [y], "|", color=GREY, markersize=5)
                axes.plot([row["correlation"]], [y], _marker(number), color=_colour(number), markersize=3.2)
    axes.set(xlim=(-1.08, 1.08), ylim=(-lines * (len(measures) - 0.5), lines / 2))


def _colour(number: int) -> str:
    return (*COLOURS, "black", "#8c6d31")[number % (len(COLOURS) + 2)]


def _marker(number: int) -> str:
    return f"{MARKERS}vP"[number % (len(MARKERS) + 2)]


def _handles(experiments: Sequence[str]) -> list[Artist]:
    of_experiments = [
        Line2D([], [], color=_colour(number), marker=_marker(number), markersize=3.2, label=name)
        for number, name in enumerate(experiments)
    ]
    return [
        *of_experiments,
        Line2D([], [], color=GREY, marker="|", linestyle="", label="before training"),
        Patch(color=_CHANCE, label="95 % of values dealt to the neurons in any order"),
        Line2D([], [], color=BLUE, linewidth=1.0, label="line: 95 % interval over seeds"),
    ]
