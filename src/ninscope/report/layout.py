"""How figures look and where their panels stand.

Margins are computed from the labels that stand in them. matplotlib's own layout engines draw every axis and label twice more to
find them, which takes as long as the drawing itself.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath, text_to_path
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import Affine2D, Transform
from PIL import Image

from ninscope import garbage

STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "axes.titlesize": 10, "legend.frameon": False, "figure.dpi": 150,
    "axes.titley": 1.0,  # otherwise every title is moved above what it might touch, for which ticks are drawn once more
    "text.hinting": "no_hinting",  # half the time of the font's own hints; at 150 dots an inch the eye sees no difference
}  # fmt: skip

# In points, 1/72 inch.
_EDGE = 3.0  # between what stands outermost and the edge of the figure
_ACROSS, _DOWN = 11.0, 4.0  # between panels side by side and one above the other, beyond their labels
_BAR_GAP, _BAR_WIDTH = 8.0, 14.0  # of colour bars
_LABEL_PAD = 4.0  # an axis label and the tick labels


@contextmanager
def styled(changes: dict[Any, Any] | None = None) -> Iterator[None]:
    """Draw in the style of all figures, with these changes.

    Garbage is not looked for meanwhile: all of a figure's many artists live until it is drawn, and looking through them, and
    through everything that the process holds besides, takes up to half as long as drawing.
    """
    with garbage.not_looked_for(), mpl.rc_context(STYLE | (changes or {})):
        yield


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; the same bytes for the same figure.

    Colours are RGB without transparency: smaller, and faster to compress at zlib level 1 than RGBA at level 6.
    """
    canvas = FigureCanvasAgg(figure)
    with styled():
        canvas.draw()
    picture = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
    content = io.BytesIO()
    picture.convert("RGB").save(content, "png", compress_level=1, dpi=(figure.dpi, figure.dpi))
    return content.getvalue()


def picture(figure: Figure, form: str) -> bytes:
    """The figure as a file of one of FORMATS; the same bytes for the same figure."""
    if form == "png":
        return png(figure)
    content = io.BytesIO()
    date = {"svg": "Date", "pdf": "CreationDate"}[form]
    with styled({"svg.hashsalt": "ninscope"}):
        figure.savefig(content, format=form, metadata={date: None})
    return content.getvalue()


_BEYOND = 0.4  # of the curves' range: as far a band is shown beyond them


def bands_may_leave(axes: Axes, values: np.ndarray) -> None:
    """Cut bands that reach far beyond the curves, or one wide band would flatten every curve. values: those of the curves."""
    if np.isfinite(values).any():
        low, high = min(float(np.nanmin(values)), 0.0), max(float(np.nanmax(values)), 0.0)
        room = _BEYOND * max(high - low, 0.02)
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, low - room), min(top, high + room))


def say_nothing(axes: Axes, message: str) -> None:
    """An empty panel that says why it is empty, on as many lines as it takes."""
    room = 0.9 * axes.bbox.width / axes.figure.dpi * 72
    lines: list[str] = []
    for word in message.split(" "):
        if lines and text_width(f"{lines[-1]} {word}", 9) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 2.0}  # a line at 0 goes not through it
    axes.text(0.5, 0.5, "\n".join(lines), transform=axes.transAxes, ha="center", va="center", fontsize=9, bbox=box)


def title_above(figure: Figure | SubFigure, text: str) -> float:
    """Write a title at the figure's upper edge, smaller where it is long; returns the height that it takes, in points."""
    width, height = _size(figure)
    size = 10.0 * min(1.0, (width - 2 * _EDGE) / text_width(text, 10))
    figure.suptitle(text, fontsize=size, y=1 - _EDGE / height)
    return line_height(10) + _EDGE


def plain(text: str) -> str:
    """A name as it is: a dollar sign in it begins no formula."""
    return text.replace("$", r"\$")


