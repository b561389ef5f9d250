"""The figure of a sampling bias study: what is measured against how many neurons of each layer are taken."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ninscope.report.layout import arrange, say_nothing, styled


def bias_figure(table: pd.DataFrame, title: str) -> Figure:
    """alpha0, width and E against neurons per layer, with the spread over samples; the whole network as a line.

    table: as `ninscope.sampling_bias` returns it.
    """
    with styled():
        figure = Figure(figsize=(6.4, 6.6))
        panels = figure.subplots(3, 1, sharex=True)
        sampled, exact = table[table["method"] == "sampled"], table[table["method"] == "exact"].iloc[0]
        taken = sampled["nodes_per_layer"].to_numpy(np.int64)
        x = np.log2(taken.astype(np.float64))
        for axes, name, label, colour in (
            (panels[0], "alpha0", r"regularity $\alpha_0$", "#2a6f97"),
            (panels[1], "width", r"heterogeneity $w$", "#8d5524"),
            (panels[2], "emergence", f"E against {table['baseline'].iloc[0]}", "#2d6a4f"),
        ):
            axes.set_ylabel(label)
            reason = _why_empty(table, name)
            if reason:
                axes.set_yticks([])
                say_nothing(axes, reason)
                continue
            mean, spread = sampled[name].to_numpy(float), sampled[f"{name}_std"].to_numpy(float)
            axes.errorbar(x, mean, spread, fmt="o--", color=colour, markersize=4, capsize=3, label="samples")
            axes.axhline(exact[name], color=colour, linewidth=1.6, label="whole network")
            axes.margins(y=0.1)
        if panels[0].get_legend_handles_labels()[0]:
            panels[0].legend(fontsize=8)
        what = f"What sampling does: {title}\n(bars: ±1 standard deviation over samples)"
        panels[0].set_title(what, parse_math=False)  # a folder's name may hold any sign
        panels[2].set_xticks(x, labels=[str(number) for number in taken])
        panels[2].xaxis.set_minor_locator(NullLocator())
        panels[2].set_xlabel("neurons taken from each layer (log axis)")
        arrange(figure, panels[:, None])
        return figure


def _why_empty(table: pd.DataFrame, name: str) -> str:
    if name == "emergence" and _is_baseline(table):
        return f"{table['baseline'].iloc[0]} is what E compares with: it is 0 there"
    return str(table["message"].iloc[-1]) if table[name].isna().all() else ""


def _is_baseline(table: pd.DataFrame) -> bool:
    revision, step, baseline = (table[name].iloc[0] for name in ("revision", "step", "baseline"))
    return bool(baseline == revision or (pd.notna(step) and baseline == f"step{step}"))
