"""Figures of one model over its training (NeuroMFA, Fig. 6, 7 and 14): tables in, matplotlib figures out."""

from collections.abc import Iterator
from itertools import cycle
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ninscope.report.layout import (
    arrange,
    bands_may_leave,
    bar_axes,
    draw_axes,
    name_beside,
    plain,
    say_nothing,
    styled,
    text_width,
    title_above,
)
from ninscope.report.model_names import model_names
from ninscope.report.step_axis import count, label_steps, position, thinned

_COLOURS = mpl.colormaps["viridis"]
# How each method is drawn: the whole network in full, samples lighter.
LINES: dict[str, dict[str, Any]] = {
    "exact": {"linestyle": "-", "marker": "o", "markersize": 4},
    "sampled": {"linestyle": "--", "marker": "o", "markersize": 3, "markerfacecolor": "white"},
}
_LEGEND_SIZE = 7
_PANEL_HEIGHT = 155.0  # of `emergence_figure`, in points, about
_WITHHELD = "#c1121f"
_RING = "#e36414"
WARNED = "warning (see tables)"
_NULLS = {"shuffled": "#b5651d", "gaussian": "#d62898", "analytic": "#9d4edd"}
_LOSSES = (("held_out", "loss"), ("eval", "loss"), ("train", "loss"))
_TASKS = {"held_out": "held-out", "eval": "evaluation", "train": "training"}  # as a reader calls them
_MORE_NULLS = ("#40916c", "#577590", "#bc6c25")  # of those that have no colour of their own


def spectra_figure(spectra: pd.DataFrame, title: str, emergence: pd.DataFrame | None = None) -> Figure:
    """f(alpha) at every step, colour = step, with a dot at alpha0; one panel for samples (their mean), one for the exact.

    spectra: rows of the table `spectra` of one model (step, sample, q, alpha, f); sample -1 is the whole network. emergence:
    rows of that table of the same model; a curve of which it warns is dotted, and its dot is a ring.
    """
    with styled():
        known = spectra.dropna(subset=["step", "alpha", "f"])
        steps = np.array(sorted(known["step"].unique()), dtype=np.int64)
        is_exact = spectra["sample"] < 0
        parts = {"whole network": known[known["sample"] < 0], "samples, mean": known[known["sample"] >= 0]}
        shown = {name: part for name, part in parts.items() if name == "samples, mean" or is_exact.any()}
        if is_exact.all() and len(spectra):
            del shown["samples, mean"]
        figure = Figure(figsize=(6.4 if len(shown) == 1 else 9.6, 4.4))
        panels = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)
        warnings = _warned_spectra(emergence)
        places = position(steps)
        norm = Normalize(places.min() if len(steps) > 1 else 0, max(float(places.max(initial=0)), 1.0))
        for axes, (name, part) in zip(panels[0], shown.items(), strict=True):
            means = part.groupby(["step", "q"])[["alpha", "f"]].mean()  # over samples
            for step in means.index.unique("step"):
                curve = means.loc[step]
                alpha, f = curve["alpha"].to_numpy(float), curve["f"].to_numpy(float)
                colour = _COLOURS(norm(position(step)))
                warned = (step, name) in warnings
                axes.plot(alpha, f, color=colour, linewidth=1.4, linestyle=":" if warned else "-")
                face = "none" if warned else colour
                axes.plot(alpha[f.argmax()], f.max(), "o", color=colour, markersize=4, markerfacecolor=face)
            axes.set(xlabel=r"Lipschitz–Hölder exponent $\alpha$", title=name if len(shown) > 1 else "")
            if part.empty:
                say_nothing(axes, "no checkpoint has a spectrum")
        panels[0, 0].set_ylabel(r"$f(\alpha)$")
        bars = {}
        if steps.size:
            bar = figure.colorbar(ScalarMappable(norm, _COLOURS), cax=bar_axes(figure), label="training step")
            ticks = thinned(steps)
            bar.set_ticks(position(ticks).tolist(), labels=[count(step) for step in ticks])
            bars[len(shown) - 1] = bar.ax
        dotted = " (dotted: with a warning)" if warnings else ""
        arrange(figure, panels, above=title_above(figure, f"{title}: spectra over training{dotted}"), bars=bars)
        draw_axes(figure, [*panels.flat, *bars.values()])
        return figure


