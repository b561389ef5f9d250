"""What `ninscope.measure_all` returns: rows, in a list that can be a table, a figure and a notebook's output as well."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninscope.measurement import Measurement
from ninscope.report.analysis_rows import ALL_PARTS
from ninscope.shown import Shown, without_empty

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS = {
    "revision": "string", "step": "Int64", "part": "string", "status": "string", "message": "string", "method": "string",
    "alpha0": "float64", "alpha0_std": "float64", "width": "float64", "width_std": "float64", "emergence": "float64",
    "nodes": "Int64", "edges": "float64", "warning": "string", "baseline": "string",
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class Measured(Shown):
    """The result of one revision: a spectrum, or the status and message that say why there is none.

    emergence: E against the revision `baseline`; NaN, with the message saying why, where there is none. warning: why not to
    trust the spectrum or E, or empty. parts: by the part's name a row of its own, where Parameters.parts asks for them.
    """

    revision: str
    step: int | None
    status: str
    message: str
    spectrum: Measurement | None
    emergence: float = math.nan
    baseline: str = ""
    warning: str = ""
    parts: Mapping[str, "Measured"] = field(default_factory=dict)

    @property
    def alpha0(self) -> float:
        """Of the spectrum; NaN where there is none, as is width."""
        return math.nan if self.spectrum is None else self.spectrum.alpha0

    @property
    def width(self) -> float:
        """Heterogeneity of the spectrum; NaN where there is none."""
        return math.nan if self.spectrum is None else self.spectrum.width

    def facts(self) -> dict[str, object]:
        """What a terminal or a notebook shows of it."""
        spectrum = self.spectrum
        told = {} if spectrum is None else {"alpha0": spectrum.alpha0, "width": spectrum.width, "E": self.emergence}
        against = self.baseline if told else None
        notes = without_empty(baseline=against, warning=self.warning, message=self.message)
        return {"revision": self.revision, "status": self.status} | told | notes


class MeasuredRows(list[Measured]):
    """Rows of one source, in step order. source: as the user named it."""

    def __init__(self, rows: Iterable[Measured] = (), source: str = "") -> None:
        super().__init__(rows)
        self.source = source

    def to_frame(self) -> "pd.DataFrame":
        """One row a revision, and one more for each of its parts.

        Columns: revision, step, part ("all": the network as one), status, message, method, alpha0, alpha0_std, width, width_std,
        emergence, nodes, edges, warning, baseline. What is not known is missing.
        """
        import pandas as pd  # slow to import, and measuring needs none

        rows = [_values(row, ALL_PARTS) for row in self]
        if any(row.parts for row in self):
            rows = [values for row in self for values in (_values(row, ALL_PARTS), *_parts(row))]
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)

    def plot(self, ax: "Axes | None" = None, value: str | None = None) -> "Axes":
        """Draw a column ("emergence", "alpha0", "width") against the step.

        ax: where (default: axes of a new figure). value: which column (default: E, or alpha0 where no row has an E).
        """
        from ninscope.report.plots import plot_rows

        name = self.source.rstrip("/").rpartition("/")[2] if Path(self.source).exists() else self.source
        return plot_rows(self.to_frame(), ax, value, name or self.source)

    def __repr__(self) -> str:
        return f"MeasuredRows of {self.source}\n{_shown(self)}" if self else f"MeasuredRows of {self.source}: none"

    def _repr_html_(self) -> str:
        return _frame_to_show(self).to_html(index=False, na_rep="-")


def _values(row: Measured, part: str) -> dict[str, Any]:
    spectrum = row.spectrum
    measured = {} if spectrum is None else {
        name: getattr(spectrum, name) for name in ("method", "alpha0", "alpha0_std", "width", "width_std", "nodes", "edges")
    }  # fmt: skip
    return {
        "revision": row.revision, "step": row.step, "part": part, "status": row.status, "message": row.message,
        "method": None, "alpha0": math.nan, "alpha0_std": math.nan, "width": math.nan, "width_std": math.nan, "nodes": None,
        "edges": math.nan, "emergence": row.emergence, "warning": row.warning, "baseline": row.baseline, **measured,
    }  # fmt: skip


def _parts(row: Measured) -> list[dict[str, Any]]:
    return [_values(part, name) for name, part in row.parts.items()]


def _frame_to_show(rows: MeasuredRows) -> "pd.DataFrame":
    return rows.to_frame()[["revision", "part", "status", "alpha0", "width", "emergence", "nodes", "warning"]]


def _shown(rows: MeasuredRows) -> str:
    return _frame_to_show(rows).to_string(index=False, na_rep="-", max_colwidth=40)
