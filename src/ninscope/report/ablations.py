"""What becomes of the conclusions where an analysis is made otherwise: its variants side by side (NeuroMFA, 5.4)."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.transforms import ScaledTranslation

from ninscope.report.figures import LINES, WARNED, against, mark_warnings
from ninscope.report.layout import (
    arrange,
    bands_may_leave,
    draw_axes,
    label_places,
    say_nothing,
    styled,
    text_width,
    title_above,
    words_at,
)
from ninscope.report.step_axis import label_steps, position

_OWN = "default"  # the variant that the others are compared with
_COLOURS = ("#2a6f97", "#c1121f", "#2d6a4f", "#b5651d", "#9d4edd", "#d62898", "#6c757d")
_PANELS = 4  # in a row
_COLUMNS = (
    "variant", "method", "step", "baseline_step", "alpha0", "width", "emergence", "emergence_low", "emergence_high",
    "warning",
)  # fmt: skip


def conclusions(emergence: pd.DataFrame) -> pd.DataFrame:
    """What each analysis of one model says of its training, one row a variant and method, in the order of the table.

    emergence: rows of the table `emergence` of one model. Columns: variant, method; group and name, the parts of the variant's
    name before and after its first hyphen; steps, after the baseline, at which both it and the default have an E; agreement,
    Spearman's rank correlation of its E with the default's over these steps; trend, Spearman's rank correlation of its E with
    the step (1: E never falls); step, the last one with an E, and there emergence, emergence_low and emergence_high. A method
    that a variant leaves as the default has it, value for value, has no row. NaN where fewer than three steps are known.
    """
    return _conclusions(_analyses(emergence))


def _conclusions(analyses: list[tuple[str, str, pd.DataFrame]]) -> pd.DataFrame:
    defaults = {method: rows for variant, method, rows in analyses if variant == _OWN}
    conclusion_rows = []
    for variant, method, rows in analyses:
        own = _compared(defaults, method, rows)
        rows = rows[(rows["step"] != rows["baseline_step"]).fillna(True)]
        known, beside = rows["emergence"].dropna(), own["emergence"].dropna()
        both = known.index.intersection(beside.index)
        group, _, rest = variant.partition("-")
        last = rows.loc[known.index[-1]] if len(known) else None
        conclusion_rows.append(
            {
                "variant": variant,
                "method": method,
                "group": group if rest else "",
                "name": rest or group,
                "steps": len(both),
                "agreement": _rank_correlation(known[both], beside[both]),
                "trend": _rank_correlation(known, pd.Series(known.index, known.index)),
                "step": pd.NA if last is None else known.index[-1],
                **{
                    name: math.nan if last is None else float(last[name])
                    for name in ("emergence", "emergence_low", "emergence_high")
                },
            }
        )
    return pd.DataFrame(conclusion_rows).astype({"step": "Int64"})


def _analyses(emergence: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """(variant, method, its rows by step) of the default and of all that is not the same as it."""
    known = emergence[emergence["step"].notna()].reindex(columns=list(_COLUMNS))
    analyses = []
    by_name = {
        (str(variant), str(method)): _by_step(rows)
        for (variant, method), rows in known.groupby(["variant", "method"], sort=False)
    }
    for (variant, method), rows in by_name.items():
        own = by_name.get((_OWN, method))
        numbers = ["alpha0", "width", "emergence"]
        if variant == _OWN or own is None or not rows[numbers].equals(own[numbers]):
            analyses.append((variant, method, rows))
    return analyses


def _compared(defaults: dict[str, pd.DataFrame], method: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The default's rows by step: those of the same method, or of the first that it has; none of these rows, if it has none."""
    if method in defaults:
        return defaults[method]
    return next(iter(defaults.values()), rows.iloc[:0])