def _warned_spectra(emergence: pd.DataFrame | None) -> set[tuple[int, str]]:
    """(step, panel) of the spectra that are not to be trusted."""
    if emergence is None:
        return set()
    warned = emergence[has_warning(emergence) & emergence["step"].notna()]
    panels = {"exact": "whole network", "sampled": "samples, mean"}
    return {(int(step), panels[method]) for step, method in zip(warned["step"], warned["method"], strict=True)}


def emergence_figure(
    emergence: pd.DataFrame, benchmarks: pd.DataFrame, title: str, nulls: pd.DataFrame | None = None
) -> Figure:
    """alpha0, width and E against step: of the whole network, of samples with their spread, and of null models as bands.

    emergence, benchmarks, nulls: rows of these tables of one model. A result that came with the model stands beside E
    (`beside_emergence`).
    """
    with styled():
        figure = Figure(figsize=(6.4, 7.6))
        panels = figure.subplots(3, 1, sharex=True)
        rows = emergence.dropna(subset=["step"]).sort_values("step")
        steps = np.array(sorted(rows["step"].unique()), dtype=np.int64)
        for axes, name, label, colour in (
            (panels[0], "alpha0", r"regularity $\alpha_0$", "#2a6f97"),
            (panels[1], "width", r"heterogeneity $w$", "#8d5524"),
        ):
            _null_bands(axes, nulls, name)
            for method, part in methods(rows):
                x, mean = _x(part), part[name].to_numpy(float)
                spread = part[f"{name}_std"].to_numpy(float)
                axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
                axes.plot(x, mean, color=colour, label=method_label(method), **LINES[method])
            _mark_duplicates(axes, rows, name)
            mark_warnings(axes, rows, name)
            axes.set_ylabel(label)
        _legend(panels[0])
        panels[0].set_title(f"{title} over training{_bands(rows, nulls)}")
        twin = _emergence_panel(panels[2], rows, benchmarks, nulls)
        label_steps(panels[2], steps)
        panels[2].set_xlabel(f"training step (log axis{'; step 0 at the left edge' if 0 in steps else ''})")
        arrange(figure, panels[:, None], twin=twin)
        draw_axes(figure, panels if twin is None else [*panels, twin])
        return figure


def _bands(rows: pd.DataFrame, nulls: pd.DataFrame | None) -> str:
    """What bands in the panels of alpha0 and width stand for, where there are any."""
    names = ["alpha0_std", "width_std"]
    spread = ["samples"] if rows[names].notna().any(axis=None) else []
    if nulls is not None and nulls.dropna(subset=["step"])[names].notna().any(axis=None):
        spread.append("draws")
    return f" (bands: ±1 standard deviation of {', of '.join(spread)})" if spread else ""


def methods(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """(method, its rows), the exact one last, so that it is drawn on top."""
    for method in ("sampled", "exact"):
        part = rows[rows["method"] == method]
        if len(part):
            yield method, part


def method_label(method: str) -> str:
    return {"exact": "whole network", "sampled": "samples (mean)"}[method]


def _x(rows: pd.DataFrame) -> np.ndarray:
    return position(rows["step"].to_numpy(np.int64))


def _null_bands(axes: Axes, nulls: pd.DataFrame | None, name: str) -> None:
    """Each null model as a band of ±1 standard deviation over its draws, with its mean."""
    if nulls is None:
        return
    nulls = nulls.dropna(subset=["step"]).sort_values("step")
    others = sorted(set(nulls["null"]) - _NULLS.keys())
    for null, colour in (*_NULLS.items(), *zip(others, cycle(_MORE_NULLS), strict=False)):
        part = nulls[nulls["null"] == null]
        if part[name].notna().any():
            x, mean = _x(part), part[name].to_numpy(float)
            spread = np.nan_to_num(part[f"{name}_std"].to_numpy(float))
            axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.3, linewidth=0)
            axes.plot(x, mean, color=colour, linewidth=1, linestyle=":", label=f"null: {null}")


