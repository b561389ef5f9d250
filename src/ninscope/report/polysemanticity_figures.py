"""Polysemanticity while networks train and after they are pruned, with bands over seeds; verdicts; and what measures see of it.

Tables in, matplotlib figures out. The thesis' figures are here by experiment: 7, 12, 13, 15, 17, 20, 30 and 31 (training), and
8 to 10, 14, 16, 18, 21 to 23, 25, 27, 28 and 32 (pruning). It has one seed; here lines are means over seeds.
"""

from collections.abc import Iterator, Sequence
from textwrap import fill
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

from ninscope.neurons.polysemanticity.correlations import EVERY_EXPERIMENT, GIVEN, KNOW_FEATURES, MEASURES, TRUTHS
from ninscope.neurons.polysemanticity.over_seeds import mean_over_seeds
from ninscope.neurons.polysemanticity.slopes import FALLS, NOT_TOLD_APART, RISES, WHOLE, seed_slopes
from ninscope.report.layout import (
    arrange,
    label_places,
    line_height,
    name_panel,
    plain,
    say_nothing,
    styled,
    text_width,
    title_above,
)
from ninscope.wording import of_number

BLUE, ORANGE, GREEN, PINK, GREY = "#2a6f97", "#d95f02", "#2d6a4f", "#a23b72", "#6c757d"
_OF_DROPOUT = (BLUE, ORANGE, GREEN, PINK)
_OF_RATE = (BLUE, ORANGE, GREEN, PINK)
_LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
OF_VERDICT = {FALLS: BLUE, RISES: ORANGE, NOT_TOLD_APART: GREY}
_MINUS = "\N{MINUS SIGN}"
_NOTE = 7.5  # font size of legends and of what stands below
_ROOM = 0.25  # of the seeds' range: as far a band is shown beyond them
_BANDS = "95 % t interval of the mean"
_PER = 0.1  # of the parameters: for which a slope is drawn
LOSS = "loss, held out (MSE)"
_DEGREE = "degree of polysemanticity P"
_FEATURES = "total feature dimensionality D"
_TRUTH_NAMES = {"P": "P, polysemanticity", "D": "D, features represented", "loss": LOSS}


def polysemanticity_figures(
    polysemanticity: pd.DataFrame, slopes: pd.DataFrame, correlations: pd.DataFrame
) -> Iterator[tuple[str, Figure]]:
    """(file name, figure): of every experiment its training and its pruning, then the verdicts, then what measures see.

    polysemanticity, slopes, correlations: the tables `polysemanticity`, `polysemanticity_slopes` and
    `polysemanticity_correlations`. There is no figure of what has no value.
    """
    known = polysemanticity[polysemanticity["P"].notna()]
    for experiment, rows in known.groupby("experiment", sort=False):
        if (rows["phase"] == "training").any():
            yield f"polysemanticity-{experiment}-training.png", _training_figure(rows, str(experiment))
        if rows["phase"].isin(["pruned", "retrained"]).any():
            yield f"polysemanticity-{experiment}-pruning.png", _pruning_figure(rows, str(experiment))
    if slopes["slope"].notna().any():
        yield "polysemanticity-slopes.png", _slopes_figure(slopes, seed_slopes(polysemanticity))
    for phase in GIVEN:
        rows = correlations[(correlations["phase"] == phase) & correlations["correlation"].notna()]
        if len(rows):
            yield f"polysemanticity-correlations-{phase}.png", _correlations_figure(rows, phase)


# --- one experiment ---------------------------------------------------------------------------------------------------


