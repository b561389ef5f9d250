"""Progress of counted work on standard error: a bar within 80 columns on a terminal, elsewhere a line every few seconds."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

LINE_SECONDS = 5.0  # between lines in the first minute, then
LATER_SECONDS = 30.0
_NAME_WIDTH, _BAR_WIDTH = 24, 16


class Progress(Protocol):
    """What counts."""

    def advance(self, detail: str = "") -> None:
        """One more is done. detail: what else to show where there is room."""


class _Silent:
    def advance(self, detail: str = "") -> None:
        pass


class _Bar:
    def __init__(self, bar: RichProgress, name: str, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task(name, total=total, detail="")

    def advance(self, detail: str = "") -> None:
        self._bar.update(self._task, advance=1, detail=detail)


class _Lines:
    def __init__(self, name: str, total: int) -> None:
        self._name, self._total, self._done, self._detail = name, total, 0, ""
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="ninscope-progress", daemon=True)
        self._thread.start()

    def advance(self, detail: str = "") -> None:
        self._done, self._detail = self._done + 1, detail

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _tell(self) -> None:
        while not self._ended.wait(LINE_SECONDS if self._elapsed() < 60 else LATER_SECONDS):
            try:
                print(self._line(), file=sys.stderr, flush=True)
            except (OSError, ValueError):  # its reader went away
                return

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _line(self) -> str:
        elapsed, done = self._elapsed(), self._done
        left = f", about {_clock(elapsed / done * (self._total - done))} left" if done else ""
        detail = f" ({self._detail})" if self._detail else ""
        return f"{self._name}: {done} of {self._total} done after {_clock(elapsed)}{left}{detail}"


@contextmanager
def counting(name: str, total: int, quiet: bool = False) -> Iterator[Progress]:
    """Count so many pieces of work; each is told by `advance`. quiet: show nothing."""
    console = Console(stderr=True)
    if quiet:
        yield _Silent()
    elif console.is_terminal:
        with RichProgress(*_columns(console.width), console=console, transient=True, refresh_per_second=2) as bar:
            yield _Bar(bar, name, total)  # drawing more often would cost as much as a job
    else:
        lines = _Lines(name, total)
        try:
            yield lines
        finally:
            lines.end()


def _columns(
    width: int,
) -> tuple[TextColumn | BarColumn | MofNCompleteColumn | TimeElapsedColumn | TimeRemainingColumn, ...]:
    """Within 80 columns; in a wider window the detail as well."""
    name = Column(max_width=_NAME_WIDTH, no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("{task.description}", markup=False, table_column=name),
        BarColumn(bar_width=_BAR_WIDTH),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(compact=True),
    )
    detail = Column(max_width=max(width - 84, 1), no_wrap=True, overflow="ellipsis")
    return (
        (*columns, TextColumn("{task.fields[detail]}", markup=False, table_column=detail)) if width > 100 else columns
    )


def _clock(seconds: float) -> str:
    """ "1:05", "2:00:05" """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
