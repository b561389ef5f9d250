"""The figure of verdicts: how P changes with pruning, a slope a line, with its intervals (`polysemanticity_slopes`)."""

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ninscope.neurons.polysemanticity.slopes import BY_BASELINE, FALLS, NOT_TOLD_APART, RISES, of_degree, seed_slopes
from ninscope.neurons.polysemanticity.table_names import DEGREES, dropout_name
from ninscope.report.layout import arrange, label_places, name_panel, plain, styled, text_width, title_above
from ninscope.report.polysemanticity_style import BLUE, GREY, NOTE, ORANGE, NamedFigures, legend_below
from ninscope.wording import of_number

OF_VERDICT = {FALLS: BLUE, RISES: ORANGE, NOT_TOLD_APART: GREY}
_PER = 0.1  # of the parameters: for which a slope is drawn


def slopes_figures(slopes: pd.DataFrame, polysemanticity: pd.DataFrame) -> NamedFigures:
    """Of P and of P at the samples, where a slope is known. slopes, polysemanticity: the tables `polysemanticity_slopes` and
    `polysemanticity`."""
    for degree, name in (("P", "polysemanticity-slopes.png"), ("P_samples", "polysemanticity-slopes-samples.png")):
        rows = of_degree(slopes, degree)
        if rows["slope"].notna().any():
            yield name, _slopes_figure(rows, seed_slopes(polysemanticity, degree), DEGREES[degree])


def _slopes_figure(slopes: pd.DataFrame, by_seed: pd.DataFrame, degree: str) -> Figure:
    """How much P changes for every tenth of the parameters, a line an experiment and dropout, a panel a learning rate.

    slopes: the table's rows of one degree, and what a reader calls it; by_seed: `seed_slopes`. In per cent of the baseline's P, so
    that experiments stand on one axis.
    """
    known = slopes[slopes["slope"].notna() & (slopes["baseline"] > 0)]
    rates = sorted(known["learning_rate"].unique().tolist())
    names = [tuple(pair) for pair in known[["experiment", "dropout"]].drop_duplicates().to_numpy().tolist()]
    with styled():
        figure = Figure(figsize=(4.4 * len(rates) + 1.2, 0.3 * len(names) + 1.8))
        panels = figure.subplots(1, len(rates), sharex=True, sharey=True, squeeze=False)
        above = title_above(
            figure, f"Does {degree} change with pruning? Slopes on the true pruning ratio after retraining; p by Holm"
        )
        reach = _reach(known, by_seed)
        beside = 0.0
        for axes, rate in zip(panels[0], rates, strict=True):
            own = known[known["learning_rate"] == rate]
            beside = max(beside, _slope_lines(axes, own, by_seed, names, reach))
            tests = own["tests"].dropna()
            name_panel(
                axes, f"retrained at {rate:g}" + (f" ({of_number(int(tests.iloc[0]), 'test')})" if len(tests) else "")
            )
        for axes in panels[0, 1:]:
            axes.yaxis.set_tick_params(labelleft=False)
        starred = any(map(_by_baseline, known.to_dict("records")))
        below = legend_below(figure, _slope_handles(starred))
        arrange(figure, panels, above=above, below=below, beyond=beside + 6)
        return figure


def _slope_lines(
    axes: Axes, slopes: pd.DataFrame, by_seed: pd.DataFrame, names: list[tuple], reach: tuple[float, float]
) -> float:
    """The slopes of one learning rate with their verdicts beside them; returns the width of the widest verdict, in points."""
    widest = 0.0
    for line, (experiment, dropout) in enumerate(names):
        found = slopes[(slopes["experiment"] == experiment) & (slopes["dropout"] == dropout)]
        for row in found.to_dict("records"):
            _slope_line(axes, -line, row, _of_row(by_seed, row), reach)
            said = _verdict_words(row)
            widest = max(widest, text_width(said, NOTE))
            axes.annotate(
                said, (1.0, -line), xycoords=axes.get_yaxis_transform(), xytext=(4, 0), textcoords="offset points",
                fontsize=NOTE, va="center", color=OF_VERDICT[row["verdict"]],
            )  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.6)
    axes.grid(visible=False, axis="y")
    axes.set(
        xlim=reach,
        ylim=(0.35 - len(names), 0.65),
        xlabel="change of P for every 10 % of the parameters removed (% of baseline)",
    )
    axes.xaxis.label.set_fontsize(8)
    label_places(axes.yaxis, [-line for line in range(len(names))], [_line_name(*name) for name in names])
    return widest


