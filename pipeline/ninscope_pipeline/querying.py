"""SQL over the tables of runs, by DuckDB, which can read these tables and can neither read nor write anything else.

What keeps it there:

- the statement is one SELECT (or PIVOT, which DuckDB takes apart), by DuckDB's own parser;
- DuckDB's access to files and its extensions are switched off, but for the names of tables below "tables://";
- these names lead to a file system of ours (`storing/open_files.py`), which only reads, and files that are open already;
- the configuration is locked.

A table is a view over its file, so that DuckDB reads the columns and rows that a query needs; copying the 94,000 rows of a table
`spectra` first took three times as long. The planner takes isnan(x) as false in a file whose statistics leave NaN out, as those of
pyarrow do (findings/duckdb-isnan.sh); a run's tables hold no NaN, since pandas writes it as null.

Sums are taken in one thread, in the order of rows: the same query gives the same bytes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from ninscope.errors import RequestError
from ninscope.wording import of_number
from ninscope_pipeline.machine import memory_allowed
from ninscope_pipeline.query_errors import as_request_errors
from ninscope_pipeline.storing.open_files import PROTOCOL, OpenFiles
from ninscope_pipeline.storing.runfolder import RunFolder

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ROWS = 10_000  # that are fetched at a time
_KINDS = (duckdb.StatementType.SELECT, duckdb.StatementType.MULTI)
_ASKS_FOR_NAMES = re.compile(r"\bshow\b|\bquery(_table)?\s*\(|_schema\b|\b(duckdb|pg|pragma|sqlite)_")
_HUGE = ("HUGEINT", "UHUGEINT")  # what sums of integers are; 128 bits wide
_EXACT = 2.0**53  # integers up to here are exact as float64


@dataclass(frozen=True)
class Rows:
    """columns: names, no two alike ("status", "status_1"); types: DuckDB's ("BIGINT", "DOUBLE", "VARCHAR", ...), one a column.

    rows: as Python objects, absent values as None; they are read once, and need memory for ROWS of them.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]


@dataclass(frozen=True)
class Query:
    """A SELECT and the tables it reads; every method runs it."""

    _connection: duckdb.DuckDBPyConnection
    _sql: str

    def rows(self) -> Rows:
        """The result row by row."""
        description = self._connection.execute(self._sql).description or []
        columns, types = _distinct([name for name, *_ in description]), tuple(str(kind) for _, kind, *_ in description)
        return Rows(columns, types, self._fetched())

    def _fetched(self) -> Iterator[tuple[Any, ...]]:
        while rows := self._connection.fetchmany(ROWS):
            yield from rows

    def frame(self) -> "pd.DataFrame":
        """The result whole; sums of integers, for which DuckDB has 128 bits, are int64 where float64 is exact, else float64."""
        relation = self._connection.sql(self._sql)
        table = relation.df()
        for number, kind in enumerate(relation.types):
            values = table.iloc[:, number]
            if str(kind) in _HUGE and values.notna().all() and (values.abs() <= _EXACT).all():
                table.isetitem(number, values.astype("int64"))
        return table

    def batches(self) -> "pa.RecordBatchReader":
        """The result in Arrow's batches of ROWS; integers of 128 bits are decimals there."""
        return self._connection.sql(self._sql).to_arrow_reader(ROWS)


