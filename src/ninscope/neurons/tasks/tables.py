"""Read labelled text from CSV, JSON Lines and Parquet files, and refuse rows that cannot be used. Needs no torch."""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ninscope.errors import RequestError
from ninscope.neurons.tasks.files import MAX_ROWS, rows_named
from ninscope.neurons.tasks.parquet import parquet_columns, parquet_names

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
MAX_CELL = 10_000_000  # characters of one CSV field
UNLABELLED = ("", "nan", "null")  # programs that write CSV put these where a label is missing


@dataclass(frozen=True)
class Examples:
    """Labelled texts. where: the file, for messages. seconds: the second texts of pairs. labels: as the file has them."""

    where: str
    texts: list[str]
    seconds: list[str] | None
    labels: list[Any]


def column_names(path: Path) -> list[str]:
    """Names of a file's columns, without reading its rows; for JSON Lines, the first row's keys.

    Raises RequestError: the format is none of FORMATS, the file is damaged, or it says that it is too large.
    """
    reader = {".csv": _csv_header, ".tsv": _csv_header, ".jsonl": _jsonl_header, ".parquet": parquet_names}
    if path.suffix.lower() not in reader:
        raise RequestError(f"{path.name} is none of {', '.join(FORMATS)}; save the table in one of these formats")
    return reader[path.suffix.lower()](path)


def check_columns(path: Path, columns: Sequence[str]) -> None:
    """Raises RequestError: a file lacks one of these columns, or has two of that name."""
    names = column_names(path)
    for column in columns:
        if column not in names:
            raise RequestError(f"{path.name} has no column {column!r}; it has {', '.join(map(repr, names)) or 'none'}")
        if names.count(column) > 1:
            raise RequestError(f"{path.name} has two columns {column!r}; rename one of them")


def read_columns(path: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Values of these columns, row by row: strings from CSV; strings, numbers, booleans and None from the other formats.

    Raises RequestError: as `check_columns`, a file that is damaged, or more than MAX_ROWS rows or MAX_FILE_BYTES of values.
    """
    check_columns(path, columns)
    if path.suffix.lower() == ".parquet":
        return parquet_columns(path, columns)
    rows = _jsonl_rows(path) if path.suffix.lower() == ".jsonl" else _csv_rows(path)
    values: dict[str, list[Any]] = {column: [] for column in columns}
    for number, row in enumerate(rows):
        if number == MAX_ROWS:
            raise RequestError(f"{path.name} has more than {MAX_ROWS} rows; give a part of it")
        for column in columns:
            values[column].append(row.get(column))
    return values


def read_examples(path: Path, text: str, second_text: str | None, label: str) -> Examples:
    """All rows of a file. Raises RequestError for rows without a text or a label, by their numbers (the first row is 1)."""
    columns = [text, label] if second_text is None else [text, second_text, label]
    values = read_columns(path, columns)
    for column in columns[:-1]:
        check_texts(path.name, column, values[column])
    check_labels(path.name, label, values[label])
    if not values[text]:
        raise RequestError(f"{path.name} has no rows; give a file with labelled texts")
    return Examples(path.name, values[text], None if second_text is None else values[second_text], values[label])


def check_texts(where: str, column: str, values: list[Any], blank: bool = False) -> None:
    """blank: whether a text may have no letter. Raises RequestError: rows without a text, or with a value that is no text."""
    missing = [row for row, value in enumerate(values, 1) if _missing(value) or (not blank and _blank(value))]
    if missing:
        raise RequestError(
            f"{where}: {rows_named(missing)}: no text in column {column!r}; fill it in or take the rows out"
        )
    wrong = [row for row, value in enumerate(values, 1) if not (isinstance(value, str) and _encodable(value))]
    if wrong:
        raise RequestError(
            f"{where}: {rows_named(wrong)}: column {column!r} holds no text but {values[wrong[0] - 1]!r}"
        )


def check_labels(where: str, column: str, values: list[Any]) -> None:
    """Raises RequestError: rows without a label."""
    missing = [row for row, value in enumerate(values, 1) if _missing(value) or _unlabelled(value)]
    if missing:
        raise RequestError(
            f"{where}: {rows_named(missing)}: no label in column {column!r}; label the rows or take them out"
        )


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _encodable(value: str) -> bool:
    """Whether UTF-8 can hold a text: JSON can hold halves of surrogate pairs, which UTF-8 and tokenizers cannot."""
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _unlabelled(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() in UNLABELLED


# --- formats ------------------------------------------------------------------------------------------------
def _separator(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(MAX_CELL)
    row = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for fields in csv.DictReader(file, delimiter=_separator(path), strict=True):
                row += 1
                if None in fields:
                    raise RequestError(
                        f"{path.name}: row {row} has more fields than the header; put quotes around commas"
                    )
                yield fields
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise RequestError(f"{path.name}: no UTF-8 CSV after row {row} ({error}); save it as UTF-8 CSV") from None


def _csv_header(path: Path) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file, delimiter=_separator(path), strict=True), [])
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise RequestError(f"{path.name}: no UTF-8 CSV header ({error}); save it as UTF-8 CSV") from None


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    line = 0
    try:
        with open(path, encoding="utf-8-sig") as file:
            for line, text in enumerate(file, 1):
                row = json.loads(text)
                if not isinstance(row, dict):
                    raise RequestError(f"{path.name}: line {line} is no JSON object; one object a line was expected")
                yield row
    except RequestError:
        raise
    except (RecursionError, ValueError, OSError) as error:  # integers with thousands of digits raise ValueError itself
        raise RequestError(f"{path.name}: line {line or 1} is no UTF-8 JSON ({error}); one object a line") from None


def _jsonl_header(path: Path) -> list[str]:
    return list(next(_jsonl_rows(path), {}))
