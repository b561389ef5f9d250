"""What single neurons, heads and representations do while a model trains: measures over steps, and maps of layers by steps.

Tables in, matplotlib figures out.
"""

import math

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ninscope.neurons.observatory.measure import ALL
from ninscope.report.layout import arrange, label_places, name_panel, plain, say_nothing, styled, title_above
from ninscope.report.model_names import model_names
from ninscope.report.neurons_rows import main_rows, of_control, of_layers, of_text, titles_of
from ninscope.report.polysemanticity_style import COLOURS, GREY, legend_below, text_below
from ninscope.report.step_axis import cell_edges, label_steps, position
from ninscope.wording import listed

LOG_FROM = 100.0  # an ordinate is logarithmic where the largest of positive values is so many times the smallest
_TICK = 6.5  # font size of tick labels in small panels
_SMALL = {"axes.titlepad": 3.0}
_MISSING = "#d9d9d9"
_LAYER_LABELS = 14  # of a map, at most
_NAME = 22  # letters of a layer's name
_BAR_ROOM = 42.0  # points beside a map, for its colour bar and the labels of that


def neurons_figure(neurons: pd.DataFrame, checkpoints: pd.DataFrame, text: str) -> Figure:
    """Every measure's main number against the training step: a panel a measure and what it compares with, a colour a model.

    neurons: the table, of which the rows of this text are drawn. checkpoints: the table, for the models' sizes, by which they are
    sorted. A full line is of the text: the number of the whole model, or the median over layers; its band holds 5 to 95 % of the
    layers. A dashed line is the shuffled control. A measure without a value has no panel, and is named below.
    """
    rows = main_rows(neurons[neurons["text"] == text])
    shown, missing = titles_of(rows)
    models = _by_size(rows, checkpoints)
    measured = {model: _measured_steps(neurons, text, model) for model in models}
    steps = {step for of_model in measured.values() for step in of_model.tolist()}
    with styled(_SMALL):
        figure, panels = _grid(max(len(shown), 1), 2.45, 1.5)
        above = title_above(figure, f"{plain(text)}: neurons over training")
        if not shown:
            _say_nothing(panels[0, 0], "no checkpoint has a value with a step")
        for axes, title in zip(panels.flat, shown, strict=False):
            of_panel = rows[rows["title"] == title]
            for model, colour in models.items():
                _curves(axes, _of_model(of_panel, model), measured[model], colour)
            name_panel(axes, title, 8.0)
            label_steps(axes, steps, least=2.2 if panels.shape[1] > 1 else 0.7)
            _legible(axes)
        _label_steps_below(panels, "training step (log axis)")
        foot = text_below(figure, _how_to_read(panels, shown, missing))
        below = legend_below(figure, _handles(rows, models), foot + 3) if shown else 0.0
        arrange(figure, panels, above=above, below=foot + 3 + below, beyond=4.0)
        return figure


def neurons_map(neurons: pd.DataFrame, checkpoints: pd.DataFrame, text: str) -> Figure:
    """Every measure layer by layer (rows) at every step (columns), each with colours of its own; of one model.

    neurons: the table's rows of one model, of which those of this text and no control are drawn. checkpoints: the table, of whose
    steps of that model each has a column. Layers go from the one nearest to the input, below, upwards. Grey with a cross is what
    has no value. A measure that no layer has a value of is named below. Raises ValueError: rows of several models.
    """
    every = of_text(main_rows(neurons[neurons["text"] == text]))
    names = model_names(every)
    if len(names) > 1:
        raise ValueError(f"a map is of one model, these rows are of {listed(list(names.values()))}")
    rows = of_layers(every)
    shown, _ = titles_of(rows)
    missing = [title for titles in titles_of(every) for title in titles if title not in shown]
    steps = _steps_of(every, checkpoints)
    with styled(_SMALL | {"axes.grid": False}):
        most = max((rows.loc[rows["title"] == title, "layer"].nunique() for title in shown), default=1)
        figure, panels = _grid(max(len(shown), 1), 3.1, float(np.clip(0.5 + 0.14 * most, 1.5, 2.6)))
        of = "".join(f"{plain(name)}, " for name in names.values())
        above = title_above(figure, f"{of}{plain(text)}: neurons, layer by layer")
        if not shown:
            _say_nothing(panels[0, 0], "no layer has a value at a step")
        crossed = False
        for axes, title in zip(panels.flat, shown, strict=False):
            crossed |= _map(axes, rows[rows["title"] == title], steps)
            name_panel(axes, title, 8.0)
            label_steps(axes, steps.tolist(), least=2.2 if panels.shape[1] > 1 else 0.7)
            axes.tick_params(labelsize=_TICK, length=2)
        _label_steps_below(panels, "training step (log axis)")
        sentences = ["Each map has colours of its own; layers from the input upwards."] if shown else []
        sentences += ["Grey with a cross: no value."] if crossed else []
        foot = text_below(figure, " ".join([*sentences, *_left_out(missing, "no layer has a value")]))
        arrange(figure, panels, above=above, below=foot + 4, beyond=_BAR_ROOM)
        return figure


