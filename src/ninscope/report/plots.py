"""Single panels for notebooks: each draws into axes that a caller has, or into axes of its own."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ninscope.checks import did_you_mean
from ninscope.errors import RequestError
from ninscope.report.analysis_rows import whole_networks
from ninscope.report.figures import (
    LINES,
    against,
    benchmark_label,
    mark_warnings,
    method_label,
    methods,
    say_why,
    series_of,
)
from ninscope.report.layout import plain
from ninscope.report.step_axis import label_steps, position

_LABELS = {"emergence": "degree of emergence E", "alpha0": r"regularity $\alpha_0$", "width": r"heterogeneity $w$"}


def axes_for(ax: Axes | None) -> Axes:
    """The axes that a caller gives, or those of a new figure (of pyplot, so that a notebook shows it)."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(6.4, 4.0))[1]


def plot_spectrum(
    alpha: np.ndarray, f: np.ndarray, alpha0: float, ax: Axes | None = None, label: str | None = None
) -> Axes:
    """f(alpha) with a dot at alpha0."""
    axes = axes_for(ax)
    (line,) = axes.plot(alpha, f, label=label)
    known = f[np.isfinite(f)]
    axes.plot([alpha0], [known.max() if known.size else np.nan], "o", color=line.get_color())
    axes.set(xlabel=r"Lipschitz–Hölder exponent $\alpha$", ylabel=r"$f(\alpha)$")
    return axes


def plot_rows(rows: pd.DataFrame, ax: Axes | None = None, value: str | None = None, title: str = "") -> Axes:
    """A column of the table `emergence`, or of `measure_all`, against the step; a line a model and method.

    value: which (default: E, or alpha0 where no row has an E). A panel without a value says why. Raises RequestError: no such
    column, or no row has a step.
    """
    if value is None:
        value = "emergence" if rows["emergence"].notna().any() else "alpha0"
    if value not in _LABELS:
        raise RequestError(f"value is {value!r}; one of {', '.join(_LABELS)}")
    known = whole_networks(rows).dropna(subset=["step"]).sort_values("step")
    if known.empty:
        raise RequestError(f"{title or 'these rows'}: no revision states a step, so there is nothing to draw against")
    axes = axes_for(ax)
    names = [name for name in ("suite", "model") if name in known and known[name].nunique() > 1]
    groups = [((), known)] if not names else list(known.groupby(names, sort=False))
    for name, group in groups:
        for method, part in methods(group):
            x = position(part["step"].to_numpy(np.int64))
            label = " ".join((*map(str, name), method_label(method)))
            axes.plot(x, part[value].to_numpy(float), label=label, **LINES[method])
    mark_warnings(axes, known, value)
    say_why(axes, known, value)
    label_steps(axes, known["step"].unique())
    label = _LABELS[value] + (against(known) if value == "emergence" else "")
    axes.set(xlabel="training step (log axis)", ylabel=label)
    axes.set_title(title, parse_math=False)  # a folder's name may hold any sign
    axes.legend(fontsize=7)
    return axes


def plot_benchmark(rows: pd.DataFrame, ax: Axes | None, value: str, title: str = "") -> Axes:
    """A task and metric, "task/metric", of the table `benchmarks` against the step, a line a model. Raises RequestError."""
    names = {f"{task}/{metric}": (task, metric) for task, metric in series_of(rows)}
    if value not in names:
        near = did_you_mean(value, names)
        raise RequestError(f"{title}: no results of {value!r}{near}; there are {', '.join(names) or 'none'}")
    results = series_of(rows)[names[value]]
    axes = axes_for(ax)
    for model, part in results.groupby("model", sort=False):
        axes.plot(
            position(part["step"].to_numpy(np.int64)), part["value"].to_numpy(float), marker="s", label=str(model)
        )
    label_steps(axes, results["step"].unique())
    axes.set(xlabel="training step (log axis)", ylabel=plain(benchmark_label(*names[value])))
    axes.set_title(title, parse_math=False)
    axes.legend(fontsize=7)
    return axes


def rows_figure(tables: Sequence[tuple[str, pd.DataFrame]]) -> Figure:
    """alpha0, width and E of sources over steps, each as `measure_all` has it; where none states a step, by their names.

    tables: (name of the source, `MeasuredRows.to_frame()`). Raises RequestError where nothing was measured.
    """
    from ninscope.report.figures import emergence_figure
    from ninscope.report.sources_figure import named_figure, sources_figure

    frames = [
        whole_networks(frame.assign(suite="", model=name, emergence_low=np.nan, emergence_high=np.nan))
        for name, frame in tables
    ]
    rows = pd.concat(frames, ignore_index=True)
    if rows["alpha0"].isna().all():
        raise RequestError("no revision could be measured, so there is nothing to draw; leave --figure out")
    if rows["step"].isna().all():
        return named_figure(rows)
    if len(tables) > 1:
        return sources_figure(rows)
    nothing = pd.DataFrame({"task": [], "metric": [], "step": [], "value": []})
    return emergence_figure(rows, nothing, tables[0][0])
