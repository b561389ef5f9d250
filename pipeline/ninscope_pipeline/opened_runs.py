"""Several runs side by side, for Python: each table with a column that says of which run a row is."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ninscope.checks import did_you_mean
from ninscope.errors import RequestError
from ninscope.report.analysis_rows import of_analysis
from ninscope.shown import Shown
from ninscope_pipeline.opened_run import Run, open_run
from ninscope_pipeline.run_folders import name_of
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.tables import missing_column

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Runs(Shown):
    """Runs by name, in the order in which they were given; `runs["demo"]` is one of them."""

    def __init__(self, runs: Mapping[str, Run]):
        self._runs = dict(runs)

    def facts(self) -> dict[str, object]:
        """What a terminal or a notebook shows of it."""
        return {"runs": ", ".join(self._runs), "tables": ", ".join(self.tables) or "none"}

    @property
    def names(self) -> list[str]:
        """Names of the runs."""
        return list(self._runs)

    def __getitem__(self, name: str) -> Run:
        if name not in self._runs:
            raise RequestError(f"no run {name!r}{did_you_mean(name, self._runs)}; there are {', '.join(self._runs)}")
        return self._runs[name]

    @property
    def tables(self) -> list[str]:
        """Names of the tables that at least one of the runs has."""
        return sorted({name for run in self._runs.values() for name in run.tables})

    def table(self, name: str) -> pd.DataFrame:
        """A table of all runs that have it, with the column `run` first. Raises RequestError when none has it."""
        if name not in self.tables:
            known = ", ".join(self.tables) or "none yet, since no run has finished"
            raise RequestError(
                f"{', '.join(self._runs)}: no table {name!r}{did_you_mean(name, self.tables)}; their tables: {known}"
            )
        return together({run: opened.table(name) for run, opened in self._runs.items() if name in opened.tables})

    def query(self, sql: str) -> pd.DataFrame:
        """The answer to one SELECT, as `Run.query`; every table has the rows of all runs, and the column `run` first."""
        from ninscope_pipeline.querying import query_over

        folders = {name: RunFolder(run.path) for name, run in self._runs.items()}
        with query_over(folders, sql, named=True) as query:
            return query.frame()

    def plot(self, ax: "Axes | None" = None, value: str = "emergence", model: str | None = None) -> "Axes":
        """Draw a value against the step, a line a run, model and method. Arguments as of `Run.plot`. Raises RequestError."""
        from ninscope.report.plots import plot_benchmark, plot_rows

        rows = self.table("benchmarks" if "/" in value else "emergence")
        if model is not None:
            known = rows["model"].unique().tolist()
            if model not in known:
                raise RequestError(f"no model {model!r}{did_you_mean(model, known)}; their models: {', '.join(known)}")
            rows = rows[rows["model"] == model]
        rows = rows.assign(model=rows["run"] + ": " + rows["model"])
        title = ", ".join(self._runs)
        return (
            plot_benchmark(rows, ax, value, title) if "/" in value else plot_rows(of_analysis(rows), ax, value, title)
        )


def open_runs(paths: Mapping[str, str | Path] | Iterable[str | Path]) -> Runs:
    """Runs side by side: `open_runs(["runs/first", "runs/second"])`.

    paths: run folders, which are called by their folders' names; or folders by names of yours. Raises RequestError: no folder, two
    of one name, one that holds no run.
    """
    if isinstance(paths, str | Path):
        raise RequestError(f"{paths}: open_runs takes a list of run folders; for one run there is ninscope.open_run")
    named = list(paths.items()) if isinstance(paths, Mapping) else [(name_of(Path(path)), path) for path in paths]
    if not named:
        raise RequestError("open_runs was given no run folder; give those of the runs that you want side by side")
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(
            f"two runs are called {twice!r}; give them names: open_runs({{'first': ..., 'second': ...}})"
        )
    return Runs({name: open_run(path) for name, path in named})


def together(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A table of several runs, by their names, below each other, with the column `run` first.

    Columns that an older run lacks are missing in its rows. A table of one run is not copied.
    """
    types = {column: dtype for table in tables.values() for column, dtype in table.dtypes.items()}
    frames = []
    for name, table in tables.items():
        rows = table.reset_index(drop=True)
        for column in [column for column in types if column not in rows]:
            rows[column] = missing_column(rows.index, types[column])
        rows = rows if list(rows) == list(types) else rows[list(types)]  # which copies
        rows.insert(0, "run", pd.Series([name], dtype="string").repeat(len(rows)).reset_index(drop=True))
        frames.append(rows)
    filled = [rows for rows in frames if len(rows)] or frames[:1]
    return filled[0] if len(filled) == 1 else pd.concat(filled, ignore_index=True)
