"""What differs between two runs: parameters, versions, checkpoints, and the values of tables that both have."""

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ninscope.comparison import ComparedValue, Comparison
from ninscope.errors import RequestError
from ninscope.wording import listed, number, of_number, outer_names
from ninscope_pipeline.opened_run import Run, open_run
from ninscope_pipeline.storing.runfolder import RunFolder

_DETAILS = ("table", "column", "rows", "differing", "a", "b", "difference", "where")
_OF_CHECKPOINT = ("suite", "model", "revision")
# What tells the rows of a checkpoint apart, in whatever table; what else is a number is a value.
_KEYS = (
    *_OF_CHECKPOINT, "method", "variant", "part", "sample", "q", "layer", "null", "quantity", "neuron", "radius", "matrix",
    "writer", "reader", "kind", "measure", "truth", "given", "task", "metric", "seed", "experiment", "dropout", "phase",
    "learning_rate", "finetune_step",
)  # fmt: skip
_UNSAID = ("default", "all")  # values of keys that name nothing in particular
_TOLD = {"emergence": ("alpha0", "width", "emergence")}  # columns whose largest difference is put into words
_UNMEASURED = "not measured yet"  # in place of a hash
MOST_NAMED = 8  # parameters, or columns, that one sentence lists
_NAME = "name"  # of the run itself, in its parameters


@dataclass(frozen=True)
class _Difference:
    """Of a column of a table, over the rows that both have.

    rows: of both; differing: of these. a, b, difference, where: of the row that differs most, as far as both have a number there.
    """

    column: str
    rows: int
    differing: int
    a: float = np.nan
    b: float = np.nan
    difference: float = np.nan
    where: str = ""


@dataclass(frozen=True)
class _TableDifference:
    """rows: of A and of B. both: rows that both have; -1 where several of one have the same keys, so that none are matched."""

    name: str
    rows: tuple[int, int]
    both: int
    columns: tuple[_Difference, ...]

    @property
    def same(self) -> bool:
        return self.rows == (self.both, self.both) and not any(column.differing for column in self.columns)


def compare_runs(a: str | Path | Run, b: str | Path | Run) -> Comparison:
    """What differs between two runs.

    a, b: run folders, or what `ninscope.open_run` gives. `to_frame` has parameters (keys of the DAG file, "analysis.seed"),
    versions, the content hash of every checkpoint and the number of rows of every table; `details` one row a column of a table
    that both have, over the rows that both have.

    Raises RequestError: one of them is no run folder, or its run.toml or a table is damaged.
    """
    runs = [run if isinstance(run, Run) else open_run(run) for run in (a, b)]
    label_a, label_b = (str(run.path) for run in runs)
    if runs[0].path.resolve() == runs[1].path.resolve():
        return Comparison(label_a, label_b, True, ["A and B are the same run folder."], ())
    documents = [_run_file(run) for run in runs]
    parameters = _paired("parameters", *(_flattened(document.get("asked", {})) for document in documents))
    versions = _paired("versions", *(_flattened(document.get("versions", {})) for document in documents))
    checkpoints = _paired("checkpoints", *map(_hashes, runs))
    tables = [_table_difference(name, *(run.table(name) for run in runs)) for name in _shared_tables(runs)]
    values = [
        *parameters,
        *versions,
        *checkpoints,
        *(ComparedValue("rows", table.name, *table.rows) for table in tables),
    ]
    told_parameters = [value for value in parameters if value.name != _NAME]
    words = [
        *_unfinished(runs),
        *_of_pairs("parameter", told_parameters, "Both runs have the same parameters."),
        *_of_pairs("version", versions, "They were made with the same versions."),
        *(_of_checkpoints(checkpoints) if checkpoints or not any(run.own_models for run in runs) else ()),
        *_of_tables(runs, tables),
    ]
    compared = [*told_parameters, *values[len(parameters) :]]
    same = not any(value.differs for value in compared) and all(table.same for table in tables)
    rows = [{"table": table.name, **vars(column)} for table in tables for column in table.columns]
    return Comparison(label_a, label_b, same, words, tuple(values), _DETAILS, rows)


def _run_file(run: Run) -> dict[str, Any]:
    """What run.toml says. Raises RequestError: it cannot be read."""
    try:
        return tomllib.loads(RunFolder(run.path).run_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{run.path}: run.toml is damaged ({error}); repeat the `ninscope run` command to write it again"
        ) from None


