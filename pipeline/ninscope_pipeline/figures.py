"""The figures of a run: PNG files that its stages draw from its tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ninscope import garbage
from ninscope.report.analysis_rows import of_analysis
from ninscope_pipeline.outcome import Outcome, attempt
from ninscope_pipeline.results import Results
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import named_in_errors
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.manifest import key_of, write_files
from ninscope_pipeline.storing.parquet import read_parquet
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore
from ninscope_pipeline.tables import all_tables, empty_table, is_without_rows, tables_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.stages.stage import Stage

STAGE = "figures"  # as which a run tells of them
VERSION = 5
DEFAULT_FORMATS = ("png",)


@dataclass(frozen=True)
class ModelTables:
    """The rows of one model. stem: what its figures' names begin with, fit for file names; it holds no "--" but between suite and
    model."""

    suite: str
    name: str
    stem: str
    tables: "Mapping[str, pd.DataFrame]"

    def every_row(self, table: str) -> "pd.DataFrame":
        """The rows of this model in a table, of all variants and parts."""
        rows = self.tables[table]
        return rows[(rows["suite"] == self.suite) & (rows["model"] == self.name)]

    def table(self, name: str) -> "pd.DataFrame":
        """The rows of this model that come from [analysis] itself."""
        return of_analysis(self.every_row(name))


@dataclass(frozen=True)
class FigureTables:
    """What figures are drawn from.

    results: what the tables were made from, for figures of what no table has, such as single neurons. None where tables are all
    there is (`draw(tables)`): then there are no such figures.
    """

    tables: "Mapping[str, pd.DataFrame]"
    results: "Results | None" = None

    def table(self, name: str) -> "pd.DataFrame":
        """The rows that come from [analysis] itself: no variant's, and networks as one."""
        return of_analysis(self.tables[name])

    @property
    def every_stage(self) -> "list[Stage]":
        """Every stage there is, in their order."""
        return list(stages().values())

    @cached_property
    def models(self) -> list[ModelTables]:
        """Every model, in the order of the table `checkpoints`."""
        names = self.tables["checkpoints"][["suite", "model"]].drop_duplicates()
        counts = names["model"].value_counts()
        return [
            ModelTables(suite, model, model if counts[model] == 1 else f"{suite}--{model}", self.tables)
            for suite, model in names.itertuples(index=False)
        ]


def figures_key(tables_key: str, formats: Sequence[str] = DEFAULT_FORMATS) -> str:
    """Figures depend on the tables and on how they are drawn; results that they show besides have their keys in that of the
    tables."""
    others = {} if sorted(set(formats)) == list(DEFAULT_FORMATS) else {"formats": sorted(set(formats))}
    return content_key(STAGE, VERSION, tables=tables_key, **others)


def store_figures(
    folder: RunFolder, formats: Sequence[str] = DEFAULT_FORMATS, request: "Request | None" = None
) -> Outcome:
    """Draw every figure of the run's tables, in each of these formats.

    request: what they were made from, so that figures may show stored results too. Figures of tables that another run has written
    meanwhile are then left to that run, whose results these are not.
    """

    def work() -> None:
        own = None if request is None else tables_key(request)
        results = None if request is None else Results(request, ArtefactStore(folder))
        while True:
            with folder.locked("tables"):  # all of one set, that of another run perhaps
                key = key_of(folder, folder.tables)
                if own not in (None, key):
                    return
                tables = {name: _read(folder, name) for name in all_tables()}
            drawn = draw(tables, formats, results)
            with folder.locked("tables"):
                if key_of(folder, folder.tables) == key:  # another run may have written tables and figures meanwhile
                    write_files(folder, folder.figures, figures_key(key, formats), drawn)
                    return

    return attempt(STAGE, "all", work)


def _read(folder: RunFolder, name: str) -> "pd.DataFrame":
    path = folder.tables / f"{name}.parquet"
    return empty_table(name) if not path.exists() or is_without_rows(path, name) else read_parquet(path)


def draw(
    tables: "Mapping[str, pd.DataFrame]",
    formats: Sequence[str] = DEFAULT_FORMATS,
    results: "Results | None" = None,
) -> dict[str, bytes]:
    """Pictures by file name: what every stage draws from the tables, and from the results that these were made from, if given."""
    with garbage.not_looked_for():
        from ninscope.report.layout import picture  # matplotlib takes a third of a second to import

    figure_tables = FigureTables(tables, results)
    drawn: dict[str, bytes] = {}
    for stage in stages().values():
        with named_in_errors(f"the figures of the stage {stage.name}"):
            for name, figure in stage.figures(figure_tables):
                stem = name.removesuffix(".png")
                drawn |= {f"{stem}.{form}": picture(figure, form) for form in dict.fromkeys(formats)}
    return drawn