def _by_step(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.astype({"step": "int64"}).drop_duplicates("step").set_index("step", drop=False).sort_index()


def _rank_correlation(first: pd.Series, second: pd.Series) -> float:
    """Spearman's; NaN where it is undefined (fewer than three pairs, or one series constant)."""
    if len(first) < 3 or first.nunique() < 2 or second.nunique() < 2:
        return math.nan
    return float(first.rank().corr(second.rank()))


def ablations_figure(emergence: pd.DataFrame, title: str) -> Figure:
    """E over training by every variant, and below the conclusions of each: E at the end, agreement, trend.

    emergence: rows of the table `emergence` of one model, of all variants. Variants whose names begin alike, up to a hyphen
    (transfer-coth, transfer-neg_log), share a panel; the default is in every one.
    """
    analyses = _analyses(emergence)
    concluded = _conclusions(analyses)
    curves = {(variant, method): rows for variant, method, rows in analyses}
    own = list(_records(concluded[concluded["variant"] == _OWN]))
    groups = list(concluded[concluded["variant"] != _OWN].groupby("group", sort=False))
    columns = min(max(len(groups), 1), _PANELS)
    lines = -(-max(len(groups), 1) // columns)
    with styled():
        height = 2.7 * lines + 0.9 + 0.24 * len(concluded)
        figure = Figure(figsize=((3.6, 3.6, 3.5, 3.0)[columns - 1] * max(columns, 2) + 0.6, height))
        heights = [2.7 * lines, height - 2.7 * lines]
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights).flat
        grid = above.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        panels = grid.ravel()
        titled = title_above(
            above, f"{title}: E{against(emergence)} over training, one key of the analysis changed at a time"
        )
        colours = {(row.variant, row.method): "black" for row in own}
        for axes, (group, rows) in zip(panels, groups, strict=False):
            names = list(rows["variant"].unique())
            compared = list(_records(rows))
            for row in compared:
                colours[row.variant, row.method] = _COLOURS[names.index(row.variant) % len(_COLOURS)]
            for row in [*own, *compared]:
                _curve(axes, curves[row.variant, row.method], row, colours[row.variant, row.method])
            axes.axhline(0, color="black", linewidth=0.6)
            axes.set_title(group or "variants", fontsize=9)
            bands_may_leave(axes, emergence["emergence"].to_numpy(float))
            _legend(axes)
            label_steps(axes, emergence["step"].dropna().unique(), least=1.7)
        for axes in panels[len(groups) :]:
            axes.set_visible(False)
        for axes in panels[::columns]:
            axes.set_ylabel("degree of emergence E")
        for axes in panels[max(len(groups) - columns, 0) : len(groups)]:
            axes.xaxis.set_tick_params(labelbottom=True)
            axes.set_xlabel("training step (log axis)")
        arrange(above, grid, above=titled)
        draw_axes(above, panels)
        _conclusions_panels(below, concluded, colours)
        return figure


def _records(concluded: pd.DataFrame) -> Iterator[Any]:
    """Rows of `conclusions` as named tuples, of whose fields the types of pandas know nothing."""
    return concluded.itertuples()


def _curve(axes: Axes, rows: pd.DataFrame, row: Any, colour: str) -> None:
    x = position(rows.index.to_numpy())
    low, high = (rows[f"emergence_{end}"].to_numpy(float) for end in ("low", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.plot(x, rows["emergence"].to_numpy(float), color=colour, label=_label(row), linewidth=1.3, **LINES[row.method])
    mark_warnings(axes, rows, "emergence", x)


def _legend(axes: Axes) -> None:
    """Every curve, and what a ring means once, below them."""
    handles = {str(handle.get_label()): handle for handle in axes.get_legend_handles_labels()[0]}
    if WARNED in handles:
        handles[WARNED] = handles.pop(WARNED)
    axes.legend(list(handles.values()), list(handles), fontsize=7, loc="upper left")


def _label(row: Any) -> str:
    return f"{row.name}, whole network" if row.method == "exact" else row.name


def _conclusions_panels(figure: SubFigure, concluded: pd.DataFrame, colours: dict[tuple[str, str], str]) -> None:
    """One line an analysis, grouped as above: a dot and its number in each of three panels."""
    ratios = [1.3, 1, 1]
    panels = figure.subplots(1, 3, sharey=True, width_ratios=ratios)
    y = np.arange(len(concluded))[::-1]
    steps = concluded["step"].dropna().unique()
    at = f"at step {steps[0]}" if len(steps) == 1 else "at the last step"
    for axes, column, label in (
        (panels[0], "emergence", f"E {at}"),
        (panels[1], "agreement", "rank correlation of E\nwith the default's E"),
        (panels[2], "trend", "rank correlation of E\nwith the step (1: never falls)"),
    ):
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
        if concluded[column].isna().all():
            say_nothing(axes, "not defined")
        numbers, places, shades = [], [], []
        for height, row in zip(y, _records(concluded), strict=True):
            value, colour = getattr(row, column), colours[row.variant, row.method]
            if math.isnan(value):
                continue
            filled = "white" if row.method == "sampled" else colour
            axes.plot(value, height, "o", color=colour, markersize=5, markerfacecolor=filled)
            if column == "emergence" and not math.isnan(row.emergence_low):
                axes.plot(
                    [row.emergence_low, row.emergence_high], [height, height], color=colour, linewidth=1.4, zorder=1
                )
            numbers.append((f"{value:.2f}", "left", "center"))
            places.append((1.0, height))
            shades.append(colour)
        if numbers:
            beside = axes.get_yaxis_transform() + ScaledTranslation(3 / 72, 0, figure.dpi_scale_trans)
            figure.add_artist(words_at(numbers, np.array(places), beside, 7, figure.dpi_scale_trans, shades))
    for axes in panels[1:]:
        axes.set_xlim(min(-0.05, *concluded[["agreement", "trend"]].min() - 0.1), 1.08)
        axes.axvline(0, color="black", linewidth=0.6)
    panels[0].margins(x=0.12)
    panels[0].set_xlim(left=min(0.0, panels[0].get_xlim()[0]))
    names = [f"{row.group}: {_label(row)}" if row.group else _label(row) for row in _records(concluded)]
    label_places(panels[0].yaxis, y, names)
    panels[0].tick_params(axis="y", labelsize=8)
    panels[0].set_ylim(-0.7, len(concluded) - 0.3)
    arrange(figure, panels[None], beyond=text_width("-0.00", 7) + 3, widths=ratios)
    draw_axes(figure, panels)