def _of_row(by_seed: pd.DataFrame, row: dict) -> np.ndarray:
    same = np.ones(len(by_seed), dtype=bool)
    for name in ("suite", "experiment", "dropout", "learning_rate"):
        same &= (by_seed[name] == row[name]).to_numpy(bool)
    return by_seed.loc[same, "slope"].dropna().to_numpy(np.float64)


def _scaled(row: dict, value: object) -> np.ndarray:
    """Slopes as per cent of the baseline's P for a tenth of the parameters."""
    return 100 * _PER * np.asarray(value, dtype=np.float64) / row["baseline"]


def _reach(known: pd.DataFrame, by_seed: pd.DataFrame) -> tuple[float, float]:
    """Limits that hold 0, every seed and intervals that are not far wider than the seeds are apart."""
    values = [0.0]
    for row in known.to_dict("records"):
        values += _scaled(row, [*_of_row(by_seed, row), row["retrained_slope"]]).tolist()
    values = [value for value in values if np.isfinite(value)]
    low, high = min(values), max(values)
    room = max(high - low, 1e-6)
    ends = [number for row in known.to_dict("records") for number in _scaled(row, [row["low"], row["high"]]).tolist()]
    ends = [number for number in ends if np.isfinite(number)]
    return max(min([*ends, low]), low - room) - 0.06 * room, min(max([*ends, high]), high + room) + 0.06 * room


def _slope_line(axes: Axes, y: float, row: dict, of_seeds: np.ndarray, reach: tuple[float, float]) -> None:
    """One slope: seeds, mean, its own interval, and the one that holds with all others; arrows where that leaves the panel."""
    colour = OF_VERDICT[row["verdict"]]
    mean, low, high, own_low, own_high = _scaled(
        row, [row[name] for name in ("slope", "low", "high", "own_low", "own_high")]
    ).tolist()
    axes.plot([low, high], [y, y], color=colour, linewidth=0.9)
    axes.plot([own_low, own_high], [y, y], color=colour, linewidth=3.2, alpha=0.5, solid_capstyle="butt")
    axes.plot(
        _scaled(row, of_seeds), np.full(len(of_seeds), y - 0.22), "|", color=colour, markersize=4, markeredgewidth=0.9
    )
    axes.plot([mean], [y], "o", color=colour, markersize=4.5)
    without = _scaled(row, [row["retrained_slope"]])
    axes.plot(without, [y + 0.24], "D", color=colour, markersize=3.2, markerfacecolor="white", markeredgewidth=0.9)
    if low < reach[0]:
        axes.plot([reach[0]], [y], "<", color=colour, markersize=5, clip_on=False)
    if high > reach[1]:
        axes.plot([reach[1]], [y], ">", color=colour, markersize=5, clip_on=False)


def _verdict_words(row: dict) -> str:
    p = row["p_adjusted"]
    if not np.isfinite(p):
        return "one seed" if row["seeds"] == 1 else "no test"
    star = " *" if _by_baseline(row) else ""
    return f"{row['verdict']}{star}, p {'< .001' if p < 0.001 else f'= {p:.3f}'.replace('0.', '.')}"


def _by_baseline(row: dict) -> bool:
    return row["verdict"] != NOT_TOLD_APART and BY_BASELINE in str(row["message"])


def _line_name(experiment: str, dropout: float) -> str:
    return plain(experiment) + (f", {dropout_name(dropout)}" if dropout else "")


def _slope_handles(starred: bool) -> list[Artist]:
    handles: list[Artist] = [
        Line2D([], [], color="black", marker="o", markersize=4.5, linestyle="", label="mean over seeds"),
        Line2D([], [], color="black", marker="|", markersize=4, linestyle="", label="single seeds"),
        Line2D(
            [],
            [],
            color="black",
            marker="D",
            markersize=3.2,
            markerfacecolor="white",
            linestyle="",
            label="mean without the unpruned network",
        ),
        Line2D([], [], color="black", linewidth=3.2, alpha=0.5, label="95 % interval, alone"),
        Line2D([], [], color="black", linewidth=0.9, label="95 % for all tests of a panel together"),
        *(Line2D([], [], color=colour, linewidth=2, label=name) for name, colour in OF_VERDICT.items()),
    ]
    if starred:
        said = "the retrained networks alone do not show it"
        handles.append(Line2D([], [], color="black", marker="$*$", linestyle="", label=said))
    return handles