def name_panel(axes: Axes, name: str, size: float = 9.0) -> None:
    """Write a name above a panel, before panels are arranged: on two lines, and smaller, where it would reach the next panel."""
    shown, size = _within(name, size, float(axes.bbox.width) * 72 / axes.figure.dpi)
    axes.set_title(plain(shown), fontsize=size)


def name_beside(axes: Axes, name: str, size: float = 9.0) -> None:
    """The same beside a panel, in the place of its axis label."""
    shown, size = _within(name, size, float(axes.bbox.height) * 72 / axes.figure.dpi)
    axes.set_ylabel(plain(shown), fontsize=size)


def _within(name: str, size: float, room: float) -> tuple[str, float]:
    """(the name on one line or two, font size) of what is no longer than `room`, in points."""
    if text_width(name, size) <= room:
        return name, size
    words = name.split(" ")
    two_lines = [" ".join(words[:count]) + "\n" + " ".join(words[count:]) for count in range(1, len(words))]
    shown = min((name, *two_lines), key=lambda lines: text_width(lines, size))
    return shown, size * min(1.0, room / text_width(shown, size))


def label_both(figure: Figure, x: str, y: str) -> None:
    """Label the axes of all panels together, at the figure's lower and left edge; each takes a line of size 9, or is smaller."""
    width, height = _size(figure)
    sizes = [9 * min(1.0, (side - 2 * _EDGE) / text_width(text, 9)) for text, side in ((x, width), (y, height))]
    figure.supxlabel(x, fontsize=sizes[0], y=_EDGE / height)
    figure.supylabel(y, fontsize=sizes[1], x=_EDGE / width)


def line_height(size: float, lines: int = 1) -> float:
    """Height of so many lines of text of this font size, in points."""
    return size if lines == 1 else 1.2 * lines * size


@cache
def text_width(text: str, size: float) -> float:
    """Width of a text of this font size, in points: that of its longest line."""
    font = FontProperties(size=size)
    return max(
        float(text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]) for line in text.split("\n")
    )


def arrange(
    figure: Figure | SubFigure,
    panels: np.ndarray,
    *,
    above: float = 0.0,
    below: float = 0.0,
    left: float = 0.0,
    beyond: float = 0.0,
    bars: dict[int, Axes] | None = None,
    twin: Axes | Sequence[Axes] | None = None,
    widths: Sequence[float] | None = None,
    heights: Sequence[float] | None = None,
) -> None:
    """Place a grid of panels, with their colour bars and axis labels, so that all labels have room.

    panels: (rows, columns) of axes that are drawn, with their limits, ticks, titles and labels. above, below, left: room for
    what belongs to the figure as a whole, in points; beyond: room to the right of every column, in points. bars: the axes of
    colour bars, by the column to the right of which they stand. twin: the axes of a second ordinate, in the last column, or of
    several.
    widths, heights: ratios of columns and rows (default: all alike).
    """
    width, height = _size(figure)
    rows, columns = panels.shape
    bars = bars or {}
    over = np.array([max(_title_height(axes) for axes in row) for row in panels])
    under = np.array([max(_below_axis(axes) for axes in row) for row in panels])
    free = height - 2 * _EDGE - above - below - over.sum() - under.sum() - _DOWN * (rows - 1)
    tall = free * _shares(heights, rows)
    tops = height - _EDGE - above - np.cumsum(over + np.r_[0, (tall + under)[:-1] + _DOWN])
    lows = tops - tall
    for row, low, panel_height in zip(panels, lows, tall, strict=True):
        for axes in row:  # how many ticks there are, and so how wide their labels, depends on the height
            axes.set_position((0.1, low / height, 0.8, panel_height / height))
    for bar in bars.values():
        bar.set_position((0.9, lows[-1] / height, 0.05, (tops[0] - lows[-1]) / height))
    beside = np.array([max(_beside_axis(axes) for axes in column) for column in panels.T])
    right = np.full(columns, beyond)
    twins = [twin] if isinstance(twin, Axes) else list(twin or ())
    right[-1] += max(map(_beside_axis, twins), default=0.0)
    for column, bar in bars.items():
        right[column] += _BAR_GAP + _BAR_WIDTH + _beside_axis(bar)
    free = width - 2 * _EDGE - left - right.sum() - beside.sum() - _ACROSS * (columns - 1)
    wide = free * _shares(widths, columns)
    starts = _EDGE + left + np.cumsum(beside + np.r_[0, (wide + right)[:-1] + _ACROSS])
    for row, low, panel_height in zip(panels, lows, tall, strict=True):
        for axes, start, panel_width in zip(row, starts, wide, strict=True):
            axes.set_position((start / width, low / height, panel_width / width, panel_height / height))
            _place_labels(axes)
    for column, bar in bars.items():
        start = starts[column] + wide[column] + _BAR_GAP
        bar.set_position((start / width, lows[-1] / height, _BAR_WIDTH / width, (tops[0] - lows[-1]) / height))
        _place_labels(bar)
    for second in twins:
        _place_labels(second)


