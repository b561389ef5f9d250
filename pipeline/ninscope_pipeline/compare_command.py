"""What `ninscope compare` does: tells two checkpoints from two runs, compares them, and shows what differs."""

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ninscope.checkpoints.hub.traffic import counted
from ninscope.comparing import compare
from ninscope.comparison import COLUMNS, Comparison
from ninscope.errors import RequestError
from ninscope_pipeline import display
from ninscope_pipeline.measure_command import Output
from ninscope_pipeline.run_folders import is_run_folder, run_path
from ninscope_pipeline.storing.runfolder import RUNS


def compare_two(a: str, b: str, options: Mapping[str, Any], output: Output) -> int:
    """Compare two sources, each SOURCE or SOURCE@REVISION, or two runs, and show it; returns the exit code.

    options: of `ninscope.compare`, those that were given. Raises RequestError, CheckpointError.
    """
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    folders = [_run_folder(text) for text in (a, b)]
    quiet = output.as_json or output.as_csv
    if folders[0] is not None and folders[1] is not None:
        if given:
            option = f"--{next(iter(given)).replace('_', '-')}"
            raise RequestError(f"{option} applies only to checkpoints, and {a} and {b} are runs; leave it out")
        from ninscope_pipeline.comparing_runs import compare_runs

        _show(compare_runs(folders[0], folders[1]), output)
        return 0
    if folders[0] is not None or folders[1] is not None:
        run, source = (a, b) if folders[0] is not None else (b, a)
        if not _is_there(source) and not _is_there(source.partition("@")[0]) and "/" not in source:
            run_path(source)  # which refuses it, and says which run it may mean
        raise RequestError(f"{run} is a run and {source} a source of checkpoints; compare two runs, or two sources")
    (first, revision_a), (second, revision_b) = source_and_revision(a), source_and_revision(b)
    with counted() as traffic, display.working(f"comparing {a} and {b}", quiet=quiet):
        comparison = compare(first, second, revision_a, revision_b, **given)
    _show(comparison, output)
    if not quiet:
        display.show_fetched(traffic.fetched)
    return 0


def _run_folder(text: str) -> Path | None:
    """The run folder of that name, or the one in ./runs where nothing else is called so; None of what is no run."""
    try:
        path = Path(text).expanduser()
        candidates = [path] if path.exists() else [RUNS / text]
        return next(filter(is_run_folder, candidates), None)
    except (OSError, RuntimeError, ValueError):  # too long, an unknown user's home, a zero byte
        return None


def source_and_revision(text: str) -> tuple[str, str | None]:
    """ "org/name@step1000" in two; a path that is there is a source as it is, whatever its name. Raises RequestError."""
    source, at, revision = text.rpartition("@")
    if not at or _is_there(text):
        return text, None
    if not source or not revision:
        raise RequestError(f"{text!r} names no source and revision; give SOURCE@REVISION, such as org/name@step1000")
    return source, revision


def _is_there(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def _show(comparison: Comparison, output: Output) -> None:
    if output.as_json:
        print(json.dumps(_document(comparison), indent=1, allow_nan=False))
    elif output.as_csv:
        print(_csv(comparison), end="")
    else:
        display.show_comparison(comparison)


def _document(comparison: Comparison) -> dict[str, Any]:
    rows = [{name: _or_none(getattr(value, name)) for name in COLUMNS} for value in comparison.values]
    details = [{name: _or_none(row[name]) for name in comparison.detail_columns} for row in comparison.detail_rows]
    return {
        "a": comparison.a, "b": comparison.b, "same": comparison.same, "words": comparison.words, "rows": rows,
        "details": details,
    }  # fmt: skip


def _or_none(value: Any) -> Any:
    """What JSON has of a value: no NaN, no infinity; dates of TOML as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str | list) else str(value)


def _csv(comparison: Comparison) -> str:
    """The values, one a row; empty where a value is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for value in comparison.values:
        cells = [_or_none(getattr(value, name)) for name in COLUMNS]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()