def _mark_duplicates(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    """A cross on every checkpoint whose E the audit withheld: it is, or is compared with, another step's weights."""
    part = rows[(rows["status"] == "duplicate") & rows[name].notna()]
    if len(part):
        axes.plot(
            _x(part), part[name].to_numpy(float), linestyle="none", marker="x", markersize=7, markeredgewidth=1.6,
            color=_WITHHELD, label="no E: duplicate weights", zorder=3,
        )  # fmt: skip


def has_warning(rows: pd.DataFrame) -> pd.Series:
    """Of each row, whether the column `warning` says something; where there is no such column, none does."""
    return rows["warning"].fillna("") != "" if "warning" in rows else pd.Series(False, rows.index)


def mark_warnings(
    axes: Axes, rows: pd.DataFrame, name: str, x: np.ndarray | None = None, turned: bool = False
) -> list[Line2D]:
    """A ring about every point that is not to be trusted, by the column `warning`; returns what a legend shows.

    x: where the rows stand (default: by their steps). turned: along the vertical axis.
    """
    warned = (has_warning(rows) & rows[name].notna()).to_numpy(bool)
    if not warned.any():
        return []
    places = (_x(rows) if x is None else x)[warned]
    values = rows[name].to_numpy(float)[warned]
    return axes.plot(
        *((values, places) if turned else (places, values)), linestyle="none", marker="o", markersize=8, markerfacecolor="none",
        markeredgecolor=_RING, markeredgewidth=1.1, label=WARNED, zorder=3,
    )  # fmt: skip


def say_why(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    """Where a panel has no value of this column, the first message of the rows."""
    if rows[name].isna().all():
        messages = rows["message"].dropna() if "message" in rows else pd.Series(dtype=str)
        axes.set_yticks([])
        say_nothing(axes, fill(next((message for message in messages if message), "not known"), 60))


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)


def comparison_figure(emergence: pd.DataFrame) -> Figure:
    """E against step of all models of a run, one line a model and method. emergence: the whole table."""
    with styled():
        figure = Figure()
        axes = figure.add_subplot()
        models = emergence.dropna(subset=["step"]).groupby(["suite", "model"], sort=False)
        colours = mpl.colormaps["plasma"](np.linspace(0, 0.85, max(len(models), 1)))
        several, shared = emergence["method"].nunique() > 1, against(emergence)
        names = model_names(emergence)
        for ((suite, name), rows), colour in zip(models, colours, strict=False):
            for method, part in methods(rows.sort_values("step")):
                model = names[str(suite), str(name)]
                label = (f"{model}, {method_label(method)}" if several else model) + ("" if shared else against(part))
                withheld = int((part["status"] == "duplicate").sum())
                if part["emergence"].isna().all():
                    label = f"{label} (no E)"
                elif withheld:
                    label = f"{label} (no E of {withheld} duplicates)"
                axes.plot(_x(part), part["emergence"], color=colour, label=label, **LINES[method])
        mark_warnings(axes, emergence.dropna(subset=["step"]), "emergence")
        label_steps(axes, emergence["step"].dropna().unique())
        axes.set(
            xlabel="training step (log axis)", ylabel="degree of emergence E", title=f"Degree of emergence{shared}"
        )
        beside = legend_beside(axes)
        figure.set_size_inches(6.8 + beside / 72, max(4.4, 0.9 + 0.14 * len(axes.lines)))
        arrange(figure, np.array([[axes]]), beyond=beside)
        draw_axes(figure, [axes])
        return figure


def legend_beside(axes: Axes) -> float:
    """A legend that may be long, to the right of a panel, where it hides no curve; returns its width in points."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return 0.0
    axes.legend(handles, labels, fontsize=_LEGEND_SIZE, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.4)
    return max(text_width(label, _LEGEND_SIZE) for label in labels) + 6 * _LEGEND_SIZE


def against(rows: pd.DataFrame) -> str:
    """ " against step0": what E of these rows compares with, where it is one revision."""
    names = rows["baseline"].dropna().unique().tolist() if "baseline" in rows else []  # older tables do not name it
    return f" against {names[0]}" if len(names) == 1 and names[0] else ""


def series_of(benchmarks: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """The results that came with a model by (task, metric), each by step, in the order of the table."""
    known = benchmarks.dropna(subset=["step", "value"])
    names = known[["task", "metric"]].drop_duplicates()
    pairs = zip(names["task"], names["metric"], strict=True)
    return {
        (task, metric): known[(known["task"] == task) & (known["metric"] == metric)].sort_values("step")
        for task, metric in pairs
    }


def beside_emergence(benchmarks: pd.DataFrame, wanted: tuple[str, str] | None = None) -> tuple[str, pd.DataFrame]:
    """(what it is called, its rows by step) of the result that is drawn beside E; no rows where there is none.

    wanted: its task and metric; without it the loss on held-out data, else on training data, else the first there is.
    """
    series = series_of(benchmarks)
    order = [wanted] if wanted is not None else [*_LOSSES, *series]
    name = next((name for name in order if name in series), None)
    if name is None:
        return "", benchmarks.iloc[:0]
    return benchmark_label(*name), series[name]


def benchmark_label(task: str, metric: str) -> str:
    """ "held-out loss" """
    return f"{_TASKS.get(task, task)} {metric}"


def _emergence_panel(
    axes: Axes, rows: pd.DataFrame, benchmarks: pd.DataFrame, nulls: pd.DataFrame | None
) -> Axes | None:
    """Draw E, and a result that came with the suite on a second ordinate; returns the axes of that, where there is one."""
    green, grey = "#2d6a4f", "#6c757d"
    lines, beside = [], None
    axes.set_ylabel("degree of emergence E", color=green)
    if rows["emergence"].isna().all():
        axes.set_yticks([])
        say_nothing(axes, rows["message"].iloc[0] if len(rows) else "no checkpoint has a spectrum")
    else:
        _null_bands(axes, nulls, "emergence")
        for method, part in methods(rows):
            x = _x(part)
            low, high = (part[f"emergence_{end}"].to_numpy(float) for end in ("low", "high"))
            axes.fill_between(x, low, high, color=green, alpha=0.2, linewidth=0)
            how = "without one layer each" if method == "exact" else "bootstrap interval"
            interval = f" (band: {how})" if np.isfinite(low).any() else ""
            shown = f"{'whole network' if method == 'exact' else 'samples'}{interval}"
            label = f"E{against(rows)}, {shown}"
            lines += axes.plot(x, part["emergence"].to_numpy(float), color=green, label=label, **LINES[method])
        mark_warnings(axes, rows, "emergence")  # which the first panel's legend names, as it does null models
        withheld = sorted(set(_x(rows[rows["status"] == "duplicate"]).tolist()))
        for number, position in enumerate(withheld):
            line = axes.axvline(position, color=_WITHHELD, linewidth=1, linestyle=":", label="no E: duplicate weights")
            lines += [line] * (number == 0)
        axes.axhline(0, color="black", linewidth=0.6)
        bands_may_leave(axes, rows["emergence"].to_numpy(float))
    name, results = beside_emergence(benchmarks)
    if len(results):
        beside = axes.twinx()
        beside.spines["right"].set_visible(True)
        beside.grid(visible=False)
        lines += beside.plot(
            _x(results), results["value"], marker="s", linestyle="-.", color=grey, markersize=3, label=plain(name)
        )
        name_beside(beside, name)
        beside.yaxis.label.set_color(grey)
    if lines:
        axes.legend(handles=lines, loc="upper center", bbox_to_anchor=(0.55, 1.0), fontsize=_LEGEND_SIZE)
        for panel in [axes] if beside is None else [axes, beside]:
            _make_room_above(panel, (1.5 * len(lines) + 1) * _LEGEND_SIZE / _PANEL_HEIGHT)
    return beside


def _make_room_above(axes: Axes, share: float) -> None:
    """Leave this share of a panel's height free of curves, at its top, for a legend."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, low + (high - low) / (1 - share))
