"""Fine-tunes side by side: every method's scores, monosemanticity and network, a dot a seed."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ninscope.neurons.finetuning.recipe import NONE
from ninscope.report.comparisons import LOWER_IS_BETTER, comparisons
from ninscope.report.layout import arrange, line_height, say_nothing, styled, title_above

METHODS = {NONE: "#6c757d", "naive_mean": "#8d5524", "naive_shift": "#d62898", "reversed": "#2d6a4f"}
_LABELS = {
    NONE: "no MEmeL", "naive_mean": "naive (a): mean", "naive_shift": "naive (b): shift", "reversed": "reversed (MEmeL)",
}  # fmt: skip


def finetunes_figure(finetunes: pd.DataFrame, title: str) -> Figure:
    """The main metric, the 99th percentile of phi and E against the base at the end of every fine-tune, by base revision.

    finetunes: rows of the table `finetunes` of one model and task. Dots are seeds, bars their means with ±1 standard deviation;
    above them the p-value of the paired test against no MEmeL. The dotted line is the mean before the first update, where it lies
    near.
    """
    with styled():
        figure = Figure(figsize=(10.5, 4.2))
        panels = figure.subplots(1, 3, squeeze=False)
        scores, phi, emergence = panels[0]
        known = finetunes[finetunes["value"].notna()]
        compared = comparisons(finetunes)
        if compared.empty:
            for axes in panels[0]:
                axes.set(xticks=[], yticks=[])
                say_nothing(axes, "no fine-tune came to its end" if known.empty else "no score is defined at the end")
            arrange(figure, panels, above=title_above(figure, title))
            return figure
        main = compared["metric"].iloc[0]  # of the end: a correlation may be undefined there, and not at the start
        compared = compared[compared["metric"] == main]
        better = "lower" if main in LOWER_IS_BETTER else "higher"
        for axes, column, label in (
            (scores, "value", f"{main}, held out ({better} is better)"),
            (phi, "phi_p99", r"monosemantic scale $\phi$, 99th percentile"),
            (emergence, "emergence_from_base", "E of the fine-tuned weights against the base"),
        ):
            _side_by_side(axes, known[known["metric"] == main], compared, column)
            axes.set_title(label, fontsize=9)
        _p_values(scores, compared)
        emergence.axhline(0, color="black", linewidth=0.6)
        handles = {handle.get_label(): handle for handle in scores.get_legend_handles_labels()[0]}
        figure.legend(handles.values(), handles, loc="lower center", ncols=5, fontsize=8)
        seeds = sorted({int(number) for number in compared["seeds"]})
        spread = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        noun = "seed" if seeds == [1] else "seeds"
        above = title_above(figure, f"{title}: {spread} {noun}, after {compared['finetune_step'].max()} updates")
        arrange(figure, panels, above=above, below=2 * line_height(8))
        return figure


def _places(compared: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Where a revision's method stands on the axis."""
    revisions, methods = list(compared["revision"].unique()), [m for m in METHODS if m in set(compared["method"])]
    shift = (np.arange(len(methods)) - (len(methods) - 1) / 2) * 0.8 / max(len(methods), 1)
    return {
        (revision, method): number + shift[order]
        for number, revision in enumerate(revisions)
        for order, method in enumerate(methods)
    }


def _side_by_side(axes: Axes, rows: pd.DataFrame, compared: pd.DataFrame, column: str) -> None:
    for (revision, method), x in _places(compared).items():
        row = compared[(compared["revision"] == revision) & (compared["method"] == method)]
        if row.empty:
            continue
        ended = rows[
            (rows["revision"] == revision)
            & (rows["method"] == method)
            & (rows["learning_rate"] == row["learning_rate"].iloc[0])
            & (rows["finetune_step"] == row["finetune_step"].iloc[0])
        ]
        values = ended[column].to_numpy(float)
        colour = METHODS[method]
        axes.errorbar(
            x, values.mean(), values.std(ddof=1) if values.size > 1 else 0, fmt="_", color=colour, markersize=14, capsize=3,
            label=_LABELS[method],
        )  # fmt: skip
        axes.plot(np.full(values.size, x), values, "o", color=colour, markersize=3, alpha=0.6)
    revisions = list(compared["revision"].unique())
    axes.margins(y=0.15)
    limits = axes.get_ylim()
    for number, revision in enumerate(revisions):
        start = rows[(rows["revision"] == revision) & (rows["finetune_step"] == 0)][column].mean()
        axes.plot(
            [number - 0.45, number + 0.45], [start, start], color="black", linewidth=0.8, linestyle=":", label="before"
        )
    axes.set_ylim(limits)  # a start far from the ends would make them one point
    axes.set_xticks(range(len(revisions)), labels=revisions)
    axes.set_xlim(-0.6, len(revisions) - 0.4)
    axes.set_xlabel("fine-tuned from")


def _p_values(axes: Axes, compared: pd.DataFrame) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.08 * (high - low))
    for (revision, method), x in _places(compared).items():
        row = compared[(compared["revision"] == revision) & (compared["method"] == method)]
        if method != NONE and len(row) and np.isfinite(row["p_value"].iloc[0]):
            axes.text(
                x, high, f"p={row['p_value'].iloc[0]:.2g}", fontsize=6, ha="center", rotation=45, color=METHODS[method]
            )
