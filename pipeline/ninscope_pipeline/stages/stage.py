"""What a stage is: one object in one file that says everything about one kind of result.

It names its section of the DAG file, makes jobs of what was asked, does their work, and turns stored results into tables and
figures. The plan, the graph, status, dry run, forecast of bytes, tables, figures and clearing walk `registry.stages()` and know no
stage by name. Rejected: decorated functions (a stage has too many sides for one function) and one class per side (what changes
together would stand apart).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ninscope.errors import NinscopeError
from ninscope_pipeline.located import Located
from ninscope_pipeline.outcome import Outcome
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ninscope.report.page.parts import PagePart, PageTables
    from ninscope_pipeline.figures import FigureTables
    from ninscope_pipeline.opened_run import Run
    from ninscope_pipeline.plan import Request
    from ninscope_pipeline.request.dagfile import Dag
    from ninscope_pipeline.results import Results

W = TypeVar("W")

JobId = tuple[str, str]  # a stage's name and a content key
ModelName = tuple[str, str]  # suite, model

Row = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """A stage's section of the DAG file.

    key: its name there. type: what pydantic checks it by (a Strict model, `Model | None`, or `list[Model]`). default: where the
    file has none. with_paths: takes the raw value and the DAG file's folder, and makes relative paths absolute.
    """

    key: str
    type: Any
    default: Any
    with_paths: Callable[[Any, Path], Any] = lambda value, folder: value


@dataclass(frozen=True)
class Measures:
    """Columns of a table that say one number of a checkpoint, so that they can be followed over training beside accuracy.

    columns: the table's column by the measure's name, which no other table has. where: only rows that hold these values count.
    by: columns that tell apart what a checkpoint has several of; their values end the name ("coupling/qk"). chosen: takes the rows
    that are left and gives those that count, where columns alone do not tell. Of these rows of a checkpoint the mean is taken. A
    table with columns `method` and `variant` has a series for each. endings: which values `by` may have, where they are known.
    """

    columns: Mapping[str, str]
    where: Mapping[str, object] = field(default_factory=dict)
    by: tuple[str, ...] = ()
    chosen: "Callable[[pd.DataFrame], pd.DataFrame] | None" = None
    endings: "Callable[[], Iterable[str]] | None" = None


@dataclass(frozen=True)
class Table:
    """A table that a stage fills.

    columns: pandas types by column, after the key columns suite, model, revision, step. rows: makes them from the stored results;
    a row holds the key columns too, and what it leaves out is missing. It may also return a DataFrame. measures: which columns
    measure a checkpoint. from_others: it is computed from other tables, so it is made last, after those of installed packages.
    """

    name: str
    columns: Mapping[str, str]
    rows: "Callable[[Results], Iterable[Row] | pd.DataFrame]"
    measures: tuple[Measures, ...] = ()
    from_others: bool = False


@dataclass(frozen=True)
class Job(Generic[W]):
    """One artefact that is asked for: where it will be stored, and what it is made from.

    stage, key: where. key is empty where it is known that nothing can be made; `known` then says why. label: what a user reads.
    work: what the stage needs to make it; small, and it can be pickled. needs: jobs whose artefacts it reads; if one fails, so
    does this. checkpoint: whose weights it is made from, if it is one checkpoint. name: what the checkpoint's tables call it
    ("exact", "transfer-coth sampled", "nulls"). listed_as: what plan.json calls its key among those of the checkpoint, where it
    has no such name. requested: False for a job that runs only where another one needs it (a part of an analysis). known: its
    outcome as far as it is known before it runs.
    """

    stage: str
    key: str
    label: str
    work: W
    needs: tuple[JobId, ...] = ()
    checkpoint: Located | None = None
    name: str = ""
    listed_as: str = ""
    requested: bool = True
    known: Outcome = field(default=Outcome())

    @property
    def id(self) -> JobId:
        return self.stage, self.key


@dataclass(frozen=True)
class Fetch:
    """Bytes that a job fetches from a Hub. shared_as: jobs with the same one fetch them once between them. beside: what else it
    fetches."""

    bytes: int
    shared_as: Hashable = None
    beside: "tuple[Fetch, ...]" = ()


@contextmanager
def named_in_errors(what: str) -> Iterator[None]:
    """An error that nobody foresaw says what failed: a stage may be a stranger's. what: as in "the figures of the stage norms"."""
    try:
        yield
    except NinscopeError:
        raise
    except Exception as error:
        error.add_note(f"raised by {what}")
        raise


