"""What report.html says, before it is written as HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ninscope.report.page.parts import PagePart
from ninscope.report.page.verdict import ModelVerdict

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RunFacts:
    """A run of the page.

    name: as its rows say in the column `run`. notes: what a reader should know first, a sentence each (it has not finished, an
    older ninscope made it). parameters: the text of its run.toml. versions: of what it ran with, by name.
    """

    name: str
    notes: tuple[str, ...]
    parameters: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Contents:
    """runs: in the order of the page. verdicts: one a model. parts: of all stages. tables: by name, each with `run` and `label`.

    files: where a reader finds a table that is too large for the page, by its name. ninscope: the version that writes the page.
    """

    runs: Sequence[RunFacts]
    verdicts: Sequence[ModelVerdict]
    parts: Sequence[PagePart]
    tables: "Mapping[str, pd.DataFrame]"
    files: Mapping[str, str]
    ninscope: str

    @property
    def title(self) -> str:
        return ", ".join(run.name for run in self.runs)
