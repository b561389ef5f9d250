"""Tables of the user's own: CSV, JSON lines or Parquet, one result a row, with the columns in COLUMNS."""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from ninscope.checkpoints.revisions import step_of
from ninscope.checks import did_you_mean
from ninscope.errors import RequestError
from ninscope_pipeline.request.evaluations.evaluation import MAX_BYTES, MAX_STEP, Batch, Evaluation
from ninscope_pipeline.request.evaluations.files import ResultFile, read_bytes

MAX_ROWS = 1_000_000
_TEXTS, _NUMBERS = ("model", "revision", "task", "metric"), ("step", "value", "stderr", "n_shot")
COLUMNS = (*_TEXTS, *_NUMBERS)
_REQUIRED = ("task", "metric", "value")
NEEDED = "needed, one result a row: task, metric, value, and revision or step (also stderr, n_shot, model)"
_MOST_EXPANDED = 8 * MAX_BYTES  # bytes of a Parquet file's columns once they are uncompressed

Cells = Mapping[str, Any]  # of a row, by column


def read_table(file: ResultFile) -> list[Batch]:
    """The results in a table, a batch for each model that it names. Raises RequestError (says in which line or row)."""
    rows = _READERS.get(file.path.suffix.lower(), _csv_rows)(file.path)
    by_model: dict[str, dict[tuple, tuple[str, Evaluation]]] = {}
    for number, (place, cells) in enumerate(rows):
        if number >= MAX_ROWS:
            raise RequestError(f"evaluations {file.path}: more than {MAX_ROWS:,} results; split it into several files")
        model, evaluation = _evaluation(f"evaluations {file.path}, {place}", cells)
        earlier = by_model.setdefault(model, {}).setdefault(evaluation.name, (place, evaluation))
        if (earlier[1].value, earlier[1].stderr) != (evaluation.value, evaluation.stderr):
            raise RequestError(
                f"evaluations {file.path}: {earlier[0]} and {place} have two values of {evaluation.shown}: "
                f"{earlier[1].value:g} and {evaluation.value:g}; remove the one that is wrong"
            )
    return [
        Batch(file.path, model, file.folders, tuple(evaluation for _, evaluation in placed.values()), by_hand=True)
        for model, placed in by_model.items()
    ] or [Batch(file.path, "", file.folders, (), by_hand=True)]


def _csv_rows(path: Path) -> Iterator[tuple[str, Cells]]:
    reader = csv.DictReader(StringIO(_text(path), newline=""))  # a text in quotes may hold ends of lines
    try:
        _check_columns(path, reader.fieldnames or ())
        for row in reader:
            place = f"line {reader.line_num}"
            if any(row.pop(None, [])):  # cells beyond the last column
                raise RequestError(
                    f"evaluations {path}, {place}: more cells than columns; put text with a comma in quotes"
                )
            yield place, {name: _parsed(name, cell) for name, cell in row.items()}
    except csv.Error as error:
        raise RequestError(f"evaluations {path}, line {reader.line_num + 1}: not CSV ({error})") from None


def _parsed(column: str, cell: str | None) -> Any:
    """A cell of a CSV: None where it is empty, a number where the column has numbers and the cell is one, else the text."""
    if not cell or (column == "stderr" and cell == "N/A"):
        return None
    if column in _NUMBERS:
        for type_ in (int, float):
            try:
                return type_(cell)
            except ValueError:
                continue
    return cell


def _json_rows(path: Path) -> Iterator[tuple[str, Cells]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise RequestError(f"evaluations {path}, line {number}: not JSON ({why})") from None
        if not isinstance(cells, dict):
            raise RequestError(f"evaluations {path}, line {number}: no object; {NEEDED}")
        _check_columns(f"{path}, line {number}", list(cells))
        yield f"line {number}", cells


def _parquet_rows(path: Path) -> Iterator[tuple[str, Cells]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = BytesIO(read_bytes(path))
    try:
        with pq.ParquetFile(content, pre_buffer=False) as file:
            schema, metadata = file.schema_arrow, file.metadata
            _check_columns(path, schema.names)
            wanted = [name for name in schema.names if name in COLUMNS]
            _check_types(path, {name: schema.field(name).type for name in wanted})
            _check_size(path, metadata, wanted)
            texts = [name for name in wanted if _is_text(schema.field(name).type)]
        content.seek(0)
        # As dictionaries: a text that many rows share takes its room once.
        with pq.ParquetFile(content, pre_buffer=False, read_dictionary=texts) as file:
            table = file.read(columns=wanted, use_threads=False)
        columns = {name: list(_values(table.column(name))) for name in wanted}
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"evaluations {path}: not a Parquet file that can be read ({error})") from None
    for number in range(table.num_rows):
        yield f"row {number + 1}", {name: values[number] for name, values in columns.items()}


def _check_size(path: Path, metadata: Any, columns: Sequence[str]) -> None:
    """Raises RequestError where a Parquet file says that it has more rows or bytes than are read."""
    if metadata.num_rows > MAX_ROWS:
        raise RequestError(f"evaluations {path}: {metadata.num_rows:,} rows, more than {MAX_ROWS:,}; split it")
    chunks = (
        metadata.row_group(group).column(column)
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    )
    expanded = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)
    if expanded > _MOST_EXPANDED:
        raise RequestError(
            f"evaluations {path}: {expanded / 2**20:.0f} MiB once uncompressed, more than {_MOST_EXPANDED // 2**20}; split it"
        )


