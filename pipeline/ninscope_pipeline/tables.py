"""The tables of a run: what is known, one fact a row, rebuilt whole from artefacts."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import pandas_dtype

from ninscope.wording import joined_clauses
from ninscope_pipeline.outcome import Outcome, attempt
from ninscope_pipeline.plan import Request
from ninscope_pipeline.results import Results, checkpoint_results
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import Row, Table, named_in_errors
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.manifest import write_files
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore

STAGE = "tables"  # as which a run tells of them
VERSION = 6

KEYS = {"suite": "string", "model": "string", "revision": "string", "step": "Int64"}


def _checkpoint_rows(results: Results) -> Iterator[Row]:
    trust = results.request.dag.emergence.trust_duplicates
    alone = len(results.request.analyses) == 1
    for checkpoint in results.checkpoints:
        located, standing = checkpoint.located, checkpoint.standing(trust)
        analyses_of: dict[str, list[str]] = {}  # by message
        for analysis in results.request.analyses:
            if checkpoint.outcomes[analysis.name].ok:
                message = results.measurement(checkpoint.jobs[analysis.name].id).message
                if message:
                    analyses_of.setdefault(message, []).append(analysis.name)
        notes = [note if alone else f"{', '.join(names)}: {note}" for note, names in analyses_of.items()]
        if standing.ok and standing.message:
            notes.append(standing.message)
        yield checkpoint.row_keys | {
            "content_sha256": located.content_sha256,
            "parameters": located.parameters,
            "bytes": located.bytes,
            "status": standing.status,
            "message": joined_clauses(*notes) if standing.ok else standing.message,
        }


def _benchmark_rows(results: Results) -> Iterator[Row]:
    for (suite, model), evaluations in zip(results.request.by_model(), results.request.evaluations, strict=True):
        for evaluation in evaluations:
            yield {"suite": suite, "model": model, **evaluation.as_dict()}


_OWN = (
    Table(
        "checkpoints",
        {"content_sha256": "string", "parameters": "Int64", "status": "string", "message": "string", "bytes": "Int64"},
        _checkpoint_rows,
    ),
    Table(
        "benchmarks",
        {"task": "string", "metric": "string", "value": "float64", "stderr": "float64", "n_shot": "Int64"},
        _benchmark_rows,
    ),
)


def all_tables() -> dict[str, Table]:
    """Every table of a run by name, in the order in which they are made: those of no stage, of stages, and from other tables."""
    tables = (*_OWN, *(table for stage in stages().values() for table in stage.tables))
    return {table.name: table for table in sorted(tables, key=lambda table: table.from_others)}


def tables_key(request: Request) -> str:
    """Content key of the tables. Parts of it are named as when they were first written, so that tables stay current."""
    trust = request.dag.emergence.trust_duplicates
    results = checkpoint_results(request)
    rows = [
        [
            *checkpoint.row_keys.values(),
            checkpoint.located.content_sha256,
            [
                (standing := checkpoint.standing(trust)).status,
                standing.message,
                checkpoint.located.falsified,
                checkpoint.located.otherwise_wired,
            ],
            {
                name: [checkpoint.jobs[name].key if outcome.ok else None, outcome.status, outcome.message]
                for name, outcome in checkpoint.outcomes.items()
            },
        ]
        for checkpoint in results
    ]
    emerged = {
        job.key: None
        for stage in stages().values()
        if stage.follows_outcomes
        for job in request.jobs_of(stage.name)
        if request.outcome(job).ok
    }
    return content_key(
        STAGE,
        VERSION,
        rows=rows,
        emerged=list(emerged),
        studies=_other_jobs(request),
        evaluations=[[evaluation.as_list() for evaluation in evaluations] for evaluations in request.evaluations],
        nodes_per_layer=_nodes_per_layer(request),
        **({"trust_unlike_counts": True} if request.dag.emergence.trust_unlike_counts else {}),
        **{name: value for stage in stages().values() for name, value in stage.asked_of_tables(request.dag).items()},
    )


def _other_jobs(request: Request) -> list[list]:
    """Of jobs that have rows of their own, what the tables depend on."""
    described = []
    for stage in stages().values():
        if stage.tables and not stage.judges_checkpoints and not stage.follows_outcomes:
            for job in request.jobs_of(stage.name):
                outcome = request.outcome(job)
                described.append([job.stage, job.key or None, job.label, outcome.status, outcome.message])
    return described


def _nodes_per_layer(request: Request) -> dict[str, Any]:
    numbers: dict[str, Any] = {analysis.name: analysis.parameters.nodes_per_layer for analysis in request.analyses}
    for stage in stages().values():
        if stage.judges_checkpoints and stage.section is not None and request.jobs_of(stage.name):
            numbers[stage.name] = "all"
    return numbers


def store_tables(folder: RunFolder, request: Request) -> Outcome:
    """Write every table. What jobs could not make is rows with their status."""

    def work() -> None:
        tables = make_tables(folder, request)
        files = {f"{name}.parquet": parquet_bytes(table) for name, table in tables.items()}
        write_files(folder, folder.tables, tables_key(request), files)

    return attempt(STAGE, "all", work)


def make_tables(folder: RunFolder, request: Request) -> dict[str, pd.DataFrame]:
    """All tables of a run by name, typed as their columns say, rows in the order of models, steps and analyses."""
    results = Results(request, ArtefactStore(folder))
    for table in all_tables().values():
        with named_in_errors(f"the table {table.name}"):
            results.tables[table.name] = _typed(table.rows(results), table.columns)
    return results.tables


def empty_table(name: str) -> pd.DataFrame:
    """A table without rows, as a run has it that was made before there was such a table."""
    return _typed([], all_tables()[name].columns)


def missing_column(index: pd.Index, dtype: Any) -> pd.Series:
    """A column of nothing but absent values: of a table that was written before it had the column."""
    return pd.Series(index=index, dtype="boolean" if dtype == "bool" else dtype)  # pandas would fill bool with True


def is_without_rows(path: Path, name: str) -> bool:
    """Whether the file of a table is, byte for byte, that of the table without rows: told much sooner than it is read."""
    without_rows = _file_without_rows(_types(all_tables()[name].columns))
    return path.stat().st_size == len(without_rows) and path.read_bytes() == without_rows


_dtype = cache(pandas_dtype)  # pandas looks a type up by its name in a list, for every column anew


def _types(columns: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((KEYS | dict(columns)).items())


def _typed(rows: Any, columns: Mapping[str, str]) -> pd.DataFrame:
    types = _types(columns)
    table = rows if isinstance(rows, pd.DataFrame) else list(rows)
    return _without_rows(types).copy() if len(table) == 0 else _of_rows(table, types)


def _of_rows(rows: Any, types: tuple[tuple[str, str], ...]) -> pd.DataFrame:
    names = [name for name, _ in types]
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, columns=names)
    return table.astype({name: _dtype(kind) for name, kind in types})[names]


@cache
def _without_rows(types: tuple[tuple[str, str], ...]) -> pd.DataFrame:
    """Most tables of most runs have no rows: each is made once a process."""
    return _of_rows([], types)


@cache
def _file_without_rows(types: tuple[tuple[str, str], ...]) -> bytes:
    return parquet_bytes(_without_rows(types))


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """The table as a Parquet file: the same table gives the same bytes."""
    return _bytes_without_rows(tuple(table.dtypes.items())) if len(table) == 0 else _parquet_bytes(table)


def _parquet_bytes(table: pd.DataFrame) -> bytes:
    return table.to_parquet(index=False, engine="pyarrow", compression="zstd")


@cache
def _bytes_without_rows(dtypes: tuple[tuple[str, Any], ...]) -> bytes:
    return _parquet_bytes(pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in dtypes}))
