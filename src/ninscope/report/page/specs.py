"""Charts as the page holds them: specifications without data, and every data set once, by columns.

Altair writes the rows of a data frame out in each chart, which takes a second for 94,000 rows and ten times the bytes. Here frames
are taken as they are, before it does; those with the same content are one.

No specification holds a name of the data in an expression: names are values of data sets, domains and titles, which Vega takes as
text. `chart_specs` refuses one that does, as far as the name cannot be a word of the expression itself.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ninscope.report.page.embedding import Columns, columns_of_frame, columns_of_rows, json_bytes, rows_of_columns
from ninscope.report.page.parts import Chart, PagePart
from ninscope.report.page.theme import with_config

if TYPE_CHECKING:
    import pandas as pd

# Where Vega-Lite and Vega take text for an expression.
_EXPRESSIONS = ("expr", "calculate", "filter", "test", "labelExpr", "signal", "update")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_PLAIN = re.compile(r"[\w .:/+\-]*")


@dataclass(frozen=True)
class Specs:
    """charts: Vega-Lite specifications by chart name, whose data sets have names only. data: columns by data set, as JSON."""

    charts: dict[str, dict[str, Any]]
    data: dict[str, bytes]


def chart_specs(parts: Sequence[PagePart], names: Iterable[str] = ()) -> Specs:
    """Every chart of the page. names: those of models and the like, which come from a user's files.

    Raises ValueError where a chart's specification holds one of the names in an expression, or two charts have one name.
    """
    import altair as alt

    pool = _Pool()
    charts: dict[str, dict[str, Any]] = {}
    foreign = [name for name in dict.fromkeys(names) if not _PLAIN.fullmatch(name)]
    alt.data_transformers.register("ninscope", pool.transform)
    with alt.data_transformers.enable("ninscope"):
        for chart in charts_of(parts):
            if chart.name in charts:
                raise ValueError(f"two charts of the page have the name {chart.name}; rename one")
            spec = pool.without_data(chart.chart.to_dict())
            _check_expressions(chart.name, spec, foreign)
            charts[chart.name] = with_config(spec)
    return Specs(charts, pool.data)


def charts_of(parts: Iterable[PagePart]) -> Iterator[Chart]:
    """The charts of the page, in its order."""
    for part in parts:
        yield from part.charts


def with_data(spec: dict[str, Any], data: dict[str, bytes]) -> dict[str, Any]:
    """A specification that stands alone: with the rows of its data sets."""
    return spec | {
        "datasets": {name: rows_of_columns(json.loads(data[name])) for name in data_names(spec) if name in data}
    }


class _Pool:
    """Data sets by a digest of what they hold."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self._names: dict[int, tuple[Any, str]] = {}  # by id, with the frame itself, so that no other gets its id

    def transform(self, data: "pd.DataFrame | Any" = None, **options: Any) -> Any:
        """What altair calls with each chart's data."""
        if data is None:
            return self.transform
        if not hasattr(data, "columns"):
            return data
        if id(data) not in self._names:
            self._names[id(data)] = data, self._add(columns_of_frame(data))
        return {"name": self._names[id(data)][1]}

    def without_data(self, spec: dict[str, Any]) -> dict[str, Any]:
        """The specification with values that are written out in it taken out, too."""
        own = {name: self._add(columns_of_rows(rows)) for name, rows in spec.get("datasets", {}).items()}
        return self._taken_out({key: value for key, value in spec.items() if key != "datasets"}, own)

    def _taken_out(self, value: Any, own: dict[str, str]) -> Any:
        if isinstance(value, list):
            return [self._taken_out(inner, own) for inner in value]
        if not isinstance(value, dict):
            return value
        inner = {key: self._taken_out(entry, own) for key, entry in value.items()}
        data = inner.get("data")
        if isinstance(data, dict) and data.get("name") in own:
            inner["data"] = data | {"name": own[data["name"]]}
        elif isinstance(data, dict) and _are_rows(data.get("values")):
            inner["data"] = {key: entry for key, entry in data.items() if key != "values"}
            inner["data"]["name"] = self._add(columns_of_rows(data["values"]))
        return inner

    def _add(self, columns: Columns) -> str:
        content = json_bytes(columns)
        name = f"data-{hashlib.sha256(content).hexdigest()[:16]}"
        self.data.setdefault(name, content)
        return name


def _are_rows(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(row, dict) for row in values)


def _data_names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        data = value.get("data")
        if isinstance(data, dict) and isinstance(data.get("name"), str):
            yield data["name"]
        for inner in value.values():
            yield from _data_names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _data_names(inner)


def data_names(spec: dict[str, Any]) -> list[str]:
    """Names of the data sets that a specification draws, each once."""
    return list(dict.fromkeys(_data_names(spec)))


def expressions_in(value: Any) -> Iterator[str]:
    """Every text of a specification that Vega reads as an expression."""
    if isinstance(value, list):
        for inner in value:
            yield from expressions_in(inner)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key in _EXPRESSIONS and isinstance(inner, str):
                yield inner
            yield from expressions_in(inner)


def _check_expressions(chart: str, spec: dict[str, Any], foreign: Sequence[str]) -> None:
    for expression in expressions_in(spec):
        unescaped = _ESCAPED.sub(r"\1", expression)
        inside = next((name for name in foreign if name in expression or name in unescaped), None)
        if inside is not None:
            raise ValueError(f"the chart {chart} has the name {inside!r} in an expression; compare a field of its data")
