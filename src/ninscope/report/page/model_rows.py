"""The rows of one model, as the text of report.html reads them: checkpoints in order, by one method."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from ninscope.report.page.parts import PageTables
from ninscope.report.page.phrases import plain

EXACT, SAMPLED = "exact", "sampled"
Row = Mapping[str, Any]


def value_of(row: Row, column: str) -> float:
    """A finite number of a row; NaN where the row, or an older table, has none."""
    value = row.get(column)
    number = math.nan if value is None or pd.isna(value) else float(value)
    return number if math.isfinite(number) else math.nan


def text_of(row: Row, column: str) -> str:
    """A text of a row; empty where the row, or an older table, has none."""
    value = row.get(column)
    return "" if value is None or pd.isna(value) else str(value)


def known(row: Row, *columns: str) -> bool:
    """Whether a row has a number in all of these columns."""
    return not any(math.isnan(value_of(row, column)) for column in columns)


def checkpoint_name(row: Row) -> str:
    """ "step 4000"; the revision where it states no step."""
    step = value_of(row, "step")
    return plain(text_of(row, "revision")) if math.isnan(step) else f"step {step:.0f}"


def of_label(tables: PageTables, name: str, label: str) -> pd.DataFrame:
    """The rows of one model that come from [analysis] itself, in the order of the steps; none where the run has no such table."""
    if name not in tables.tables:
        return pd.DataFrame({"revision": []})
    rows = tables.table(name)
    rows = rows[rows["label"] == label]
    return rows.sort_values("step", kind="stable") if rows["step"].notna().all() else rows


def _records(rows: pd.DataFrame) -> list[Row]:
    return [{str(column): value for column, value in row.items()} for row in rows.to_dict("records")]


def _of_ends(interactions: pd.DataFrame) -> pd.DataFrame:
    """Those of the first and the last checkpoint that have a coupling."""
    if interactions.empty:
        return interactions
    rows = interactions[interactions["coupling"].notna()]
    return rows[rows["revision"].isin([rows["revision"].iloc[0], rows["revision"].iloc[-1]])] if len(rows) else rows


@dataclass(frozen=True)
class ModelRows:
    """What is known of one model.

    method: of `emergence`, whose rows are one a measured checkpoint; other_method: the rows of the same checkpoints by the other
    one, if the run has both. controls, nulls: what stands beside the method's rows; none where the run has none. interactions: of
    the first and the last checkpoint that have any coupling, since there are many of every checkpoint. in_training: whether it was
    measured while it trained, by no DAG file.
    """

    label: str
    method: str
    checkpoints: Sequence[Row]
    emergence: Sequence[Row]
    other_method: Sequence[Row]
    controls: Sequence[Row]
    nulls: Sequence[Row]
    interactions: Sequence[Row]
    benchmarks: Sequence[Row]
    in_training: bool = False

    @classmethod
    def of(cls, tables: PageTables, label: str) -> "ModelRows":
        """Those of the whole network where the run has it, else of samples."""
        emergence = _records(of_label(tables, "emergence", label))
        methods = {text_of(row, "method") for row in emergence}
        method = EXACT if EXACT in methods else SAMPLED
        return cls(
            label,
            method,
            _records(of_label(tables, "checkpoints", label)),
            [row for row in emergence if text_of(row, "method") == method],
            [row for row in emergence if text_of(row, "method") != method],
            _records(of_label(tables, "controls", label)),
            _records(of_label(tables, "nulls", label)),
            _records(_of_ends(of_label(tables, "interactions", label))),
            _records(of_label(tables, "benchmarks", label)),
            label in tables.in_training,
        )

    @cached_property
    def measured(self) -> list[Row]:
        """The rows of `emergence` that have a spectrum."""
        return [row for row in self.emergence if known(row, "alpha0", "width")]

    @cached_property
    def names(self) -> list[str]:
        return [checkpoint_name(row) for row in self.measured]

    def is_baseline(self, row: Row) -> bool:
        start = value_of(row, "baseline_step")
        return text_of(row, "revision") == text_of(row, "baseline") or value_of(row, "step") == start

    @cached_property
    def start(self) -> Row | None:
        """The row of what E compares with, if it was measured."""
        return next((row for row in self.measured if self.is_baseline(row)), None)

    @cached_property
    def start_name(self) -> str:
        """What E compares with, measured or not."""
        first = self.emergence[0]
        return (
            checkpoint_name({"revision": first.get("baseline"), "step": first.get("baseline_step")}) or "its baseline"
        )

    @cached_property
    def later(self) -> list[Row]:
        """The measured rows that have an E and are not the baseline."""
        return [row for row in self.measured if known(row, "emergence") and not self.is_baseline(row)]

    @cached_property
    def later_names(self) -> list[str]:
        return [checkpoint_name(row) for row in self.later]

    @cached_property
    def _control_of(self) -> dict[str, Row]:
        return {text_of(row, "revision"): row for row in self.controls}

    @cached_property
    def _nulls_of(self) -> dict[str, list[Row]]:
        nulls: dict[str, list[Row]] = {}
        for row in self.nulls:
            if known(row, "emergence"):
                nulls.setdefault(text_of(row, "revision"), []).append(row)
        return nulls

    def control(self, row: Row) -> Row:
        """The row of `controls` of the same checkpoint; an empty one where there is none."""
        return self._control_of.get(text_of(row, "revision"), {})

    def nulls_of(self, row: Row) -> list[Row]:
        """The null models of the same checkpoint that have an E."""
        return self._nulls_of.get(text_of(row, "revision"), [])