def _training_figure(rows: pd.DataFrame, experiment: str) -> Figure:
    """P, D and the held-out loss after every epoch, a line a dropout (thesis, figures 7, 12, 13, 15, 17, 20, 30 and 31)."""
    training = rows[(rows["phase"] == "training") & (rows["layer"] == WHOLE)]
    with styled():
        figure = Figure(figsize=(9.6, 3.4))
        panels = figure.subplots(1, 3, squeeze=False)
        above = title_above(figure, f"{plain(experiment)} while it trains: {_seeds_of(training)}")
        handles: list[Artist] = []
        for axes, (column, label) in zip(panels[0], (("P", _DEGREE), ("D", _FEATURES), ("loss", LOSS)), strict=True):
            shown = []
            for number, dropout in enumerate(sorted(training["dropout"].unique().tolist())):
                own = training[training["dropout"] == dropout]
                colour, line = _OF_DROPOUT[number % 4], _LINES[number % 4]
                shown.append(_curve(axes, own, "epoch", column, colour, line))
                if axes is panels[0, 0]:
                    handles.append(Line2D([], [], color=colour, linestyle=line, label=_dropout_name(dropout)))
            _finish(axes, shown, f"no epoch has a {column}", logarithmic=column == "loss")
            axes.set(ylabel=label, xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        below = _legend(figure, handles + _band_handles(training))
        arrange(figure, panels, above=above, below=below)
        return figure


def _pruning_figure(rows: pd.DataFrame, experiment: str) -> Figure:
    """P, P of each layer, P D, D and the loss against the true pruning ratio, without and with dropout (thesis, figures 8 to 10,
    14, 16, 18, 21 to 23, 25, 27, 28 and 32)."""
    rows = rows.assign(PD=rows["P"] * rows["D"])
    dropouts = sorted(rows["dropout"].unique().tolist())
    pruned = rows[rows["phase"].isin(["pruned", "retrained"])]
    rates = sorted(pruned["learning_rate"].dropna().unique().tolist())
    lines = (("P", "P"), ("layers", "P of each layer"), ("PD", r"P$\,\cdot\,$D"), ("D", "D"), ("loss", LOSS))
    with styled():
        figure = Figure(figsize=(3.7 * len(dropouts) + 1.0, 10.6))
        panels = figure.subplots(len(lines), len(dropouts), sharex=True, sharey="row", squeeze=False)
        whole = pruned[pruned["layer"] == WHOLE]
        above = title_above(
            figure,
            f"{plain(experiment)} after pruning: degree of polysemanticity P, total feature dimensionality D; {_seeds_of(whole)}",
        )
        for row, (column, label) in zip(panels, lines, strict=True):
            shown = []
            for axes, dropout in zip(row, dropouts, strict=True):
                own = rows[rows["dropout"] == dropout]
                draw = _layer_curves if column == "layers" else _pruning_curves
                shown += draw(axes, own, rates, column)
            for axes in row:
                _finish(axes, shown, "no network has a value", logarithmic=column == "loss")
            row[0].set_ylabel(label)
        for axes, dropout in zip(panels[0], dropouts, strict=True):
            name_panel(axes, _dropout_name(dropout))
        for axes in panels[:-1].flat:
            axes.xaxis.set_tick_params(labelbottom=False)
        for axes in panels[:, 1:].flat:
            axes.yaxis.set_tick_params(which="both", labelleft=False)
        for axes in panels[-1]:
            axes.set_xlabel("true pruning ratio (share of the parameters)")
        layers = sorted(set(rows["layer"]) - {WHOLE}, key=_number_of)
        below = _legend(figure, _pruning_handles(rates, layers) + _band_handles(whole))
        arrange(figure, panels, above=above, below=below)
        return figure


def _pruning_curves(axes: Axes, rows: pd.DataFrame, rates: Sequence[float], column: str) -> list[np.ndarray]:
    """Before retraining, and after it with each learning rate, all from the unpruned baseline on."""
    whole = rows[rows["layer"] == WHOLE]
    before = whole[(whole["phase"] == "pruned")]
    shown = []
    if before[column].notna().any():
        shown.append(_curve(axes, _from_baseline(whole, before), "pruning_ratio", column, GREY, "--"))
    for number, rate in enumerate(rates):
        own = whole[(whole["phase"] == "retrained") & (whole["learning_rate"] == rate)]
        colour, marker = _OF_RATE[number % 4], "os^D"[number % 4]
        joined = _from_baseline(whole, own)
        shown.append(_curve(axes, joined, "pruning_ratio", column, colour, "-", marker))
    return shown


def _layer_curves(axes: Axes, rows: pd.DataFrame, rates: Sequence[float], column: str) -> list[np.ndarray]:
    """Means over seeds alone: layers by colour, learning rates by line."""
    shown = []
    layers = sorted(set(rows["layer"]) - {WHOLE}, key=_number_of)
    for layer, colour in zip(layers, _layer_colours(len(layers)), strict=True):
        of_layer = rows[rows["layer"] == layer]
        for number, rate in enumerate(rates):
            own = of_layer[(of_layer["phase"] == "retrained") & (of_layer["learning_rate"] == rate)]
            joined = _from_baseline(of_layer, own)
            line = _LINES[number % 4]
            shown.append(_curve(axes, joined, "pruning_ratio", "P", colour, line, means_only=True))
    return shown


def _from_baseline(every: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with those of the last epoch of each training before them, at ratio 0."""
    training = every[every["phase"] == "training"].sort_values("epoch", kind="stable")
    baseline = training.drop_duplicates(["suite", "dropout", "seed", "layer"], keep="last")
    return pd.concat([baseline.assign(pruning_ratio=0.0), rows])


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
    room = _ROOM * max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-9)
    ends = np.array([low - room, high + room])
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        ends = np.exp(ends)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylim(*ends.tolist())


def _seeds_of(rows: pd.DataFrame) -> str:
    """ "mean over 3 seeds" """
    seeds = rows["seed"].nunique()
    return f"mean over {of_number(seeds, 'seed')}" if seeds > 1 else "one seed"


def _dropout_name(dropout: float) -> str:
    return f"dropout {dropout:g}" if dropout else "without dropout"


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
            color=_OF_RATE[number % 4],
            marker="os^D"[number % 4],
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
            Line2D([], [], color="black", linestyle=_LINES[number % 4], label=f"layers, retrained at {rate:g}")
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


def _legend(figure: Figure, handles: Sequence[Artist]) -> float:
    """A legend below all panels; returns its height in points."""
    width = float(figure.get_size_inches()[0]) * 72
    widest = max(text_width(str(handle.get_label()), _NOTE) for handle in handles) + 40
    columns = max(1, min(len(handles), int((width - 10) / widest)))
    lines = -(-len(handles) // columns)
    columns = -(-len(handles) // lines)
    figure.legend(
        handles=list(handles), loc="lower center", ncols=columns, fontsize=_NOTE, borderaxespad=0.2, handlelength=2.6
    )
    return line_height(_NOTE) * 1.75 * lines + 5


# --- verdicts ---------------------------------------------------------------------------------------------------------


def _slopes_figure(slopes: pd.DataFrame, by_seed: pd.DataFrame) -> Figure:
    """How much P changes for every tenth of the parameters, a line an experiment and dropout, a panel a learning rate.

    slopes: the table; by_seed: `seed_slopes`. In per cent of the baseline's P, so that experiments stand on one axis.
    """
    known = slopes[slopes["slope"].notna() & (slopes["baseline"] > 0)]
    rates = sorted(known["learning_rate"].unique().tolist())
    names = [tuple(pair) for pair in known[["experiment", "dropout"]].drop_duplicates().to_numpy().tolist()]
    with styled():
        figure = Figure(figsize=(4.4 * len(rates) + 1.2, 0.3 * len(names) + 1.8))
        panels = figure.subplots(1, len(rates), sharex=True, sharey=True, squeeze=False)
        above = title_above(
            figure, "Does P change with pruning? Slopes on the true pruning ratio after retraining; p by Holm"
        )
        reach = _reach(known, by_seed)
        beside = 0.0
        for axes, rate in zip(panels[0], rates, strict=True):
            own = known[known["learning_rate"] == rate]
            for line, name in enumerate(names):
                found = own[(own["experiment"] == name[0]) & (own["dropout"] == name[1])]
                for row in found.to_dict("records"):
                    of_seeds = _of_row(by_seed, row)
                    _slope_line(axes, -line, row, of_seeds, reach)
                    said = _verdict_words(row)
                    beside = max(beside, text_width(said, _NOTE))
                    axes.annotate(
                        said, (1.0, -line), xycoords=axes.get_yaxis_transform(), xytext=(4, 0), textcoords="offset points",
                        fontsize=_NOTE, va="center", color=OF_VERDICT[row["verdict"]],
                    )  # fmt: skip
            axes.axvline(0, color="black", linewidth=0.6)
            axes.grid(visible=False, axis="y")
            axes.set(
                xlim=reach,
                ylim=(0.35 - len(names), 0.65),
                xlabel="change of P for every 10 % of the parameters removed (% of baseline)",
            )
            axes.xaxis.label.set_fontsize(8)
            tests = own["tests"].dropna()
            name_panel(axes, f"retrained at {rate:g}" + (f" ({int(tests.iloc[0])} tests)" if len(tests) else ""))
            label_places(axes.yaxis, [-line for line in range(len(names))], [_line_name(*name) for name in names])
        for axes in panels[0, 1:]:
            axes.yaxis.set_tick_params(labelleft=False)
        below = _legend(figure, _slope_handles())
        arrange(figure, panels, above=above, below=below, beyond=beside + 6)
        return figure


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
    return f"{row['verdict']}, p {'< .001' if p < 0.001 else f'= {p:.3f}'.replace('0.', '.')}"


def _line_name(experiment: str, dropout: float) -> str:
    return plain(experiment) + (f", dropout {dropout:g}" if dropout else "")


def _slope_handles() -> list[Artist]:
    return [
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


# --- what measures see ------------------------------------------------------------------------------------------------


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
        when = "over training" if phase == "training" else f"over pruning ratios, retrained at {rate:g}"
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
        foot = _text_below(figure, _how_to_read(phase, measures, experiments))
        height = _correlation_legend(figure, kinds, foot, experiments)
        arrange(figure, panels, above=above, below=foot + height)
        return figure


def _kinds(rows: pd.DataFrame, phase: str) -> list[tuple[float, str, str, str]]:
    """(dropout, given, colour, marker) of what is drawn of a measure, from top to bottom."""
    dropouts = sorted(rows["dropout"].unique().tolist())
    colours = {"": BLUE, GIVEN[phase]: ORANGE}
    return [
        (dropout, given, colour, "os^D"[number % 4])
        for number, dropout in enumerate(dropouts)
        for given, colour in colours.items()
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
    stars = " * takes the features as known, as P and D do." if set(KNOW_FEATURES) & set(measures) else ""
    units = "experiments, each one repetition" if experiments > 1 else "seeds"
    return (
        f"Intervals (95 %) are over {units}. Two curves that only rise, or fall, always correlate: look at the correlation "
        f"given the {drift}, and at other seeds. Where a cross lies on its dot, the measure follows the course that all seeds "
        f"share.{stars}"
    )


def _text_below(figure: Figure, text: str) -> float:
    """A text over the width of the figure, at its lower edge; returns its height, in points."""
    width, height = figure.get_size_inches() * 72
    lines = fill(text, max(30, int(width / (0.5 * _NOTE)))).split("\n")
    for number, line in enumerate(lines, 1):
        y = (4 + 1.25 * _NOTE * (len(lines) - number)) / height
        figure.text(0.5, y, line, fontsize=_NOTE, ha="center", va="bottom")
    return 4 + 1.25 * _NOTE * len(lines)


def _correlation_legend(
    figure: Figure, kinds: Sequence[tuple[float, str, str, str]], foot: float, experiments: int
) -> float:
    handles: list[Artist] = [
        Line2D([], [], color=colour, marker=marker, markersize=3.5,
               label=f"{_dropout_name(dropout)}, {'plain' if not given else 'given the ' + given.replace('_', ' ')}")
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
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, foot / height), ncols=columns, fontsize=_NOTE,
        borderaxespad=0.2,
    )  # fmt: skip
    return line_height(_NOTE) * 1.75 * -(-len(handles) // columns) + 5