def failed_rows(run: "Run", table: str, what: str) -> list[str]:
    """A line for every checkpoint of which a table says that it failed; of a table of matrices, the row "all" says it.

    Empty for a run from before there was this table. what: what failed, as the lines call it.
    """
    if table not in run.tables:
        return []
    rows = run.table(table)
    failed = rows[rows["status"] != "ok"]
    whole = failed[failed["matrix"] == "all"] if "matrix" in failed else failed
    told = whole[["suite", "model", "revision", "message"]].itertuples(index=False, name=None)
    return [f"{suite}/{model} {revision} {what}: {message}" for suite, model, revision, message in told]


class Stage(ABC, Generic[W]):
    """One kind of result. Override what differs.

    name: of its folder in the store. title: what a user reads ("exact spectra"). version: part of every content key; raise it when
    the same input gives another result. judges_checkpoints: whether a failure of its jobs is the checkpoint's own, and so is told
    by the table `checkpoints`. follows_outcomes: its jobs are made again once it is known what became of the other stages' jobs.
    runs_models: its work is not numba's, so it has a process of its own where others share one. keeps: the name of a second folder
    of the store, with what later jobs can use of what earlier ones have made.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int]
    section: ClassVar[Section | None] = None
    judges_checkpoints: ClassVar[bool] = False
    follows_outcomes: ClassVar[bool] = False
    runs_models: ClassVar[bool] = False
    keeps: ClassVar[str] = ""
    tables: ClassVar[tuple[Table, ...]] = ()

    def check(self, dag: "Dag") -> None:
        """Raises ValueError where this stage's section and the rest of the DAG file contradict each other."""

    def own_models(self, dag: "Dag") -> Iterable[ModelName]:
        """(suite, model) of every model that this stage makes itself: a DAG file with some needs no [[models]] and no [[suites]].

        What it makes is no checkpoint of the run: the stage's own tables tell of it, the first of them above all.
        """
        return ()

    def needs_matrices(self, dag: "Dag") -> bool:
        """Whether this stage reads what the exact analysis of [analysis] gathers of every matrix, which is kept only then."""
        return False

    def needs_weights(self, dag: "Dag") -> bool:
        """Whether this stage reads the statistics of every matrix that the stage `weights` makes, which does so only then."""
        return False

    def asked_of_tables(self, dag: "Dag") -> Mapping[str, object]:
        """What of this stage's section the tables look at and no key of its jobs holds; empty where it is as by default."""
        return {}

    @abstractmethod
    def jobs(self, request: "Request") -> Iterable[Job[W]]:
        """What was asked of this stage, in the order of the tables. Raises RequestError."""

    @abstractmethod
    def make(self, store: ArtefactStore, job: Job[W]) -> Artefact:
        """The work of one job. Raises CheckpointError (nonfinite is stored, and not tried again), RequestError, StoreError."""

    def check_unchanged(self, store: ArtefactStore, job: Job[W]) -> None:
        """Raises where what the job was planned for has changed meanwhile; called before anything is stored."""

    def is_superseded(self, store: ArtefactStore, job: Job[W]) -> bool:
        """Whether the job has become useless since it was planned."""
        return False

    def made(self, store: ArtefactStore, job: Job[W]) -> None:
        """Called after the artefact is stored."""

    def need_failed(self, store: ArtefactStore, job: Job[W], failure: Outcome) -> None:
        """Called where a job that this one needs has failed."""

    def kept_keys(self, job: Job[W]) -> Iterable[str]:
        """Keys in the folder `keeps` that the job's artefact is put together from, which `ninscope clean` leaves."""
        return ()

    def fetch(self, job: Job[W]) -> Fetch | None:
        """What the job fetches from a Hub, if anything. It may read headers. Raises CheckpointError, RequestError."""
        return None

    def figures(self, tables: "FigureTables") -> "Iterator[tuple[str, Figure]]":
        """(file name, figure) of everything that this stage draws."""
        yield from ()

    def page(self, tables: "PageTables") -> "Iterable[PagePart]":
        """The parts of report.html that this stage draws; a stage that has no rows there gives none."""
        return ()

    def problems(self, run: "Run") -> list[str]:
        """A line for everything of a finished run that failed and that the table `checkpoints` does not tell.

        Where a stage has none, the run says what failed in it, and `ninscope status` does not.
        """
        return []

    def summary(self, run: "Run") -> list[str]:
        """Lines at the end of a run on what came out, where that can be said in a few words."""
        return []

    def clear(self, store: ArtefactStore, jobs: Sequence[Job[W]], alone: bool) -> None:
        """Delete what is of no more use after a run.

        jobs: this stage's, of the run, without those of checkpoints that were known to be at fault before it began. alone: no
        other run is at work there.
        """
