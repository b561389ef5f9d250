"""The figures of a run: PNG files that its stages draw from its tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ninscope import garbage
from ninscope.report.analysis_rows import of_analysis
from ninscope_pipeline.outcome import Outcome, attempt
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import named_in_errors
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.manifest import key_of, write_files
from ninscope_pipeline.storing.parquet import read_parquet
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.tables import all_tables, empty_table, is_without_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

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
    """What figures are drawn from."""

    tables: "Mapping[str, pd.DataFrame]"

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
    """Figures depend on the tables and on how they are drawn."""
    others = {} if sorted(set(formats)) == list(DEFAULT_FORMATS) else {"formats": sorted(set(formats))}
    return content_key(STAGE, VERSION, tables=tables_key, **others)


def store_figures(folder: RunFolder, formats: Sequence[str] = DEFAULT_FORMATS) -> Outcome:
    """Draw every figure of the run's tables, in each of these formats."""

    def work() -> None:

        while True:
            with folder.locked("tables"):  # all of one set, that of another run perhaps
                key = key_of(folder, folder.tables)
                tables = {name: _read(folder, name) for name in all_tables()}
            drawn = draw(tables, formats)
            with folder.locked("tables"):
                if key_of(folder, folder.tables) == key:  # another run may have written tables and figures meanwhile
                    write_files(folder, folder.figures, figures_key(key, formats), drawn)
                    return

    return attempt(STAGE, "all", work)


def _read(folder: RunFolder, name: str) -> "pd.DataFrame":
    path = folder.tables / f"{name}.parquet"
    return empty_table(name) if not path.exists() or is_without_rows(path, name) else read_parquet(path)


def draw(tables: "Mapping[str, pd.DataFrame]", formats: Sequence[str] = DEFAULT_FORMATS) -> dict[str, bytes]:
    """Pictures by file name: what every stage draws from the tables."""
    with garbage.not_looked_for():
        from ninscope.report.layout import picture  # matplotlib takes a third of a second to import

    figure_tables = FigureTables(tables)
    drawn: dict[str, bytes] = {}
    for stage in stages().values():
        with named_in_errors(f"the figures of the stage {stage.name}"):
            for name, figure in stage.figures(figure_tables):
                stem = name.removesuffix(".png")
                drawn |= {f"{stem}.{form}": picture(figure, form) for form in dict.fromkeys(formats)}
    return drawn
