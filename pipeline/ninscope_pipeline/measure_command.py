"""What `ninscope measure` does, from the options as they are typed to what it prints and writes."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ninscope.checkpoints.hub.traffic import counted
from ninscope.errors import RequestError
from ninscope.measured_rows import MeasuredRows
from ninscope.measuring import measure_all
from ninscope.report.analysis_rows import ALL_PARTS
from ninscope_pipeline import display
from ninscope_pipeline.display import Say


@dataclass(frozen=True)
class Output:
    """How the rows of a measurement are shown: as one JSON document, as CSV, or as a table; and a figure of them."""

    as_json: bool = False
    as_csv: bool = False
    figure: Path | None = None

    def __post_init__(self) -> None:
        if self.as_json and self.as_csv:
            raise RequestError("--json and --csv are two forms of one output; give one of them")


@dataclass
class _Measured:
    rows: dict[str, MeasuredRows] = field(default_factory=dict)
    refused: list[RequestError] = field(default_factory=list)


def measure_sources(sources: Sequence[str], options: Mapping[str, Any], output: Output, say: Say) -> int:
    """Measure every source and show its rows; returns the exit code. options: of `measure_all`.

    A source that is refused stops no other. Raises RequestError.
    """
    if output.figure is not None:
        display.check_figure_file(output.figure)
    for source in sources:
        form = next((form for form in ("csv", "json") if source.lower().endswith(f".{form}")), None)
        if form is not None and not Path(source).exists():
            raise RequestError(
                f"{source}: no such source; --{form} takes no file name: ninscope measure ... --{form} > FILE"
            )
    measured = _Measured()
    quiet = output.as_json or output.as_csv
    with counted() as traffic:
        for source in dict.fromkeys(sources):
            try:
                measured.rows[source] = measure_all(
                    source, layers=False, progress=display.shows_progress(quiet), **options
                )
            except RequestError as error:
                if len(sources) == 1:
                    raise
                measured.refused.append(error)
    _show(measured.rows, output)
    if not quiet:
        display.show_fetched(traffic.fetched)
    failed = [
        f"{source + ' ' if len(measured.rows) > 1 else ''}{row.revision}: {row.status}: {row.message}"
        for source, rows in measured.rows.items()
        for row in rows
        if row.status != "ok"
    ]
    for line in (*failed, *map(str, measured.refused)):
        say(line)
    if output.figure is not None and measured.rows:
        _draw(measured.rows, output)
    return 2 if measured.refused else int(bool(failed))


def _show(measured: Mapping[str, MeasuredRows], output: Output) -> None:
    if output.as_json and measured:
        documents = [display.measured_document(source, rows) for source, rows in measured.items()]
        print(json.dumps(documents if len(documents) > 1 else documents[0], indent=1, allow_nan=False))
    elif output.as_csv:
        print(_csv(measured), end="")
    else:
        for source, rows in measured.items():
            display.show_measured(source, rows)


def _csv(measured: Mapping[str, MeasuredRows]) -> str:
    """The rows of all sources, those of parts below their revision; empty where a value is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    titles: list[str] = []
    for source, rows in measured.items():
        for row in rows:
            for part, shown in {ALL_PARTS: row, **row.parts}.items():
                values = {"source": source, "part": part, **display.measured_values(shown)}
                if not titles:
                    titles = list(values)
                    writer.writerow(titles)
                writer.writerow(values.values())
    return text.getvalue()


def _draw(measured: Mapping[str, MeasuredRows], output: Output) -> None:
    from ninscope.report.plots import rows_figure

    assert output.figure is not None
    figure = rows_figure([(Path(source).name or source, rows.to_frame()) for source, rows in measured.items()])
    display.write_figure(output.figure, figure)
    if not output.as_json and not output.as_csv:
        print(f"figure: {output.figure}")


def parsed_q(text: str | None) -> Any:
    """ "-3:3:0.1" (from, to, step) or "-1,0,1" as values of q. Raises RequestError."""
    if text is None:
        return None
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        start, stop, step = (float(part) for part in text.split(":"))
    except ValueError:
        raise RequestError(f"--q is {text!r}; give FROM:TO:STEP, such as -3:3:0.1, or numbers such as -1,0,1") from None
    from ninscope_pipeline.request.analyses import QGrid

    if step <= 0:
        raise RequestError(f"--q is {text!r}; give a step above 0")
    return QGrid(start=start, stop=stop, step=step).values()


def parsed_radii(text: str | None) -> str | dict[str, int] | None:
    """ "integer" or "log:K". Raises RequestError."""
    if text is None or text == "integer":
        return text
    kind, _, count = text.partition(":")
    if kind != "log" or not (count.isascii() and count.isdigit() and len(count) < 9):
        raise RequestError(f"--radii is {text!r}; give integer, or log:K for K logarithmic radii, such as log:150")
    return {"log": int(count)}


def parsed_fit_radii(text: str | None) -> list[float] | None:
    """ "5:100". Raises RequestError."""
    if text is None:
        return None
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise RequestError(f"--fit-radii is {text!r}; give A:B, two distances such as 5:100") from None
    return [low, high]


def parsed_list(text: str | None) -> list[str] | None:
    """ "block,kind" """
    return None if text is None else [part.strip() for part in text.split(",")]


def parsed_nodes(text: str | None) -> int | str | None:
    """A number, or "all"; what else is written is left for the check of parameters to name."""
    try:
        return text if text is None else int(text)
    except ValueError:
        return text
