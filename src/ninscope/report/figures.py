"""Figures of one model over its training (paper A, Fig. 6, 7 and 14): tables in, matplotlib figures out."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

_COLOURS = mpl.colormaps["viridis"]
_STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "axes.titlesize": 10, "legend.frameon": False,
}  # fmt: skip


def spectra_figure(spectra: pd.DataFrame, title: str) -> Figure:
    """f(alpha) at every step, mean over samples, colour = step, with a dot at alpha0.

    spectra: rows of the table `spectra` of one model (step, sample, q, alpha, f).
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained", dpi=150)
        axes = figure.add_subplot()
        known = spectra.dropna(subset=["step", "alpha", "f"])
        steps = np.array(sorted(known["step"].unique()), dtype=np.int64)
        norm = Normalize(0, max(float(_position(steps).max(initial=0)), 1.0))
        for step in steps:
            curve = known[known["step"] == step].groupby("q")[["alpha", "f"]].mean()
            colour = _COLOURS(norm(_position(step)))
            axes.plot(curve["alpha"], curve["f"], color=colour, linewidth=1.4)
            peak = curve.loc[curve["f"].idxmax()]
            axes.plot(peak["alpha"], peak["f"], "o", color=colour, markersize=4)
        axes.set(
            xlabel=r"Lipschitz–Hölder exponent $\alpha$",
            ylabel=r"$f(\alpha)$",
            title=f"{title}: spectra over training",
        )
        if steps.size == 0:
            _say_nothing(axes, "no checkpoint has a spectrum")
        else:
            bar = figure.colorbar(ScalarMappable(norm, _COLOURS), ax=axes, label="training step", pad=0.02)
            ticks = _thinned(steps)
            bar.set_ticks(_position(ticks), labels=[_count(step) for step in ticks])
        return figure


def emergence_figure(emergence: pd.DataFrame, benchmarks: pd.DataFrame, title: str) -> Figure:
    """alpha0, width and E against step, with the spread over samples; the held-out loss beside E where it is known.

    emergence, benchmarks: rows of these tables of one model.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 7.2), layout="constrained", dpi=150)
        panels = figure.subplots(3, 1, sharex=True)
        rows = emergence.dropna(subset=["step"]).sort_values("step")
        steps = rows["step"].to_numpy(dtype=np.int64)
        x = _position(steps)
        for axes, name, label, colour in (
            (panels[0], "alpha0", r"regularity $\alpha_0$", "#2a6f97"),
            (panels[1], "width", r"heterogeneity $w$", "#8d5524"),
        ):
            mean, spread = rows[name].to_numpy(float), rows[f"{name}_std"].to_numpy(float)
            axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
            axes.plot(x, mean, "o-", color=colour, markersize=4)
            axes.set_ylabel(label)
        panels[0].set_title(f"{title} over training (bands: ±1 standard deviation over samples)")
        _emergence_panel(panels[2], rows, x, benchmarks)
        ticks = _thinned(steps)
        panels[2].set_xticks(_position(ticks), labels=[_count(step) for step in ticks])
        panels[2].xaxis.set_minor_locator(NullLocator())
        panels[2].set_xlabel(f"training step (log axis{'; step 0 at the left edge' if 0 in steps else ''})")
        return figure


def comparison_figure(emergence: pd.DataFrame) -> Figure:
    """E against step of all models of a run, one line a model. emergence: the whole table."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.8, 4.4), layout="constrained", dpi=150)
        axes = figure.add_subplot()
        models = emergence.dropna(subset=["step"]).groupby(["suite", "model"], sort=False)
        colours = mpl.colormaps["plasma"](np.linspace(0, 0.85, max(len(models), 1)))
        for ((_, model), rows), colour in zip(models, colours, strict=False):
            rows = rows.sort_values("step")
            label = model if rows["emergence"].notna().any() else f"{model} (no E)"
            x = _position(rows["step"].to_numpy(np.int64))
            axes.plot(x, rows["emergence"], "o-", color=colour, markersize=3, label=label)
        ticks = _thinned(np.array(sorted(emergence["step"].dropna().unique()), dtype=np.int64))
        axes.set_xticks(_position(ticks), labels=[_count(step) for step in ticks])
        axes.set(xlabel="training step (log axis)", ylabel="degree of emergence E", title="Degree of emergence")
        if len(models):
            axes.legend(fontsize=8)
        return figure


def _emergence_panel(axes, rows: pd.DataFrame, x: np.ndarray, benchmarks: pd.DataFrame) -> None:
    green, grey = "#2d6a4f", "#6c757d"
    axes.fill_between(
        x,
        rows["emergence_low"].to_numpy(float),
        rows["emergence_high"].to_numpy(float),
        color=green,
        alpha=0.2,
        linewidth=0,
    )
    values = rows["emergence"].to_numpy(float)
    lines = axes.plot(x, values, "o-", color=green, markersize=4, label="E (band: bootstrap interval over samples)")
    axes.set_ylabel("degree of emergence E", color=green)
    if np.isnan(values).all():
        lines = []
        axes.set_yticks([])
        _say_nothing(axes, rows["message"].iloc[0] if len(rows) else "no checkpoint has a spectrum")
    else:
        axes.axhline(0, color="black", linewidth=0.6)
    loss = benchmarks[(benchmarks["task"] == "held_out") & (benchmarks["metric"] == "loss")].dropna(subset=["step"])
    if len(loss):
        loss = loss.sort_values("step")
        beside = axes.twinx()
        beside.spines["right"].set_visible(True)
        beside.grid(visible=False)
        lines += beside.plot(
            _position(loss["step"].to_numpy(np.int64)),
            loss["value"],
            "s--",
            color=grey,
            markersize=3,
            label="held-out loss",
        )
        beside.set_ylabel("held-out loss", color=grey)
    if lines:
        axes.legend(handles=lines, loc="upper center", fontsize=8)


def _position(step):
    """Where a step stands on the log axis: log2(step + 1), so that step 0 has a place too."""
    return np.log2(np.asarray(step, dtype=np.float64) + 1)


def _thinned(steps: np.ndarray, least: float = 0.7) -> np.ndarray:
    """Steps to label: no two closer than `least` on the axis, always the last."""
    kept: list[int] = []
    for step in steps[::-1]:
        if not kept or _position(kept[-1]) - _position(step) >= least:
            kept.append(int(step))
    return np.array(kept[::-1], dtype=np.int64)


def _count(step: int) -> str:
    return f"{step // 1000}k" if step >= 1000 and step % 1000 == 0 else str(step)


def _say_nothing(axes, message: str) -> None:
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", wrap=True)
