"""How well neurons' places in the network tell what they do, while a model trains: the table `neuron_places` over steps."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ninscope.neurons.observatory.place_correlations import NUMBERS, PLACES
from ninscope.report.layout import arrange, name_beside, plain, say_nothing, styled, title_above
from ninscope.report.model_names import model_names
from ninscope.report.neuron_places_figure import PLACE_TITLES, chosen_measures
from ninscope.report.neurons_figures import few_ticks
from ninscope.report.neurons_rows import columns_of, of_control, of_text, title_of_column
from ninscope.report.polysemanticity_style import BLUE, GREY, legend_below, text_below
from ninscope.report.step_axis import label_steps, position
from ninscope.wording import listed, of_number

_WIDTH, _HEIGHT = 2.45, 1.35  # of a panel, in inches
_TICK = 6.5
_POINT: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 2.8, "markeredgewidth": 0.8}
_ROOM = 0.06  # of the ordinate's range, above and below


def neuron_places_training_figure(places: pd.DataFrame, checkpoints: pd.DataFrame, text: str) -> Figure:
    """Spearman's correlation of places and measures of single neurons against the training step; of one model.

    places: the table `neuron_places`, rows of one model, of which those of this text and of all layers are drawn.
    checkpoints: the table, of whose steps of that model each has a place. A row of panels a measure, at most six
    (`chosen_measures`), a column a place. The line is the correlation on the text, dashed that of the shuffled control;
    within the band 95 % of permutations within layers lie. All panels share an ordinate. Raises ValueError: rows of several
    models.
    """
    names = model_names(places)
    if len(names) > 1:
        raise ValueError(f"a figure is of one model, these rows are of {listed(list(names.values()))}")
    rows = (
        places[(places["text"] == text) & (places["layer"] == "all")]
        .dropna(subset=["step", "correlation"])
        .astype({"step": "int64"})
    )
    rows = rows.assign(column=columns_of(rows))
    every = list(dict.fromkeys(of_text(rows)["column"]))
    shown = chosen_measures(every)
    rows = rows[rows["column"].isin(shown)]
    there = [place for place in PLACES if (rows["place"] == place).any()]
    steps = _steps_of(rows, checkpoints)
    with styled({"axes.titlepad": 3.0}):
        figure, panels = _panels(max(len(shown), 1), max(len(there), 1))
        of = "".join(f"{plain(name)}, " for name in names.values())
        above = title_above(figure, f"{of}{plain(text)}: does a neuron's place tell what it does?")
        if not shown:
            say_nothing(panels[0, 0], "no correlation is known at a step")
            panels[0, 0].set_axis_off()
        for line, column in enumerate(shown):
            for number, place in enumerate(there):
                axes = panels[line, number]
                _panel(axes, rows[(rows["column"] == column) & (rows["place"] == place)], steps)
                label_steps(axes, steps.tolist(), least=2.2 if len(there) > 1 else 0.7)
            name_beside(panels[line, 0], title_of_column(column), 8.0)
        _alike(panels, rows, there)
        foot = text_below(figure, _how_to_read(rows, every, shown))
        below = legend_below(figure, _handles(rows), foot + 3) if shown else 0.0
        arrange(figure, panels, above=above, below=foot + 3 + below, beyond=4.0)
        return figure


def _panels(lines: int, columns: int) -> tuple[Figure, np.ndarray]:
    width = _WIDTH * columns + 0.5 if columns > 1 else 6.4
    figure = Figure(figsize=(width, _HEIGHT * lines + 1.3 if lines > 1 else 3.9))
    return figure, figure.subplots(lines, columns, squeeze=False)


def _panel(axes: Axes, rows: pd.DataFrame, steps: np.ndarray) -> None:
    """The text's line with its band, and the control's; a gap at a step without a value."""
    own, control = (part.set_index("step")[list(NUMBERS)].reindex(steps) for part in (of_text(rows), of_control(rows)))
    x = position(steps)
    low, high = (own[end].to_numpy(np.float64) for end in ("low", "high"))
    axes.axhline(0, color="black", linewidth=0.6, alpha=0.5)
    axes.fill_between(x, low, high, color=GREY, alpha=0.3, linewidth=0)
    known = np.concatenate([[False], np.isfinite(low), [False]])
    alone = known[1:-1] & ~known[:-2] & ~known[2:]  # a step between gaps has a band too
    axes.vlines(x[alone], low[alone], high[alone], color=GREY, alpha=0.3, linewidth=3)
    if control["correlation"].notna().any():
        axes.plot(x, control["correlation"], color=BLUE, linewidth=1.0, linestyle=(0, (4, 2)))
    axes.plot(x, own["correlation"], color=BLUE, linewidth=1.2)
    outside = ~own["correlation"].between(own["low"], own["high"])
    for chosen, face in ((outside, BLUE), (~outside, "white")):
        axes.plot(x[chosen], own["correlation"][chosen], color=BLUE, markerfacecolor=face, **_POINT)
    axes.tick_params(labelsize=_TICK, length=2)


def _alike(panels: np.ndarray, rows: pd.DataFrame, places: list[str]) -> None:
    """One ordinate for all panels; places above, the step below."""
    if not places:
        return
    drawn = np.concatenate([of_text(rows)[list(NUMBERS)].to_numpy(np.float64).ravel(), of_control(rows)["correlation"]])
    low, high = min(float(drawn.min()), 0.0), max(float(drawn.max()), 0.0)
    room = _ROOM * max(high - low, 0.1)
    for axes in panels.flat:
        axes.set_ylim(low - room, high + room)
        few_ticks(axes.yaxis, False, np.array([low, high]))
    for axes, place in zip(panels[0], places, strict=True):
        axes.set_title(PLACE_TITLES[place], fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel("training step (log axis)", fontsize=8)


def _steps_of(rows: pd.DataFrame, checkpoints: pd.DataFrame) -> np.ndarray:
    """Steps of the rows, and of the checkpoints of their model: int64, ascending."""
    of_model = checkpoints.merge(rows[["suite", "model"]].drop_duplicates(), on=["suite", "model"])
    return np.array(sorted({*rows["step"], *of_model["step"].dropna()}), np.int64)


def _handles(rows: pd.DataFrame) -> list[Artist]:
    handles: list[Artist] = [Line2D([], [], color=BLUE, linewidth=1.2, label="Spearman's correlation")]
    if len(of_control(rows)):
        handles.append(Line2D([], [], color=BLUE, linestyle=(0, (4, 2)), label="control: shuffled"))
    handles.append(Patch(color=GREY, alpha=0.3, linewidth=0, label="95 % of permutations within layers"))
    return [*handles, Line2D([], [], color=BLUE, label="outside of it", **_POINT)]


def _how_to_read(rows: pd.DataFrame, every: list[str], shown: list[str]) -> str:
    if not shown:
        return ""
    least, most = (int(number) for number in of_text(rows)["neurons"].agg(["min", "max"]))
    sentences = [
        "Within the band, which neuron of a layer is which tells nothing more than its layer does; one of 20 points lies "
        f"outside by chance. A point is of {f'{least:,} to ' if least < most else ''}{most:,} neurons."
    ]
    if len(every) > len(shown):
        sentences.append(f"The table neuron_places has {of_number(len(every) - len(shown), 'more measure')}.")
    return " ".join(sentences)
