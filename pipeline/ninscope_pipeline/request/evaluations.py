"""Losses and benchmark results that come with a suite: a CSV, columns revision, step, task, metric, value."""

import csv
import math
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from ninscope.checkpoints.revisions import step_of
from ninscope.checks import did_you_mean
from ninscope.errors import RequestError

_COLUMNS = ("revision", "task", "metric", "value")


@dataclass(frozen=True)
class Evaluation:
    """One result of one revision: task ("held_out"), metric ("loss") and value."""

    revision: str
    step: int | None
    task: str
    metric: str
    value: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_list(self) -> list[Any]:
        return list(astuple(self))


def read_evaluations(path: str | None) -> tuple[Evaluation, ...]:
    """The rows of an evaluations file, none for None. Raises RequestError (says which line)."""
    if path is None:
        return ()
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # a spreadsheet puts a mark first
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"evaluations {path}: cannot read it ({getattr(error, 'strerror', None) or error})"
        ) from None
    reader = csv.DictReader(text.splitlines())
    try:
        absent = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if absent:
            others = [name for name in reader.fieldnames or () if name not in _COLUMNS]
            near = did_you_mean(absent[0], others).replace("did you mean", "is it")
            raise RequestError(
                f"evaluations {path}: the column {absent[0]!r} is missing{near}; needed: revision, task, metric, value (and step)"
            )
        return tuple(_evaluation(path, reader.line_num, row) for row in reader)
    except csv.Error as error:
        raise RequestError(f"evaluations {path}, line {reader.line_num + 1}: not CSV ({error})") from None


def _evaluation(path: str, line: int, row: dict[str, Any]) -> Evaluation:
    where = f"evaluations {path}, line {line}"
    for column in _COLUMNS:
        if not row.get(column) and column != "value":
            raise RequestError(f"{where}: the column {column!r} is empty; fill it in, or remove the line")
    try:
        value = float(row["value"])
        step = int(row["step"]) if row.get("step") else step_of(row["revision"])
    except (TypeError, ValueError):
        raise RequestError(f"{where}: value or step is not a number; correct it, or remove the line") from None
    if not math.isfinite(value):
        raise RequestError(f"{where}: value is {row['value']}; remove the line if there is no value")
    if step is not None and not 0 <= step < 2**63:
        raise RequestError(f"{where}: step is {step}; give a training step of 0 or more")
    return Evaluation(row["revision"], step, row["task"], row["metric"], value)
