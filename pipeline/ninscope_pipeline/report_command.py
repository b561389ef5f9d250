"""What `ninscope report` does: opens runs, has the stages make their parts of the page, and writes one file."""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import ninscope
from ninscope.errors import RequestError
from ninscope.report.page.contents import Contents, RunFacts
from ninscope.report.page.document import page_html
from ninscope.report.page.parts import PageTables
from ninscope.report.page.verdict import verdicts
from ninscope.wording import of_number, outer_names
from ninscope_pipeline.display import Say
from ninscope_pipeline.opened_run import Run, open_run
from ninscope_pipeline.opened_runs import together
from ninscope_pipeline.output_files import appearing_whole, why_no_output
from ninscope_pipeline.request.toml_files import read_toml
from ninscope_pipeline.run_folders import name_of, run_path
from ninscope_pipeline.stages.checkpoint_measures import measured_on_page
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import named_in_errors
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.summary import near, progress_of
from ninscope_pipeline.tables import KEYS, all_tables, empty_table, missing_column

if TYPE_CHECKING:
    from ninscope.report.page.parts import PagePart

FILE = "report.html"

ModelKey = tuple[str, str, str]  # run, suite, model
StoredTables = Mapping[str, pd.DataFrame]  # by name


def write_report(runs: Sequence[str], out: Path | None, figures: Path | None, say: Say) -> int:
    """Write the page of one or several runs; returns the exit code. say: prints a line that is not a result.

    out: the page's file (default: report.html in the run's folder, of several runs in the working folder). figures: folder for
    every chart as an SVG file. Raises RequestError: no such run, one without tables, a folder that cannot be written.
    """
    opened = [open_run(path) for path in dict.fromkeys(run_path(run) for run in runs)]
    file = out if out is not None else (opened[0].path if len(opened) == 1 else Path()) / FILE
    if why_no_output(file) == "is a folder":
        raise RequestError(f"{file}: is a folder; give --out the name of a file, as in {file / FILE}")
    _check_outside(file, opened)
    contents = contents_of(opened)
    page = page_html(contents)
    _write(file, page.content, "--out")
    print(f"{near(file)}: {page.charts} charts, {len(page.tables)} tables, {len(page.content) / 1e6:.1f} MB")
    for name in page.left_out:
        say(f"table {name} is too large for the page, which names its file instead: {contents.files[name]}")
    if figures is not None:
        from ninscope.report.page.svg_files import chart_svgs

        drawings = chart_svgs(contents.parts)
        for name, content in drawings.items():
            _write(figures / f"{name}.svg", content, "--figures")
        print(f"{near(figures)}: {len(drawings)} SVG files")
    return 0


def _check_outside(file: Path, runs: Sequence[Run]) -> None:
    """Raises RequestError where the page would replace what a run's folder holds."""
    whole = Path(os.path.realpath(file.expanduser()))
    inside = any(whole.is_relative_to(os.path.realpath(run.path)) for run in runs)
    if inside and whole.suffix.lower() not in (".html", ".htm"):
        raise RequestError(f"{file}: lies in the run's folder and is no .html; give --out another file")


def _write(file: Path, content: bytes, option: str) -> None:
    """Write a file, and the folders that it needs. Raises RequestError, which names the option that chooses another."""
    file, advice = file.expanduser(), f"choose another place with {option}"
    if reason := why_no_output(file):
        raise RequestError(f"{file}: {reason}; {advice}")
    with appearing_whole(file, advice) as partial:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)


def contents_of(runs: Sequence[Run]) -> Contents:
    """What the page of these runs says. Raises RequestError: a run without tables, or with damaged ones."""
    names = _run_names(runs)
    stored = [_stored_tables(run) for run in runs]
    facts = [_facts(run, name, rows) for run, name, rows in zip(runs, names, stored, strict=True)]
    trainings = {name for run, name in zip(runs, names, strict=True) if run.training is not None}
    tables = _page_tables(dict(zip(names, stored, strict=True)), trainings)
    del stored  # a copy of what the page holds by now
    parts: list[PagePart] = []
    for stage in stages().values():
        with named_in_errors(f"the part of the page of the stage {stage.name}"):
            parts += stage.page(tables)
    files = {
        name: ", ".join(str(near(run.path / "tables" / f"{name}.parquet")) for run in runs if name in run.tables)
        for name in tables.tables
    }
    return Contents(facts, verdicts(tables), parts, tables.tables, files, ninscope.__version__)


def _run_names(runs: Sequence[Run]) -> list[str]:
    """The folders' names, or their paths as they were typed where two have one name."""
    names = [name_of(run.path) for run in runs]
    return [name if names.count(name) == 1 else str(run.path) for run, name in zip(runs, names, strict=True)]


def _stored_tables(run: Run) -> StoredTables:
    """Every table that lies in the run's folder. Raises RequestError: none does, or one is damaged."""
    if "checkpoints" not in run.tables:
        raise RequestError(
            f"{run.path}: no tables yet: {_progress(run)}; repeat the `ninscope run` command, or wait until it has ended"
        )
    with RunFolder(run.path).unchanging("tables"):  # those of one set
        return {name: _each_text_once(run.table(name)) for name in run.tables}