def _flattened(value: Any, key: str = "") -> dict[str, Any]:
    """Values by keys such as "analysis.q.step"; of a list of tables "models[suite/model].source"."""
    if isinstance(value, Mapping):
        dot = "." if key else ""
        items = [(f"{key}{dot}{name}", part) for name, part in value.items()]
    elif isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        items = [(f"{key}[{name}]", part) for name, part in zip(_entry_names(value), value, strict=True)]
    else:
        return {} if value == [] else {key: value}  # an empty list is as one that is not there
    return {name: leaf for item_key, part in items for name, leaf in _flattened(part, item_key).items()}


def _entry_names(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells the tables of a list apart: their names where no two have the same, else their numbers."""
    names = ["/".join(str(entry[key]) for key in ("suite", "model", "name") if key in entry) for entry in entries]
    unique = all(names) and len(set(names)) == len(names)
    return names if unique else [str(position) for position in range(len(entries))]


def _hashes(run: Run) -> dict[str, Any]:
    """By checkpoint the hash of its weights, or its status where there is none; of a run without tables what it set out to do."""
    if "checkpoints" not in run.tables:
        return {"/".join(entry[key] for key in _OF_CHECKPOINT): _UNMEASURED for entry in run.plan["checkpoints"]}
    hashes = {}
    for row in run.table("checkpoints").to_dict("records"):
        digest, status = row["content_sha256"], row["status"]
        hashes["/".join(str(row[key]) for key in _OF_CHECKPOINT)] = status if pd.isna(digest) else digest
    return hashes


def _paired(topic: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[ComparedValue]:
    return [ComparedValue(topic, name, a.get(name), b.get(name)) for name in dict.fromkeys((*a, *b))]


def _shared_tables(runs: Sequence[Run]) -> list[str]:
    return [name for name in runs[0].tables if name in runs[1].tables]


def _unfinished(runs: Sequence[Run]) -> Iterator[str]:
    for name, run in zip("AB", runs, strict=True):
        if not run.finished:
            yield f"{name} has not finished: its tables are absent, or those of an earlier state."


def _of_pairs(what: str, pairs: Sequence[ComparedValue], same: str) -> Iterator[str]:
    """What both have, with its values, then what one alone has, whole sections by their names."""
    differing = [value for value in pairs if value.differs]
    if not differing:
        yield same
    both = [f"{value.name} {value.a} and {value.b}" for value in differing if None not in (value.a, value.b)]
    if both:
        verb = "differs" if len(both) == 1 else "differ"
        yield f"{of_number(len(both), what)} {verb} (A and B): {_first(both)}."
    in_a = [value.name for value in pairs if value.a is not None]
    in_b = [value.name for value in pairs if value.b is not None]
    for name, own, other in (("A", in_a, in_b), ("B", in_b, in_a)):
        if alone := [key for key in own if key not in other]:
            yield f"{of_number(len(alone), what)} only in {name}: {_first(_sections(alone, other))}."


def _sections(alone: Sequence[str], other: Sequence[str]) -> list[str]:
    """The keys, with a section of which the other run has none as one: "interactions (5)"."""
    has = {name.split(".")[0] for name in other}
    sections = Counter(name.split(".")[0] for name in alone)
    whole = {section: count for section, count in sections.items() if section not in has and count > 1}
    names = [f"{section} ({whole[section]})" if (section := name.split(".")[0]) in whole else name for name in alone]
    return list(dict.fromkeys(names))


def _first(clauses: Sequence[str]) -> str:
    """As many as are easily read; the table has all."""
    more = f"; and {len(clauses) - MOST_NAMED} more, in the table" if len(clauses) > MOST_NAMED else ""
    return "; ".join(clauses[:MOST_NAMED]) + more


def _of_checkpoints(checkpoints: Sequence[ComparedValue]) -> Iterator[str]:
    """How many both have, and which differ or are in one alone."""
    both = [value for value in checkpoints if value.a is not None and value.b is not None]
    told = f"{of_number(len(both), 'checkpoint')} in both"
    groups = {
        "only in A": [value.name for value in checkpoints if value.b is None],
        "only in B": [value.name for value in checkpoints if value.a is None],
        "not measured yet in one": [value.name for value in both if _UNMEASURED in (value.a, value.b)],
        "with other weights": [value.name for value in both if value.differs and _UNMEASURED not in (value.a, value.b)],
    }
    clauses = [f"{len(names)} {what} ({outer_names(names)})" for what, names in groups.items() if names]
    yield "; ".join([told, *clauses]) + "."


def _table_difference(name: str, a: pd.DataFrame, b: pd.DataFrame) -> _TableDifference:
    """Rows are matched by what tells them apart, values compared to the last bit; two that are missing are equal."""
    keys = [key for key in _KEYS if key in a and key in b]
    if "step" in a and "step" in b and any(frame.duplicated(keys).any() for frame in (a, b)):
        keys.append("step")  # which alone tells results apart that are of no revision
    frames = [frame.assign(**{key: _as_key(frame[key]) for key in keys}) for frame in (a, b)]
    sizes = len(a), len(b)
    if not keys or any(frame.duplicated(keys).any() for frame in frames):
        return _TableDifference(name, sizes, -1, ())
    merged = frames[0].merge(frames[1], on=keys, suffixes=("_a", "_b"))
    columns = [
        column
        for column in a.columns
        if column not in (*keys, "step")
        and column in b
        and all(map(pd.api.types.is_numeric_dtype, (a[column], b[column])))
    ]
    differences = [_difference(merged, keys, column) for column in columns]
    return _TableDifference(name, sizes, len(merged), tuple(differences))


def _as_key(values: pd.Series) -> pd.Series:
    """Numbers as float64 and all else as text, so that tables of two versions have keys of one type."""
    is_number = pd.api.types.is_numeric_dtype(values)
    return values.astype("Float64" if is_number else "string")


def _difference(merged: pd.DataFrame, keys: Sequence[str], column: str) -> _Difference:
    a, b = (merged[f"{column}_{side}"].to_numpy(np.float64, na_value=np.nan) for side in "ab")
    differing = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not differing.any():
        return _Difference(column, len(merged), 0)
    sizes = np.where(differing & np.isfinite(a) & np.isfinite(b), np.abs(b - a), -1.0)
    most = int(sizes.argmax()) if sizes.max() > 0 else int(differing.argmax())
    texts = [f"{key} {value:g}" if isinstance(value, float) else str(value) for key, value in _said(merged, keys, most)]
    return _Difference(
        column,
        len(merged),
        int(differing.sum()),
        float(a[most]),
        float(b[most]),
        float(b[most] - a[most]),
        " ".join(texts),
    )


def _said(merged: pd.DataFrame, keys: Sequence[str], position: int) -> Iterator[tuple[str, Any]]:
    """The keys of a row that say which it is."""
    for key in keys:
        value = merged[key].iloc[position]
        if key != "suite" and not pd.isna(value) and value not in _UNSAID:
            yield key, value


def _of_tables(runs: Sequence[Run], tables: Sequence[_TableDifference]) -> Iterator[str]:
    for name, run, other in zip("AB", runs, reversed(runs), strict=True):
        if alone := [table for table in run.tables if table not in other.tables]:
            yield f"{of_number(len(alone), 'table is', 'tables are')} only in {name}: {', '.join(alone)}."
    if equal := [table.name for table in tables if table.same and any(table.rows)]:
        yield f"{of_number(len(equal), 'table holds', 'tables hold')} the same numbers in both: {', '.join(equal)}."
    for name, side in (("A", 0), ("B", 1)):
        if alone := [
            f"{table.name} ({table.rows[side]})" for table in tables if table.rows[side] and not table.rows[1 - side]
        ]:
            yield f"{of_number(len(alone), 'table has', 'tables have')} rows only in {name}: {', '.join(alone)}."
    for table in tables:
        if not table.same and all(table.rows):
            yield _of_table(table)


def _of_table(table: _TableDifference) -> str:
    if table.both < 0:
        return f"Table {table.name} has {table.rows[0]} rows in A and {table.rows[1]} in B, which cannot be matched."
    alone = [
        f"{count - table.both} only in {name}"
        for name, count in zip("AB", table.rows, strict=True)
        if count > table.both
    ]
    told = f"Table {table.name}: {', '.join([of_number(table.both, 'row') + ' in both', *alone])}"
    differing = [column for column in table.columns if column.differing]
    if not differing:
        return f"{told}{'; those in both have the same numbers' if table.both else ''}."
    shown = [column for column in differing if column.column in _TOLD.get(table.name, ())]
    if not shown:
        names = [f"{column.column} differs in {column.differing}" for column in differing[:MOST_NAMED]]
        if (more := len(differing) - len(names)) > 0:
            names.append(of_number(more, "more column differs", "more columns differ"))
        return f"{told}; {listed(names)}."
    clauses = [f"{column.column} differs in {column.differing}, {_most(column)}" for column in shown]
    return f"{told}; {'; '.join(clauses)}."


def _most(column: _Difference) -> str:
    if np.isnan(column.difference):
        return f"where one of them has none ({column.where}: {number(column.a)} and {number(column.b)})"
    return f"most at {column.where} ({number(column.a)} and {number(column.b)})"