def bar_axes(figure: Figure) -> Axes:
    """Axes for a colour bar, which `arrange` places."""
    axes = figure.add_axes((0.9, 0.1, 0.05, 0.8))
    axes.grid(visible=False)
    return axes


def _place_labels(axes: Axes) -> None:
    """Put the labels of both axes beyond the tick labels; otherwise this is found anew at every drawing."""
    box = axes.get_position()
    width, height = _size(axes.figure) * (box.width, box.height)
    axes.xaxis.set_label_coords(0.5, -(_tick_labels_below(axes) + _LABEL_PAD) / height)
    beside = (_tick_labels_beside(axes) + _LABEL_PAD) / width
    axes.yaxis.set_label_coords(1 + beside if axes.yaxis.get_label_position() == "right" else -beside, 0.5)


def _size(figure: Figure | SubFigure) -> np.ndarray:
    """(width, height) in points."""
    return np.array([figure.bbox.width, figure.bbox.height]) * 72 / figure.dpi


def _shares(ratios: Sequence[float] | None, count: int) -> np.ndarray:
    values = np.ones(count) if ratios is None else np.asarray(ratios, dtype=np.float64)
    return values / values.sum()


def _title_height(axes: Axes) -> float:
    title = axes.get_title()
    if not title:
        return 0.0
    return line_height(float(axes.title.get_fontsize()), title.count("\n") + 1) + mpl.rcParams["axes.titlepad"]


def _below_axis(axes: Axes) -> float:
    label = axes.get_xlabel()
    if not label or not axes.axison:
        return _tick_labels_below(axes)
    return (
        _tick_labels_below(axes)
        + _LABEL_PAD
        + line_height(float(axes.xaxis.label.get_fontsize()), label.count("\n") + 1)
    )


def _beside_axis(axes: Axes) -> float:
    room, label = _tick_labels_beside(axes), axes.get_ylabel()
    if not label:
        return room
    return room + _LABEL_PAD + line_height(float(axes.yaxis.label.get_fontsize()), label.count("\n") + 1)


def _tick_labels_below(axes: Axes) -> float:
    """Height of the ticks and their labels under a panel, in points."""
    if not axes.axison or not axes.get_visible():
        return 0.0
    ticks = _tick_params(axes.xaxis)
    return ticks["length"] + (
        ticks["pad"] + line_height(ticks["labelsize"]) if _is_labelled(axes.xaxis, ticks) else 0.0
    )


def _tick_labels_beside(axes: Axes) -> float:
    """Width of the ticks and their labels beside a panel, in points."""
    if not axes.axison or not axes.get_visible():
        return 0.0
    ticks = _tick_params(axes.yaxis)
    labels = _ticks(axes.yaxis)[1] + _minor_labels(axes.yaxis) if _is_labelled(axes.yaxis, ticks) else []
    if not labels:
        return ticks["length"]
    longest = sorted(labels, key=len)[-8:]  # the widest is among them
    return ticks["length"] + ticks["pad"] + max(text_width(label, ticks["labelsize"]) for label in longest)