@contextmanager
def query_over(folders: Mapping[str, RunFolder], sql: str, named: bool = False) -> Iterator[Query]:
    """A query over the tables of run folders, by the runs' names.

    named: every table has a column `run` first, and the rows of all runs; else there is one run. The tables of a run are those of
    one set, even if it replaces them meanwhile. Raises RequestError: no single SELECT, a mistake in it, no such table, more memory
    than a query may take; StoreError.
    """
    if not isinstance(sql, str):
        raise RequestError(f"a query is text, such as 'SELECT * FROM emergence', and no {type(sql).__name__}")
    runs = list(folders)
    tables_of = [folder.table_names() for folder in folders.values()]
    known = sorted(set().union(*tables_of))
    shown = " and ".join(str(folder.root) for folder in folders.values())
    with ExitStack() as opened, as_request_errors(shown, known, sql, memory_for_queries()):
        _check_kind(sql)
        files = OpenFiles()
        opened.callback(files.close)
        connection = opened.enter_context(_sealed(files, tables_of))
        needed = _tables_named(sql, known)
        for number, folder in enumerate(folders.values()):
            with folder.unchanging("tables"):
                for name in sorted(needed & set(tables_of[number])):
                    files.add(_key(number, name), folder.tables / f"{name}.parquet")
        for name in sorted(needed):
            of_run = {number: run for number, run in enumerate(runs) if name in tables_of[number]}
            _make_view(connection, name, of_run, named)
        yield Query(connection, sql)


def memory_for_queries() -> int:
    """Bytes that a query may take: half of what this process may."""
    return memory_allowed() // 2


def _check_kind(sql: str) -> None:
    statements = duckdb.extract_statements(sql)
    if not statements:
        raise RequestError("the query is empty; give a SELECT, such as 'SELECT * FROM emergence'")
    if len(statements) > 1:
        raise RequestError(f"the query is {of_number(len(statements), 'statement')}; give one SELECT")
    if statements[0].type not in _KINDS:
        kind = statements[0].type.name.replace("_", " ")
        raise RequestError(f"a query only reads, and this is a statement of the kind {kind}; give one SELECT")


@contextmanager
def _sealed(files: OpenFiles, tables_of: Sequence[Sequence[str]]) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to an empty database in memory that can read these tables of every run through `files`, and nothing else."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": 1,
        "memory_limit": f"{memory_for_queries()}B",
        "temp_directory": "",  # else it may write to .tmp in the working folder
        "autoload_known_extensions": False,
        "autoinstall_known_extensions": False,
        "python_enable_replacements": False,  # variables of Python are no tables
    }
    allowed = ", ".join(_text(_address(number, name)) for number, table in enumerate(tables_of) for name in table)
    with duckdb.connect(":memory:", config=config) as connection:
        connection.register_filesystem(files)
        connection.execute(
            f"SET allowed_paths = [{allowed}]; SET enable_external_access = false; SET lock_configuration = true"
        )
        yield connection


def _tables_named(sql: str, known: Sequence[str]) -> set[str]:
    """The tables that a query may need: those whose names stand in it; all where it names none, or asks which there are.

    Every view costs half a millisecond. By text and not by DuckDB's `get_table_names`, which fails for what it cannot bind yet.
    """
    text = sql.lower().replace('""', '"')
    named = {name for name in known if name.lower() in text}
    return named if named and not _ASKS_FOR_NAMES.search(text) else set(known)


def _make_view(connection: duckdb.DuckDBPyConnection, name: str, of_run: Mapping[int, str], named: bool) -> None:
    """of_run: number -> name, of the runs that have the table."""
    selects = [
        f"SELECT {f'{_text(run)} AS run, ' if named else ''}* FROM read_parquet({_text(_address(number, name))})"
        for number, run in of_run.items()
    ]
    quoted = name.replace('"', '""')
    connection.execute(f'CREATE VIEW "{quoted}" AS {" UNION ALL BY NAME ".join(selects)}')


def _key(number: int, table: str) -> str:
    return f"{number}/{table}"


def _address(number: int, table: str) -> str:
    return f"{PROTOCOL}://{_key(number, table)}"


def _text(value: str) -> str:
    """As SQL writes a text."""
    escaped = value.replace("'", "''")
    return f"'{escaped}'"


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """As DuckDB names them in a DataFrame: the second "status" is "status_1"."""
    distinct: list[str] = []
    for name in names:
        number, unlike = 0, name
        while unlike in distinct:
            number += 1
            unlike = f"{name}_{number}"
        distinct.append(unlike)
    return tuple(distinct)