def _check_types(path: Path, types: Mapping[str, Any]) -> None:
    """Raises RequestError where a column of a Parquet file cannot hold what it should; types: Arrow's, by column.

    Before anything is read: lists of texts, say, could take any room.
    """
    import pyarrow as pa

    is_number = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    for name, type_ in types.items():
        plain = type_.value_type if name in _TEXTS and pa.types.is_dictionary(type_) else type_
        fits = _is_text(plain) if name in _TEXTS else any(is_one(plain) for is_one in is_number)
        if not fits and not pa.types.is_null(type_):
            wanted = "text" if name in _TEXTS else "numbers"
            raise RequestError(f"evaluations {path}: the column {name!r} holds {type_}; give {wanted}")


def _is_text(type_: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(type_) or pa.types.is_large_string(type_)


def _values(column: Any) -> Iterator[Any]:
    """The values of a column of Arrow; those of a dictionary are shared."""
    import pyarrow as pa

    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type):
            values = chunk.dictionary.to_pylist()
            yield from (None if index is None else values[index] for index in chunk.indices.to_pylist())
        else:
            yield from chunk.to_pylist()


_READERS = {".jsonl": _json_rows, ".parquet": _parquet_rows}


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")  # a spreadsheet puts a mark first
    except UnicodeDecodeError as error:
        raise RequestError(f"evaluations {path}: cannot read it ({error}); save it as UTF-8") from None


def _check_columns(where: Path | str, columns: Iterable[str]) -> None:
    """Raises RequestError where a column that is needed is absent, or one stands twice."""
    columns = list(columns)
    if twice := [name for name in COLUMNS if columns.count(name) > 1]:
        raise RequestError(f"evaluations {where}: the column {twice[0]!r} stands twice; remove one")
    others = [name for name in columns if name not in COLUMNS]
    absent = [name for name in _REQUIRED if name not in columns]
    if absent:
        near = did_you_mean(absent[0], others).replace("did you mean", "is it")
        raise RequestError(f"evaluations {where}: the column {absent[0]!r} is missing{near}; {NEEDED}")
    if "revision" not in columns and "step" not in columns:
        near = did_you_mean("revision", others).replace("did you mean", "is it")
        raise RequestError(f"evaluations {where}: the columns revision and step are both missing{near}; {NEEDED}")


def _evaluation(where: str, cells: Cells) -> tuple[str, Evaluation]:
    """(the model that a row names, its result). Raises RequestError."""
    model, revision, task, metric = (_name(where, cells, column) for column in _TEXTS)
    for column, text in (("task", task), ("metric", metric)):
        if not text:
            raise RequestError(f"{where}: the column {column!r} is empty; fill it in, or remove the line")
    value = _number(cells.get("value"))
    step = step_of(revision) if _is_absent(cells.get("step")) else _whole(cells["step"])
    if value is None or (step is None and not _is_absent(cells.get("step"))):
        raise RequestError(f"{where}: value or step is not a number; correct it, or remove the line")
    if not math.isfinite(value):
        raise RequestError(f"{where}: value is {value}; remove the line if there is no value")
    if not revision and step is None:
        raise RequestError(f"{where}: revision and step are both empty; fill in one of them, or remove the line")
    if step is not None and not 0 <= step <= MAX_STEP:
        raise RequestError(f"{where}: step is {step}; give a training step of 0 or more")
    return model, Evaluation(revision, step, task, metric, value, _stderr(where, cells), _n_shot(where, cells))


def _stderr(where: str, cells: Cells) -> float | None:
    if _is_absent(cells.get("stderr")):
        return None
    stderr = _number(cells["stderr"])
    if stderr is None or not 0 <= stderr < math.inf:
        raise RequestError(f"{where}: stderr is {cells['stderr']!r}; give a number of 0 or more, or leave it empty")
    return stderr


def _n_shot(where: str, cells: Cells) -> int | None:
    if _is_absent(cells.get("n_shot")):
        return None
    n_shot = _whole(cells["n_shot"])
    if n_shot is None or not 0 <= n_shot <= MAX_STEP:
        raise RequestError(f"{where}: n_shot is {cells['n_shot']!r}; give an integer of 0 or more, or leave it empty")
    return n_shot


def _name(where: str, cells: Cells, column: str) -> str:
    cell = cells.get(column)
    if _is_absent(cell):
        return ""
    if not isinstance(cell, str):
        raise RequestError(f"{where}: the column {column!r} is {cell!r}, which is no text; put it in quotes")
    return cell


def _is_absent(cell: Any) -> bool:
    """pandas writes NaN where there is nothing."""
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _number(cell: Any) -> float | None:
    if isinstance(cell, bool) or not isinstance(cell, int | float | Decimal):
        return None
    try:
        return float(cell)
    except OverflowError:
        return math.inf


def _whole(cell: Any) -> int | None:
    """pandas writes integers as floats where one is missing."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return cell if isinstance(cell, int) and not isinstance(cell, bool) else None
