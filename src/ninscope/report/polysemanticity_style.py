"""What the figures of polysemanticity and of neurons share: colours, lines, a text and a legend below all panels."""

from collections.abc import Iterator, Sequence
from textwrap import fill
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from ninscope.report.layout import line_height, text_width

NamedFigures = Iterator[tuple[str, Figure]]  # (file name, figure)
BLUE, ORANGE, GREEN, PINK, GREY = "#2a6f97", "#d95f02", "#2d6a4f", "#a23b72", "#6c757d"
COLOURS = (BLUE, ORANGE, GREEN, PINK)
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
MARKERS = "os^D"
NOTE = 7.5  # font size of legends and of what stands below
LOSS = "loss, held out (MSE)"


def text_below(figure: Figure, text: str) -> float:
    """A text over the width of the figure, at its lower edge; returns its height, in points."""
    width, height = figure.get_size_inches() * 72
    lines = fill(text, max(30, int(width / (0.53 * NOTE)))).split("\n")
    for number, line in enumerate(lines, 1):
        y = (4 + 1.25 * NOTE * (len(lines) - number)) / height
        figure.text(0.5, y, line, fontsize=NOTE, ha="center", va="bottom")
    return 4 + 1.25 * NOTE * len(lines)


def legend_below(figure: Figure, handles: Sequence[Artist], foot: float = 0.0) -> float:
    """A legend below all panels; returns its height in points. foot: what stands below it, in points."""
    width, height = figure.get_size_inches() * 72
    widest = max(text_width(str(handle.get_label()), NOTE) for handle in handles) + 40
    columns = max(1, min(len(handles), int((width - 10) / widest)))
    lines = -(-len(handles) // columns)
    columns = -(-len(handles) // lines)
    figure.legend(
        handles=list(handles), loc="lower center", bbox_to_anchor=(0.5, foot / height), ncols=columns, fontsize=NOTE,
        borderaxespad=0.2, handlelength=2.6,
    )  # fmt: skip
    return line_height(NOTE) * 1.75 * lines + 5