def _say_nothing(axes: Axes, message: str) -> None:
    say_nothing(axes, message)
    axes.set_axis_off()


# --- panels -------------------------------------------------------------------------------------------------------------


def _grid(count: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """(figure, panels [rows, columns]) of so many panels, these inches each; those beyond are off. A single one is larger."""
    columns = next((columns for columns in (1, 2, 3, 4) if count <= columns * columns), 5)
    lines = math.ceil(count / columns)
    size = (6.4, 3.9) if count == 1 else (width * columns + 0.3, (height + 0.42) * lines + 1.2)
    figure = Figure(figsize=size)
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes in panels.flat[count:]:
        axes.set_axis_off()
    return figure, panels


def _label_steps_below(panels: np.ndarray, label: str) -> None:
    """The label at the lowest panel of every column."""
    for column in panels.T:
        there = [axes for axes in column if axes.axison]
        if there:
            there[-1].set_xlabel(label, fontsize=8 if len(panels) * len(panels.T) > 1 else 9)


def _legible(axes: Axes) -> None:
    """Few ticks, and logarithms where positive values span much."""
    values = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in axes.lines] or [np.empty(0)])
    values = values[np.isfinite(values)]
    axes.tick_params(labelsize=_TICK, length=2)
    logarithmic = bool(values.size) and values.min() > 0 and values.max() >= LOG_FROM * values.min()
    if logarithmic:
        axes.set_yscale("log")
    few_ticks(axes.yaxis, logarithmic, values)


def few_ticks(axis: Axis, logarithmic: bool, values: np.ndarray) -> None:
    """At most five ticks, with plain numbers as far as these are short, for small panels; one where all values are one.

    values: what is shown, finite.
    """
    alike = len(values) > 0 and values.min() == values.max()
    several = LogLocator(numticks=5) if logarithmic else MaxNLocator(4)
    axis.set_major_locator(FixedLocator([float(values.min())]) if alike else several)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _curves(axes: Axes, rows: pd.DataFrame, steps: np.ndarray, colour: str) -> None:
    """The text's line with its band, and the control's, dashed, at these steps."""
    for part, style in (
        (of_text(rows), {"marker": "o", "markersize": 2.2}),
        (of_control(rows), {"linestyle": (0, (4, 2))}),
    ):
        if part["value"].notna().any():
            x, middle, low, high = _over_layers(part, steps)
            if "marker" in style and (high > low).any():
                axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
            axes.plot(x, middle, color=colour, linewidth=1.2, **style)


