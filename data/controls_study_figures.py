"""The figures of docs/what-does-e-see.md, drawn from the tables that analyse_controls_study.py makes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from controls_study_names import MEASURES, TEXTS
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ninscope.report.layout import png, styled
from ninscope.report.step_axis import label_steps, position

COLOURS = {"text": "#1b9e77", "shuffled": "#d95f02", "uniform": "#7570b3"}
OVER_TRAINING = {
    "loss": "held-out loss",
    "emergence": "E",
    "emergence_fixed": "E at fixed norms",
    "structure": "structure index",
    "coupling_mlp": "coupling, MLP",
    "coupling_qk": "coupling, q-k",
    "spikes": "spikes",
    "kl_from_previous": "KL from last",
}
STATISTICS = {
    "levels": ("runs", "#1f78b4"),
    "same_settings": ("repetitions", "#33a02c"),
    "differences": ("differences", "#e31a1c"),
}


def over_training(table: pd.DataFrame) -> Figure:
    """Medians over runs of each text, and the middle 80 % as a band, one column a width."""
    widths = sorted(table["width"].unique())
    shown = {name: label for name, label in OVER_TRAINING.items() if name in table}
    with styled():
        figure = Figure(figsize=(7.6, 1.35 * len(shown) + 0.7))
        panels = figure.subplots(len(shown), len(widths), sharex=True, sharey="row", squeeze=False)
        for column, width in enumerate(widths):
            of_width = table[table["width"] == width]
            panels[0, column].set_title(f"{width} wide")
            for row, (name, label) in enumerate(shown.items()):
                _bands(panels[row, column], of_width, name)
                if column == 0:
                    panels[row, column].set_ylabel(label)
            label_steps(panels[-1, column], np.array(sorted(table["step"].unique())))
            panels[-1, column].set_xlabel("training step (log axis; step 0 at the left edge)")
        panels[0, 0].legend(fontsize=7)
        figure.tight_layout()
    return figure


def _bands(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    for text in TEXTS:
        values = rows[rows["text"] == text].groupby("step")[name]
        low, middle, high = (values.quantile(share) for share in (0.1, 0.5, 0.9))
        x = position(middle.index.to_numpy(np.int64))
        axes.plot(x, middle, color=COLOURS[text], marker="o", markersize=2.5, label=text)
        axes.fill_between(x, low.to_numpy(float), high.to_numpy(float), color=COLOURS[text], alpha=0.2, linewidth=0)


def _dots(axes: Axes, rows: pd.DataFrame, columns: Sequence[tuple[str, str, str]], zero: float) -> None:
    """One line a measure, a dot and its interval for each (column, label, colour)."""
    for number, (name, label, colour) in enumerate(columns):
        y = np.arange(len(rows)) + (number - (len(columns) - 1) / 2) * 0.24
        value, low, high = (rows[f"{name}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
        axes.hlines(y, low, high, color=colour, linewidth=1.2)
        axes.plot(value, y, "o", color=colour, markersize=3.5, label=label)
    axes.axvline(zero, color="0.4", linewidth=0.8)
    axes.set_yticks(np.arange(len(rows)), [MEASURES[name] for name in rows["measure"]])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(columns))


def who_tells(separated: pd.DataFrame) -> Figure:
    """AUC of the reporting half at the last step."""
    last = separated[separated["step"] == separated["step"].max()]
    columns = [(f"reporting_{other}", f"text against {other}", COLOURS[other]) for other in TEXTS[1:]]
    with styled():
        figure = Figure(figsize=(6.4, 0.22 * len(last) + 1.2))
        axes = figure.subplots()
        _dots(axes, last, columns, 0.5)
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel("AUC, reporting half, last step (1: text has more)")
        figure.tight_layout()
    return figure


def beside_loss(losses: pd.DataFrame) -> Figure:
    """Rank correlations with the held-out loss of runs on text."""
    columns = [(name, label, colour) for name, (label, colour) in STATISTICS.items()]
    rows = losses[losses["measure"] != "step"]
    with styled():
        figure = Figure(figsize=(6.4, 0.25 * len(rows) + 1.2))
        axes = figure.subplots()
        _dots(axes, rows, columns, 0.0)
        axes.set_xlim(-1.03, 1.03)
        axes.set_xlabel("rank correlation with held-out loss, runs on text")
        figure.tight_layout()
    return figure


def draw(table: pd.DataFrame, tables: dict[str, pd.DataFrame], folder: Path) -> None:
    """Write the three figures."""
    figures = {
        "training": over_training(table), "texts": who_tells(tables["separation"]), "loss": beside_loss(tables["loss"]),
    }  # fmt: skip
    for name, figure in figures.items():
        (folder / f"what-does-e-see-{name}.png").write_bytes(png(figure))