def _each_text_once(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows, in which equal texts are one object: of a million rows Python would hold every name a million times."""
    for column in rows.columns:
        if isinstance(rows[column].dtype, pd.StringDtype):
            which, texts = pd.factorize(rows[column], use_na_sentinel=False)
            rows[column] = texts.take(which)
    return rows


# --- what is known of each run -----------------------------------------------------------------------------------------
def _facts(run: Run, name: str, stored: StoredTables) -> RunFacts:
    folder = RunFolder(run.path)
    try:
        text = folder.run_file.read_text(encoding="utf-8")
        versions = read_toml(folder.run_file).get("versions", {})
    except (OSError, ValueError):  # so is RequestError
        text, versions = "", {}
    known = {str(key): str(value) for key, value in versions.items()} if isinstance(versions, dict) else {}
    return RunFacts(name, (*_unfinished(run), *_older(stored, known.get("ninscope", ""))), text, known)


def _unfinished(run: Run) -> list[str]:
    """A sentence where the run has not finished."""
    training = run.training
    if training is not None and training.at_work:
        return [
            f"The training goes on: what follows is of {of_number(training.tabled, 'step')}. Make this page again for more."
        ]
    if run.finished:
        return []
    return [
        f"This run has not finished: {_progress(run)}. What follows is from tables that were written before; "
        "make this page again when the run has ended."
    ]


def _progress(run: Run) -> str:
    """How far a run is, one clause."""
    counts = progress_of(run).stages
    there, planned = (sum(count[side] for count in counts.values()) for side in (0, 1))
    if not planned:
        return "no result is stored"
    left = [f"{stages()[stage].title} {done:,} of {total:,}" for stage, (done, total) in counts.items() if done < total]
    detail = f" ({', '.join(left)})" if left else ""
    return f"{there:,} of {planned:,} results are stored{detail}"


def _older(stored: StoredTables, version: str) -> list[str]:
    """A sentence where the run lacks tables or columns that this version writes."""
    tables = [name for name in all_tables() if name not in stored]
    columns = [
        f"{outer_names(lacking)} of {name}"
        for name, table in all_tables().items()
        if name in stored and (lacking := [column for column in table.columns if column not in stored[name].columns])
    ]
    if not tables and not columns:
        return []
    which = f" ({version})" if version and version != ninscope.__version__ else ""
    lacks = [f"the {'table' if len(tables) == 1 else 'tables'} {', '.join(tables)}"] if tables else []
    lacks += [f"the columns {', '.join(columns)}"] if columns else []
    return [
        f"This run was made by an older ninscope{which}. It lacks {'; '.join(lacks)}. For what is drawn from them, delete its "
        "folder tables and run it again: its results stay, and its tables are made anew."
    ]


# --- tables side by side -----------------------------------------------------------------------------------------------
def _page_tables(stored: Mapping[str, StoredTables], trainings: Collection[str]) -> PageTables:
    """stored: tables by run. trainings: the runs that were measured while a model trained."""
    known = [*all_tables(), *sorted({table for tables in stored.values() for table in tables} - set(all_tables()))]
    by_run = {run: {table: _table_of(tables, table) for table in known} for run, tables in stored.items()}
    labels = model_labels(by_run)
    tables = {
        table: together({run: _labelled(rows[table], run, labels) for run, rows in by_run.items()}) for table in known
    }
    in_training = [label for (run, _, _), label in labels.items() if run in trainings]
    return PageTables(tables, list(labels.values()), partial(measured_on_page, list(stages().values())), in_training)


def _table_of(stored: StoredTables, name: str) -> pd.DataFrame:
    """A table of a run with every column that it has by now: what an older run lacks is missing in each row."""
    if name not in all_tables():
        return stored.get(name, pd.DataFrame(columns=list(KEYS)))
    if name not in stored:
        return empty_table(name)
    rows, columns = stored[name].copy(deep=False), KEYS | dict(all_tables()[name].columns)
    for column in [column for column in columns if column not in rows]:
        rows[column] = missing_column(rows.index, columns[column])
    return rows[[*columns, *(column for column in rows if column not in columns)]]


def model_labels(by_run: Mapping[str, Mapping[str, pd.DataFrame]]) -> dict[ModelKey, str]:
    """What the page calls each model: its name, with its suite, its run or both where two models have one of that name."""
    models: list[ModelKey] = []
    for run, tables in by_run.items():
        pairs = tables["checkpoints"][["suite", "model"]].drop_duplicates()
        models += [(run, str(suite), str(model)) for suite, model in pairs.itertuples(index=False)]
    forms = [
        {key: key[2] for key in models},
        {key: f"{key[1]}/{key[2]}" for key in models},
        {key: f"{key[2]} ({key[0]})" for key in models},
        {key: f"{key[1]}/{key[2]} ({key[0]})" for key in models},
    ]
    counts = [Counter(form.values()) for form in forms]
    return {
        key: next(
            (form[key] for form, count in zip(forms, counts, strict=True) if count[form[key]] == 1), forms[-1][key]
        )
        for key in models
    }


def _labelled(rows: pd.DataFrame, run: str, labels: Mapping[ModelKey, str]) -> pd.DataFrame:
    """The rows with the column `label`, first."""
    pairs = rows[["suite", "model"]].drop_duplicates()
    label = [labels.get((run, str(suite), str(model)), str(model)) for suite, model in pairs.itertuples(index=False)]
    number = rows.groupby(["suite", "model"], sort=False, dropna=False).ngroup().to_numpy()  # of its pair
    labelled = rows.reset_index(drop=True)
    labelled.insert(0, "label", pd.Series(label, dtype="string").take(number).reset_index(drop=True))
    return labelled