def _minor_labels(axis: Axis) -> list[str]:
    """Labels of minor ticks, which a logarithmic axis of less than a decade has."""
    places = axis.get_minorticklocs().tolist()
    return axis.get_minor_formatter().format_ticks(places) if places else []


def label_places(axis: Axis, places: Sequence[float] | np.ndarray, labels: Sequence[str]) -> None:
    """Ticks at these places, with these labels; unlike `Axes.set_xticks`, this makes no tick before it is drawn."""
    axis.set_major_locator(FixedLocator(list(places)))
    axis.set_major_formatter(FixedFormatter(labels))
    axis.set_minor_locator(NullLocator())


def _is_labelled(axis: Axis, ticks: dict[str, Any]) -> bool:
    return bool(ticks[f"label{axis.get_label_position()}"])


def _tick_params(axis: Axis) -> dict[str, Any]:
    """How ticks are drawn; lengths and sizes in points."""
    usual = {
        "length": mpl.rcParams["xtick.major.size"], "pad": mpl.rcParams["xtick.major.pad"],
        "labelsize": mpl.rcParams["font.size"], "labelbottom": True, "labelleft": True, "labelright": False,
        "gridOn": False,
    }  # fmt: skip
    return usual | axis.get_tick_params()


def _ticks(axis: Axis) -> tuple[np.ndarray, list[str]]:
    """Where an axis has ticks, in its own units, and their labels."""
    low, high = sorted(axis.get_view_interval())
    room = 1e-9 * (high - low)
    places = np.asarray(axis.get_majorticklocs(), dtype=np.float64)
    inside = (places >= low - room) & (places <= high + room)
    labels = axis.get_major_formatter().format_ticks(places.tolist())
    return places[inside], [label for label, shown in zip(labels, inside, strict=True) if shown]


def draw_axes(figure: Figure | SubFigure, panels: Iterable[Axes]) -> None:
    """Draw ticks, grid lines and labels of panels that are arranged, and hide matplotlib's own. Not for logarithmic axes.

    A tick of matplotlib's is five artists. Here all grid lines are one artist, all tick marks another, and so are all tick labels
    of one size.
    """
    grid: list[np.ndarray] = []
    marks: list[np.ndarray] = []
    labels: dict[float, list[tuple[str, str, str, np.ndarray]]] = {}
    for axes, axis in _visible_axes(panels):
        ticks = _tick_params(axis)
        places, words = _ticks(axis)
        line = _AxisLine(figure, axes, axis)
        starts = line.points(places)
        if ticks["gridOn"]:
            grid += [np.array([start, start + line.across]) for start in starts]
            axes.patch.set_visible(False)  # it would hide the grid, which lies below all panels
        if ticks["length"]:
            marks += [np.array([start, start + ticks["length"] * line.outward]) for start in starts]
        if _is_labelled(axis, ticks):
            away = (ticks["length"] + ticks["pad"]) * line.outward
            labels.setdefault(ticks["labelsize"], []).extend(
                (word, *line.alignment, start + away) for word, start in zip(words, starts, strict=True) if word
            )
        _write_label(figure, axis)
        axis.set_visible(False)
    size = _size(figure)
    rc = mpl.rcParams
    style = {"colors": rc["grid.color"], "linewidths": rc["grid.linewidth"], "alpha": rc["grid.alpha"], "zorder": -1}
    for lines, look in (
        (grid, style),
        (marks, {"colors": rc["xtick.color"], "linewidths": rc["xtick.major.width"], "zorder": 2.5}),
    ):
        if lines:
            figure.add_artist(
                LineCollection(np.array(lines) / size, transform=figure.transSubfigure, snap=True, **look)
            )
    for label_size, words_of_size in labels.items():
        places = np.array([word[-1] for word in words_of_size]) / size
        figure.add_artist(
            words_at(
                [word[:3] for word in words_of_size], places, figure.transSubfigure, label_size, figure.dpi_scale_trans
            )
        )