def _over_layers(rows: pd.DataFrame, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(places on the axis, values of the whole model or medians over layers, 5 % and 95 % of the layers), float64 [steps].

    A step without a value is NaN, where the line has a gap.
    """
    of_parts = of_layers(rows).groupby("step")["value"]
    whole = rows[rows["layer"] == ALL].groupby("step")["value"].mean().reindex(steps)
    middle = whole.where(whole.notna(), of_parts.median().reindex(steps))
    low, high = (of_parts.quantile(part).reindex(steps).to_numpy(np.float64) for part in (0.05, 0.95))
    return position(steps), middle.to_numpy(np.float64), low, high


def _map(axes: Axes, rows: pd.DataFrame, steps: np.ndarray) -> bool:
    """Cells of layers by steps with their colour bar; returns whether any has no value."""
    layers = list(dict.fromkeys(rows["layer"]))
    table = rows.pivot_table(index="layer", columns="step", values="value", aggfunc="mean", dropna=False)
    values = table.reindex(index=layers, columns=steps).to_numpy(np.float64)
    norm, colours = _shades(values)
    cells = axes.pcolormesh(
        cell_edges(position(steps)), np.arange(len(layers) + 1), np.ma.masked_invalid(values), norm=norm, cmap=colours,
        rasterized=True,
    )  # fmt: skip
    axes.set_facecolor(_MISSING)
    rows_without, columns_without = np.nonzero(~np.isfinite(values))
    axes.plot(
        position(steps[columns_without]), rows_without + 0.5, "x", color="0.35", markersize=3, markeredgewidth=0.6
    )
    some = range(0, len(layers), -(-len(layers) // _LAYER_LABELS))
    shown = _short_names(layers)
    label_places(axes.yaxis, np.array(some) + 0.5, [plain(shown[number]) for number in some])
    bar = axes.inset_axes((1.03, 0.0, 0.035, 1.0))
    axes.figure.colorbar(cells, cax=bar)
    few_ticks(bar.yaxis, isinstance(norm, LogNorm), values[np.isfinite(values)])
    bar.tick_params(labelsize=_TICK, length=2, pad=2)
    return bool(len(rows_without))


def _short_names(names: list[str]) -> list[str]:
    """Names as they are, if none is long; else without the parts that all end with, and of what is still long the ends."""
    if max(map(len, names)) <= _NAME:
        return names
    parts = [name.split(".") for name in names]
    alike = 0
    while all(len(of) > alike + 1 and of[-1 - alike] == parts[0][-1 - alike] for of in parts):
        alike += 1
    kept = [".".join(of[: len(of) - alike]) for of in parts]
    half = _NAME // 2 - 1
    return [name if len(name) <= _NAME else f"{name[:half]}…{name[-half:]}" for name in kept]


def _shades(values: np.ndarray) -> tuple[Normalize, str]:
    """(scale, colours) of a map: about 0 where values have both signs, logarithmic where positive ones span much."""
    known = values[np.isfinite(values)]
    low, high = float(known.min()), float(known.max())
    if low < 0 < high:
        reach = max(-low, high)
        return Normalize(-reach, reach), "RdBu_r"
    if low > 0 and high >= LOG_FROM * low:
        return LogNorm(low, high), "viridis"
    return Normalize(low, high if high > low else low + (abs(low) or 1.0)), "viridis"


# --- models and words ---------------------------------------------------------------------------------------------------


def _by_size(rows: pd.DataFrame, checkpoints: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Colours of models, (suite, model), from the smallest to the largest; those without a size last, as the rows have them."""
    pairs = list(model_names(rows))
    sizes = checkpoints.groupby(["suite", "model"])["parameters"].max().astype("float64").to_dict()
    ordered = sorted(pairs, key=lambda pair: (not sizes.get(pair, math.nan) > 0, sizes.get(pair, 0.0)))
    if len(ordered) <= len(COLOURS):
        return dict(zip(ordered, COLOURS, strict=False))
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(ordered)))
    return {pair: mpl.colors.to_hex(shade) for pair, shade in zip(ordered, shades, strict=True)}


def _of_model(rows: pd.DataFrame, pair: tuple[str, str]) -> pd.DataFrame:
    return rows[(rows["suite"] == pair[0]) & (rows["model"] == pair[1])]


def _measured_steps(neurons: pd.DataFrame, text: str, pair: tuple[str, str]) -> np.ndarray:
    """Steps at which a model was looked at, also where that failed: int64, ascending."""
    rows = _of_model(neurons[neurons["text"] == text], pair)
    return np.array(sorted(rows["step"].dropna().unique()), np.int64)


def _steps_of(rows: pd.DataFrame, checkpoints: pd.DataFrame) -> np.ndarray:
    """Steps of the rows, and of the checkpoints of their model: int64, ascending."""
    of_model = checkpoints.merge(rows[["suite", "model"]].drop_duplicates(), on=["suite", "model"])
    return np.array(sorted({*rows["step"], *of_model["step"].dropna()}), np.int64)


def _handles(rows: pd.DataFrame, models: dict[tuple[str, str], str]) -> list[Artist]:
    """Models where there are several, and how lines and bands are told apart as far as there are such."""
    names = model_names(rows)
    single = len(models) == 1
    colour = next(iter(models.values())) if single else "black"
    handles: list[Artist] = []
    if not single:
        handles += [Line2D([], [], color=shade, label=plain(names[pair])) for pair, shade in models.items()]
    name = f"{plain(next(iter(names.values())))}, the examples" if single else "the examples"
    handles.append(Line2D([], [], color=colour, marker="o", markersize=2.2, label=name))
    if of_control(rows)["value"].notna().any():
        handles.append(Line2D([], [], color=colour, linestyle=(0, (4, 2)), label="control: shuffled"))
    if of_layers(of_text(rows))["layer"].nunique() > 1:
        handles.append(Patch(color=GREY, alpha=0.3, linewidth=0, label="band: 5 to 95 % of the layers"))
    return handles


def _how_to_read(panels: np.ndarray, shown: list[str], missing: list[str]) -> str:
    sentences = ["Lines are the number of the whole model, or the median over layers."] if shown else []
    sentences += ["A gap is a checkpoint without a value."] if any(map(_has_gap, panels.flat)) else []
    return " ".join([*sentences, *_left_out(missing, "no checkpoint has a value")])


def _has_gap(axes: Axes) -> bool:
    """Whether a line of the panel is interrupted."""
    for line in axes.lines:
        known = np.flatnonzero(np.isfinite(np.asarray(line.get_ydata(), np.float64)))
        if len(known) and len(known) <= np.ptp(known):
            return True
    return False


def _left_out(missing: list[str], why: str) -> list[str]:
    return [f"Not drawn, since {why}: {plain('; '.join(missing))}."] if missing else []
