"""What a stage hands over for report.html: parts of the page, with their charts, and the tables that they are drawn from."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ninscope.report.analysis_rows import of_analysis

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

# Where on the page a part stands, in this order.
TOPICS = ("emergence", "controls", "spectra", "structure", "benchmarks", "models that were run")

MEASURED_COLUMNS = ("label", "step", "table", "measure", "method", "value")


@dataclass(frozen=True)
class Chart:
    """An interactive figure.

    name: its id on the page, and its file's name where it is saved; letters, digits and hyphens. title: what stands above it.
    chart: of altair. description: what it shows, in a sentence, for who cannot see it.
    """

    name: str
    title: str
    chart: "alt.TopLevelMixin"
    description: str


@dataclass(frozen=True)
class PagePart:
    """A section of the page.

    name: its anchor; letters, digits and hyphens. topic: one of TOPICS. text: paragraphs above the charts, plain text.
    tables: names of the tables that it is drawn from, which the page offers for download.
    """

    name: str
    title: str
    topic: str
    text: tuple[str, ...]
    charts: tuple[Chart, ...]
    tables: tuple[str, ...]


class PageTables:
    """The tables of one run or of several side by side.

    tables: by name; besides the columns of docs/tables.md each has `run` and `label`. labels: one a model of a run, in the order
    of the page: the model's name, with suite and run where two have one of that name. Charts tell models apart by it.
    measured: makes of both what `measured` returns, when a part asks for it; without it there is nothing. in_training: the labels
    of models that were measured while they trained, by no DAG file.
    """

    def __init__(
        self,
        tables: "Mapping[str, pd.DataFrame]",
        labels: Sequence[str],
        measured: "Callable[[Mapping[str, pd.DataFrame], Sequence[str]], pd.DataFrame] | None" = None,
        in_training: "Collection[str]" = (),
    ):
        self.tables, self.labels, self._measured = tables, tuple(labels), measured
        self.in_training = frozenset(in_training)

    def every_row(self, name: str) -> "pd.DataFrame":
        """The rows of a table, of all variants and parts; none where the runs are older than the table."""
        return self.tables[name]

    def table(self, name: str) -> "pd.DataFrame":
        """The rows of a table that come from [analysis] itself: no variant's, and networks as one."""
        return of_analysis(self.every_row(name))

    def measured(self) -> "pd.DataFrame":
        """Every measure of every checkpoint that states a step, by [analysis] itself: label, step, table, measure, method, value.

        table: where it stands. method: "exact" (of the whole network), "sampled" or "".
        """
        import pandas as pd

        if self._measured is None:
            return pd.DataFrame({name: [] for name in MEASURED_COLUMNS})
        return self._measured(self.tables, self.labels)
