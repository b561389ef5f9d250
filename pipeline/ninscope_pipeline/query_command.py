"""What `ninscope query` does: rows of a query over a run's tables, as a table, as JSON, as CSV or as a Parquet file."""

import csv
import itertools
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninscope.errors import RequestError, printable
from ninscope.wording import of_number
from ninscope_pipeline.live.readers import bring_up_to_date
from ninscope_pipeline.output_files import appearing_whole, why_no_output
from ninscope_pipeline.querying import Query, Rows, query_over
from ninscope_pipeline.run_folders import name_of, run_path
from ninscope_pipeline.storing.manifest import key_of
from ninscope_pipeline.storing.runfolder import RunFolder

if TYPE_CHECKING:
    import pyarrow as pa

    from ninscope_pipeline.display import Say

SHOWN = 40  # rows of the table
_WIDEST = 64  # characters of a text on one line; longer ones go on below
_NUMBER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|DOUBLE|FLOAT|DECIMAL\(.*\)")


@dataclass(frozen=True)
class Output:
    """In which form the rows go out; a table where none is given."""

    as_json: bool = False
    as_csv: bool = False
    parquet: Path | None = None

    def __post_init__(self) -> None:
        forms = [("--json", self.as_json), ("--csv", self.as_csv), ("--parquet", self.parquet is not None)]
        given = [name for name, wanted in forms if wanted]
        if len(given) > 1:
            raise RequestError(f"{' and '.join(given)} are forms of one output; give one of them")


def query_run(run: str, sql: str, output: Output, say: "Say") -> None:
    """Answer a query over the tables of a run. Raises RequestError, StoreError."""
    folder = RunFolder(run_path(run))
    bring_up_to_date(folder)
    if output.parquet is not None:
        _check_file(output.parquet, folder)
    with query_over({name_of(folder.root): folder}, sql) as query:
        if output.parquet is not None:
            count = _write_parquet(query, output.parquet)
            print(f"{output.parquet}: {of_number(count, 'row')}")
        elif output.as_json:
            _print_json(query.rows(), folder)
        elif output.as_csv:
            _print_csv(query.rows())
        else:
            _print_table(query.rows(), folder)
    if _is_older(folder):
        say(f"{folder.root}: the run has not finished; these tables are of what was asked before")


def _is_older(folder: RunFolder) -> bool:
    """Whether the tables are not those of what the run was last asked for."""
    return folder.read_plan()["tables"] not in ("", key_of(folder, folder.tables))


# --- a table


def _print_table(result: Rows, folder: RunFolder) -> None:
    """The first rows, each value whole, and how many rows there are."""
    from rich.markup import escape
    from rich.table import Table

    from ninscope_pipeline.wide_tables import print_whole

    table = Table()
    for column, kind in zip(result.columns, result.types, strict=True):
        is_number = _NUMBER.fullmatch(kind) is not None
        table.add_column(
            escape(printable(column)),
            justify="right" if is_number else "left",
            no_wrap=is_number,
            max_width=None if is_number else _WIDEST,
            overflow="fold",
        )
    for row in itertools.islice(result.rows, SHOWN):
        table.add_row(*map(_cell, row))
    count = table.row_count + sum(1 for _ in result.rows)
    print_whole(table)
    if count > SHOWN:
        print(
            f"{name_of(folder.root)}: the first {SHOWN} of {count:,} rows; "
            "all of them: --csv, --json or --parquet FILE, or LIMIT and ORDER BY in the query"
        )
    else:
        print(f"{name_of(folder.root)}: {of_number(count, 'row')}")


def _cell(value: object) -> str:
    from rich.markup import escape

    if value is None:
        return "[dim]NULL[/dim]"
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else f"{value:.6g}"
    if isinstance(value, bool):
        return str(value).lower()
    text = value if isinstance(value, str) else str(_plain(value))
    return escape(printable(text))


# --- JSON and CSV


def _print_json(result: Rows, folder: RunFolder) -> None:
    """One document, a line a row."""
    head = {"run": str(folder.root), "columns": list(result.columns)}
    print(json.dumps(head, indent=1)[:-2] + ',\n "rows": [', end="")
    separator = "\n  "
    for row in result.rows:
        values = {column: _plain(value) for column, value in zip(result.columns, row, strict=True)}
        print(separator + json.dumps(values, allow_nan=False), end="")
        separator = ",\n  "
    print("\n ]\n}")


def _plain(value: Any) -> Any:
    """A value of a row as JSON has it. What it has no form for is text: "NaN", "Infinity" and "-Infinity", which float() reads."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return float(value) if type(value).__name__ == "Decimal" else str(value)


def _print_csv(result: Rows) -> None:
    """Numbers with every digit; absent values are empty."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(result.columns)
    for row in result.rows:
        writer.writerow([value if isinstance(value, float) else _field(value) for value in row])


def _field(value: object) -> object:
    plain = _plain(value)
    return json.dumps(plain, allow_nan=False) if isinstance(plain, bool | dict | list) else plain


# --- Parquet


def _check_file(path: Path, folder: RunFolder) -> None:
    """Before the work. Raises RequestError."""
    is_in_folder = why_no_output(path.parent) == "is a folder"
    if what := why_no_output(path) if is_in_folder else "lies in a folder that is not there":
        raise RequestError(f"{path}: {what}; give --parquet the name of a file")
    if path.resolve().is_relative_to(folder.root.resolve()):
        raise RequestError(f"{path}: lies in the run's folder, which queries only read; give --parquet another file")


def _write_parquet(query: Query, path: Path) -> int:
    """Write the rows, and return how many they are. The file appears whole or not at all. Raises RequestError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    try:
        with appearing_whole(path, "give --parquet another file") as partial:
            reader = query.batches()
            schema = pa.schema([_narrow(field) for field in reader.schema])
            with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
                for batch in reader:
                    writer.write_table(pa.Table.from_batches([batch]).cast(schema))
                    count += batch.num_rows
    except pa.ArrowException as error:
        raise RequestError(f"{path}: a column does not fit into Parquet ({error}); CAST it in the query") from None
    return count


def _narrow(field: "pa.Field") -> "pa.Field":
    """Sums of integers have 128 bits, which Arrow holds as decimals: as int64, into which they must fit."""
    import pyarrow as pa

    wide = pa.types.is_decimal(field.type) and field.type.precision == 38 and field.type.scale == 0
    return field.with_type(pa.int64()) if wide else field
