"""The figure of what measures see: rank correlations with P, D and the loss, within a seed and beside other seeds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ninscope.neurons.polysemanticity.correlations import EVERY_EXPERIMENT, GIVEN, KNOW_FEATURES, MEASURES, TRUTHS
from ninscope.neurons.polysemanticity.table_names import DEGREES, TRAINING, dropout_name
from ninscope.report.layout import arrange, label_places, line_height, name_panel, styled, title_above
from ninscope.report.polysemanticity_style import BLUE, GREY, LOSS, MARKERS, NOTE, ORANGE, NamedFigures, text_below
from ninscope.wording import of_number

_TRUTH_NAMES = {
    "P": "P, polysemanticity",
    "P_samples": DEGREES["P_samples"],
    "D": "D, features represented",
    "loss": LOSS,
}
_MINUS = "\N{MINUS SIGN}"


def correlations_figures(correlations: pd.DataFrame) -> NamedFigures:
    """A figure a phase that has correlations. correlations: the table `polysemanticity_correlations`."""
    for phase in GIVEN:
        rows = correlations[(correlations["phase"] == phase) & correlations["correlation"].notna()]
        if len(rows):
            yield f"polysemanticity-correlations-{phase}.png", _correlations_figure(rows, phase)


def _correlations_figure(correlations: pd.DataFrame, phase: str) -> Figure:
    """Correlations of every measure with P, D and the loss: plain, given the drift, and with other seeds.

    correlations: rows with a value, of one phase. Of several learning rates the smallest is drawn. Marks with intervals are of all
    experiments together, or of the only one; faint ones are single experiments.
    """
    rate = correlations["learning_rate"].min()
    rows = correlations if np.isnan(rate) else correlations[correlations["learning_rate"] == rate]
    truths = [name for name in TRUTHS if (rows["truth"] == name).any()]
    measures = [name for name in MEASURES if (rows["measure"] == name).any()]
    kinds = _kinds(rows, phase)
    experiments = rows.loc[rows["experiment"] != EVERY_EXPERIMENT, "experiment"].nunique()
    with styled():
        figure = Figure(figsize=(2.75 * len(truths) + 1.5, 0.13 * len(measures) * (len(kinds) + 1) + 1.9))
        panels = figure.subplots(1, len(truths), sharex=True, sharey=True, squeeze=False)
        when = "over training" if phase == TRAINING else f"over pruning ratios, retrained at {rate:g}"
        above = title_above(
            figure, f"What measures see {when}: rank correlations within a seed, {_units(rows, experiments)}"
        )
        for axes, truth in zip(panels[0], truths, strict=True):
            _truth_panel(axes, rows[rows["truth"] == truth], measures, kinds)
            name_panel(axes, _TRUTH_NAMES[truth])
            axes.set_xlabel("rank correlation")
            label_places(axes.xaxis, [-1, -0.5, 0, 0.5, 1], [f"{_MINUS}1", f"{_MINUS}.5", "0", ".5", "1"])
            names = [f"{name} *" if name in KNOW_FEATURES else name for name in measures]
            label_places(axes.yaxis, [_middle(line, kinds) for line in range(len(measures))], names)
            axes.yaxis.set_tick_params(length=0, labelleft=axes is panels[0, 0])
        foot = text_below(figure, _how_to_read(phase, measures, experiments))
        height = _correlation_legend(figure, kinds, foot, experiments)
        arrange(figure, panels, above=above, below=foot + height)
        return figure


def _kinds(rows: pd.DataFrame, phase: str) -> list[tuple[float, str, str, str]]:
    """(dropout, given, colour, marker) of what is drawn of a measure, from top to bottom."""
    dropouts = sorted(rows["dropout"].unique().tolist())
    colours = {"": BLUE, GIVEN[phase]: ORANGE}
    return [
        (dropout, given, colour, MARKERS[number % 4])
        for number, dropout in enumerate(dropouts)
        for given, colour in colours.items()
        if ((rows["dropout"] == dropout) & (rows["given"] == given)).any()
    ]


def _units(rows: pd.DataFrame, experiments: int) -> str:
    seeds = int(rows.loc[rows["experiment"] != EVERY_EXPERIMENT, "seeds"].max())
    return f"{of_number(seeds, 'seed')} of {of_number(experiments, 'experiment')}"


def _middle(line: int, kinds: Sequence[object]) -> float:
    return -line * (len(kinds) + 1.0)


def _truth_panel(
    axes: Axes, rows: pd.DataFrame, measures: Sequence[str], kinds: Sequence[tuple[float, str, str, str]]
) -> None:
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color="black", linewidth=0.6)
    for line, measure in enumerate(measures):
        own = rows[rows["measure"] == measure]
        if line:
            axes.axhline((_middle(line - 1, kinds) + _middle(line, kinds)) / 2, color="0.85", linewidth=0.5)
        for number, (dropout, given, colour, marker) in enumerate(kinds):
            y = _middle(line, kinds) + (len(kinds) - 1) / 2 - number
            of_kind = own[(own["dropout"] == dropout) & (own["given"] == given)]
            _correlation_marks(axes, y, of_kind, colour, marker)
    room = (len(kinds) + 1.0) / 2
    axes.set(xlim=(-1.08, 1.08), ylim=(_middle(len(measures) - 1, kinds) - room, room))


def _correlation_marks(axes: Axes, y: float, rows: pd.DataFrame, colour: str, marker: str) -> None:
    single = rows[rows["experiment"] != EVERY_EXPERIMENT]
    main = rows[rows["experiment"] == EVERY_EXPERIMENT] if len(single) > 1 else single
    if len(single) > 1:
        values = single["correlation"].to_numpy(np.float64)
        axes.plot(values, np.full(len(values), y), "|", color=colour, alpha=0.6, markersize=4)
    for row in main.to_dict("records"):
        axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.2)
        axes.plot([row["correlation"]], [y], marker, color=colour, markersize=3.5)
        axes.plot([row["other_seeds"]], [y], "x", color="black", markersize=3.5, markeredgewidth=0.8)


def _how_to_read(phase: str, measures: Sequence[str], experiments: int) -> str:
    drift = GIVEN[phase].replace("_", " ")
    stars = " * knows the features." if set(KNOW_FEATURES) & set(measures) else ""
    unit, units = ("experiment", "experiments, each one repetition") if experiments > 1 else ("seed", "seeds")
    return (
        f"Intervals (95 %) are over {units}. Two curves that only rise, or fall, always correlate: look at the correlation "
        f"given the {drift}, and at other seeds. Where a cross lies on its dot, the measure follows the course that all seeds "
        f"share. A dot without a line: one {unit}, or all alike.{stars}"
    )


def _correlation_legend(
    figure: Figure, kinds: Sequence[tuple[float, str, str, str]], foot: float, experiments: int
) -> float:
    handles: list[Artist] = [
        Line2D([], [], color=colour, marker=marker, markersize=3.5,
               label=f"{dropout_name(dropout)}, {'plain' if not given else 'given the ' + given.replace('_', ' ')}")
        for dropout, given, colour, marker in kinds
    ]  # fmt: skip
    handles.append(
        Line2D([], [], color="black", marker="x", markersize=3.5, linestyle="", label="with the truth of other seeds")
    )
    if experiments > 1:
        handles.append(Line2D([], [], color=GREY, marker="|", linestyle="", label="single experiments"))
    width, height = figure.get_size_inches() * 72
    columns = 3 if width > 500 else 2
    figure.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, foot / height), ncols=columns, fontsize=NOTE,
        borderaxespad=0.2,
    )  # fmt: skip
    return line_height(NOTE) * 1.75 * -(-len(handles) // columns) + 5