def _visible_axes(panels: Iterable[Axes]) -> Iterator[tuple[Axes, Axis]]:
    """Every axis that is to be seen, with the panel it belongs to."""
    for axes in panels:
        if axes.axison and axes.get_visible():
            yield from ((axes, axis) for axis in (axes.xaxis, axes.yaxis) if axis.get_visible())


class _AxisLine:
    """Where an axis of an arranged panel lies in its figure, in points."""

    def __init__(self, figure: Figure | SubFigure, axes: Axes, axis: Axis) -> None:
        corners = np.asarray(axes.get_position().get_points()) * _size(figure)
        (left, bottom), (right, top) = corners
        self._scale = axes.transScale + axes.transLimits
        self._along = 0 if axis is axes.xaxis else 1
        axes.get_xlim(), axes.get_ylim()
        if self._along == 0:
            self.start, self.end = np.array([left, bottom]), np.array([right, bottom])
            self.across, self.outward = np.array([0.0, top - bottom]), np.array([0.0, -1.0])
            self.alignment = ("center", "top")
        elif axis.get_label_position() == "right":
            self.start, self.end = np.array([right, bottom]), np.array([right, top])
            self.across, self.outward = np.array([left - right, 0.0]), np.array([1.0, 0.0])
            self.alignment = ("left", "center")
        else:
            self.start, self.end = np.array([left, bottom]), np.array([left, top])
            self.across, self.outward = np.array([right - left, 0.0]), np.array([-1.0, 0.0])
            self.alignment = ("right", "center")

    def points(self, places: np.ndarray) -> np.ndarray:
        """Points in the figure of these places on the axis."""
        data = np.zeros((len(places), 2))
        data[:, self._along] = places
        share = self._scale.transform(data)[:, self._along : self._along + 1]
        return self.start + share * (self.end - self.start)


def words_at(
    words: Iterable[tuple[str, str, str]],
    places: np.ndarray,
    transform: Transform,
    size: float,
    inches: Transform,
    colours: Sequence[Any] | str = "black",
) -> PathCollection:
    """Many short texts of one size as one artist.

    words: (text, horizontal alignment, vertical alignment), as a `Text` has them. places: (number of words, 2), where they stand
    in the coordinates of this transform. inches: the figure's `dpi_scale_trans`.
    """
    paths = [_word(text, size, across, upright) for text, across, upright in words]
    shapes = PathCollection(paths, offsets=places, offset_transform=transform, facecolors=colours, edgecolors="none")
    shapes.set_transform(Affine2D().scale(1 / 72) + inches)
    shapes.set_zorder(3)
    return shapes


@cache
def _word(text: str, size: float, across: str, upright: str) -> Path:
    """The outlines of a text in points, about the point that it is aligned with."""
    x = {"left": 0.0, "center": -0.5, "right": -1.0}[across] * text_width(text, size)
    y = {"center": -0.365, "top": -0.76}[
        upright
    ] * size  # half the height of a digit, and of a letter with its ascender
    return TextPath((x, y), plain(text), size=size)


def _write_label(figure: Figure | SubFigure, axis: Axis) -> None:
    label, box = axis.label, axis.axes.get_position()
    x, y = label.get_position()
    offset = axis.get_major_formatter().get_offset()
    if offset:
        figure.text(box.x0, box.y1, offset, fontsize=mpl.rcParams["font.size"], ha="left", va="bottom")
    if label.get_text():
        figure.text(
            box.x0 + x * box.width, box.y0 + y * box.height, label.get_text(), color=label.get_color(),
            fontsize=label.get_fontsize(), ha=label.get_horizontalalignment(),
            va=label.get_verticalalignment(), rotation=label.get_rotation(),
            rotation_mode="anchor",
        )  # fmt: skip
