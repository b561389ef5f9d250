"""What DuckDB says of a query that cannot be answered, as one line that says what to do."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb
from rich.filesize import decimal

from ninscope.errors import RequestError

_NO_TABLE = re.compile(r"Table with name (?P<name>.+?) does not exist")
_NO_COLUMN = re.compile(
    r'Referenced column "(?P<name>.+?)" not found in FROM clause!?\s*(Candidate bindings: (?P<near>.+))?'
)
_NO_ACCESS = re.compile(r'Cannot access (file|directory) "(?P<name>.+?)"')
_OF_TABLE = re.compile(r"'tables://[0-9]+/(?P<name>[^']+)'")
_KIND = re.compile(r"^[A-Z][\w ]* Error: ")


@contextmanager
def as_request_errors(shown: str, tables: Sequence[str], sql: str, memory: int) -> Iterator[None]:
    """Raises RequestError for what DuckDB raises. shown: the run; tables: what there are; memory: bytes the query may take."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise RequestError(
            f"the query takes more than {decimal(memory)} of memory, half of what this process may use; "
            "ask for fewer rows or columns, or for an aggregate"
        ) from None
    except duckdb.Error as error:
        raise RequestError(_told(str(error), shown, tables, "\n" in sql.strip())) from None
    except RuntimeError as error:
        if str(error) != "Query interrupted":
            raise
        raise KeyboardInterrupt from None


def _told(text: str, shown: str, tables: Sequence[str], several_lines: bool) -> str:
    known = f"its tables: {', '.join(tables) or 'none yet, since the run has not finished'}"
    if match := _NO_TABLE.search(text):
        from ninscope.checks import did_you_mean  # numpy, which a query that is answered does without

        name = match["name"].strip('"')
        return f"{shown}: no table {name!r}{did_you_mean(name, tables)}; {known}"
    if match := _NO_ACCESS.search(text):
        return f"{shown}: a query reads tables of its run and nothing else, so not {match['name']!r}; {known}"
    if (match := _OF_TABLE.search(text)) and match["name"] in tables:
        reason = _clause(_KIND.sub("", text.splitlines()[0])).replace(match[0], "it")
        return (
            f"{shown}: table {match['name']} is damaged ({reason}); repeat the `ninscope run` command to write it again"
        )
    if match := _NO_COLUMN.search(text):
        near = f"; did you mean {match['near'].replace(', ', ' or ')}?" if match["near"] else ""
        return f"the query: no column {match['name']!r}{near}"
    message, _, where = text.partition("\n\nLINE ")
    clauses = [_clause(line) for line in _KIND.sub("", message).splitlines() if line.strip()]
    return f"the query: {'; '.join(clauses)}" + (f" (line {where.splitlines()[0]})" if where and several_lines else "")


def _clause(line: str) -> str:
    """As part of a sentence: "Did you mean" begins small, "LIMIT" does not."""
    clause = line.strip().rstrip("!.")
    return clause[:1].lower() + clause[1:] if clause[1:2].islower() else clause
