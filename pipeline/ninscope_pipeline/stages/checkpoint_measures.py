"""The measures of a checkpoint, followed over training: what tables of all stages say by their `Measures`, as series by step."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from ninscope.errors import RequestError
from ninscope.report.page.parts import MEASURED_COLUMNS
from ninscope_pipeline.request.analyses import DEFAULT
from ninscope_pipeline.stages.stage import Measures, Stage, Table

_MODEL = ["suite", "model"]


class Series(NamedTuple):
    """One measure of one model over training.

    table: where it stands. method: "" where the table knows none. values: float64 by step, ascending, NaN where the table has
    none; of two revisions of one step the first counts, and `repeated` says how many others there are.
    """

    suite: str
    model: str
    table: str
    measure: str
    method: str
    variant: str
    values: pd.Series
    repeated: int


def names_of_measures(stages: Iterable[Stage]) -> dict[str, str]:
    """The table of every measure, by its name without what `by` adds. Raises RequestError: two tables have one of that name."""
    tables: dict[str, str] = {}
    for table, measures in _declared(stages):
        for name in measures.columns:
            if name in tables:
                raise RequestError(
                    f"the measure {name!r} of the table {table.name} takes the name of one of {tables[name]}; rename it"
                )
            tables[name] = table.name
    return tables


def known_endings(stages: Iterable[Stage]) -> dict[str, list[str]]:
    """What may follow a measure's name and a "/", by that name, where it is known before anything is measured."""
    return {
        name: list(measures.endings())
        for _, measures in _declared(stages)
        if measures.endings is not None
        for name in measures.columns
    }


def series_of_measures(stages: Iterable[Stage], tables: Mapping[str, pd.DataFrame]) -> list[Series]:
    """Every measure of every model that has rows, in the order of stages, columns and rows. tables: of a run, by name."""
    series: list[Series] = []
    for table, measures in _declared(stages):
        rows = tables[table.name].dropna(subset=["step"])
        for column, value in measures.where.items():
            rows = rows[rows[column] == value]
        rows = rows if measures.chosen is None else measures.chosen(rows)
        for (suite, model), rows_of_model in rows.groupby(_MODEL, sort=False):
            first = rows_of_model.groupby("step")["revision"].transform("first")
            kept = rows_of_model[rows_of_model["revision"] == first]
            revisions = rows_of_model[["step", "revision"]].drop_duplicates()
            repeated = len(revisions) - revisions["step"].nunique()
            series += _of_model((str(suite), str(model)), table.name, measures, kept, repeated)
    return series


def measured_on_page(
    stages: Iterable[Stage], tables: Mapping[str, pd.DataFrame], labels: Sequence[str]
) -> pd.DataFrame:
    """What `PageTables.measured` returns, of its tables and labels."""
    known = [stage for stage in stages if all(table.name in tables for table in stage.tables)]
    rows = {name: tables[name] for name in dict.fromkeys(table.name for table, _ in _declared(known))}
    columns = list(MEASURED_COLUMNS)
    parts = [pd.DataFrame({name: [] for name in columns}).astype({"step": "int64", "value": "float64"})]
    for label in labels:
        of_label = {name: table[table["label"] == label] for name, table in rows.items()}
        for series in series_of_measures(known, of_label):
            if series.variant == DEFAULT and series.values.notna().any():
                about = {"label": label, "table": series.table, "measure": series.measure, "method": series.method}
                steps = series.values.index.to_numpy("int64")
                parts.append(pd.DataFrame({**about, "step": steps, "value": series.values.to_numpy()})[columns])
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def _declared(stages: Iterable[Stage]) -> Iterator[tuple[Table, Measures]]:
    for stage in stages:
        for table in stage.tables:
            for measures in table.measures:
                yield table, measures


def _of_model(
    model: tuple[str, str], table: str, measures: Measures, rows: pd.DataFrame, repeated: int
) -> Iterator[Series]:
    told_apart = [name for name in ("method", "variant") if name in rows] + list(measures.by)
    groups = rows.groupby(told_apart, sort=False, dropna=False) if told_apart else [((), rows)]
    for name, column in measures.columns.items():
        for key, group in groups:
            values = dict(zip(told_apart, key, strict=True))
            ending = "".join(f"/{values[other]}" for other in measures.by)
            means = group.groupby("step")[column].mean().astype("float64")
            method, variant = str(values.get("method", "")), str(values.get("variant", DEFAULT))
            yield Series(*model, table, f"{name}{ending}", method, variant, means, repeated)
