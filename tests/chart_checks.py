"""What tests of the page's parts share: tables of few rows, and what every chart must hold to."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import altair as alt
import pandas as pd

from ninscope.report.page.parts import TOPICS, PagePart, PageTables
from ninscope_pipeline.stages.checkpoint_measures import measured_on_page
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.tables import all_tables, empty_table

HOSTILE = "a\"b'</script><img src=x onerror=alert(1)>.x[0]\\{{7*7}}"
_TEXTS_OF_DATA = {"domain", "labels", "value"}  # keys of a specification under which names are values


def page_tables(rows: Mapping[str, list[dict[str, Any]]], labels: Iterable[str] = ("m",)) -> PageTables:
    """The tables of a run from few rows; a row has the label "m" where it says nothing else."""
    tables = {}
    for name, empty in _empty_tables().items():
        given = [
            {"run": "r", "suite": "s", "label": "m", "model": row.get("label", "m")} | row for row in rows.get(name, [])
        ]
        types = {column: "Int64" if kind == "int64" else kind for column, kind in empty.dtypes.items()}
        tables[name] = pd.DataFrame(given).reindex(columns=empty.columns).astype(types) if given else empty
    return PageTables(tables, list(labels), partial(measured_on_page, list(stages().values())))


@cache
def _empty_tables() -> dict[str, pd.DataFrame]:
    return {name: empty_table(name).assign(run="", label="") for name in all_tables()}


def specs_of(parts: Iterable[PagePart], hostile: str = HOSTILE) -> dict[str, dict[str, Any]]:
    """Valid specifications by chart name; each is looked at for what holds of all charts."""
    specs = {}
    for part in parts:
        assert re.fullmatch(r"[A-Za-z0-9-]+", part.name)
        assert part.topic in TOPICS
        assert set(part.tables) <= set(all_tables())
        assert 1 <= len(part.text) <= 4
        assert all(part.text)
        for chart in part.charts:
            spec = chart.chart.to_dict()  # raises where it is not valid
            assert re.fullmatch(r"[A-Za-z0-9-]+", chart.name)
            assert chart.name not in specs
            assert chart.description.endswith(".")
            assert "nan" not in chart.description.split()
            assert spec["width"] == "container"
            _check(spec, hostile)
            specs[chart.name] = spec
    return specs


def _check(spec: dict[str, Any], hostile: str) -> None:
    for path, value in _leaves({key: value for key, value in spec.items() if key != "datasets"}):
        assert not any(hostile in str(key) for key in path)
        if isinstance(value, str):
            assert not re.fullmatch(r"(view|param|layer|concat)_\d+", value), (
                f"{value} is counted, so another run has another"
            )
            assert value.lower() not in {"black", "white", "#000", "#fff", "#000000", "#ffffff"}, path
            assert hostile not in value or _TEXTS_OF_DATA & set(path), path
    for rows in spec["datasets"].values():
        assert rows
        for column in rows[0]:
            assert re.fullmatch(r"[A-Za-z0-9_]+", column), column
    for unit in _units(spec):
        assert "tooltip" in unit["encoding"], unit["mark"]


def _leaves(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    else:
        yield path, value


def _units(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "mark" in spec:
        yield spec
    for inner in spec.get("layer", []):
        yield from _units(inner)


def rows_with(spec: dict[str, Any], column: str) -> list[dict[str, Any]]:
    """Rows of the specification's data set that has this column; of several the one with most rows."""
    return max((rows for rows in spec["datasets"].values() if column in rows[0]), key=len)


def bound(spec: dict[str, Any], name: str) -> dict[str, Any]:
    """What a reader chooses a parameter of this name with."""
    return next(parameter["bind"] for parameter in spec["params"] if parameter["name"] == name)


def unlimited(chart: Any) -> dict[str, Any]:
    """A chart's specification, of more rows than altair gives out by itself."""
    with alt.data_transformers.enable("default", max_rows=None):
        return chart.to_dict(validate=False)
