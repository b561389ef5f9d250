"""What the figures of polysemanticity share: colours, lines, a legend below all panels."""

from collections.abc import Iterator, Sequence
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


def legend_below(figure: Figure, handles: Sequence[Artist]) -> float:
    """A legend below all panels; returns its height in points."""
    width = float(figure.get_size_inches()[0]) * 72
    widest = max(text_width(str(handle.get_label()), NOTE) for handle in handles) + 40
    columns = max(1, min(len(handles), int((width - 10) / widest)))
    lines = -(-len(handles) // columns)
    columns = -(-len(handles) // lines)
    figure.legend(
        handles=list(handles), loc="lower center", ncols=columns, fontsize=NOTE, borderaxespad=0.2, handlelength=2.6
    )
    return line_height(NOTE) * 1.75 * lines + 5
