"""What the commands print: tables, progress bars and JSON. Results go to standard output, progress to standard error."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ninscope.auditing import COLUMNS
from ninscope.checkpoints.audit import Finding, verdict
from ninscope.checkpoints.traffic import Fetched
from ninscope.measuring import Measured
from ninscope_pipeline.plan import Task
from ninscope_pipeline.run import Prepared
from ninscope_pipeline.runs import open_run
from ninscope_pipeline.stages.outcome import Outcome
from ninscope_pipeline.summary import Progress as RunProgress
from ninscope_pipeline.summary import near, progress_of

_STAGE_TITLES = {
    "nin": "networks", "spectra": "spectra", "ranges": "ranges of parts", "parts": "parts", "exact": "exact spectra",
    "nulls": "null models", "finetune": "fine-tunes", "activations": "activations", "emergence": "emergence",
    "tables": "tables", "figures": "figures",
}  # fmt: skip
_OF_CHECKPOINTS = ("nin", "spectra", "ranges", "parts", "exact", "nulls", "finetune", "activations")


@contextmanager
def working(text: str, quiet: bool = False) -> Iterator[None]:
    """A spinner while something of unknown length is done."""
    with nullcontext() if quiet else Console(stderr=True).status(escape(text)):
        yield


@contextmanager
def counting(text: str, quiet: bool) -> Iterator:
    """Count finished checkpoints; yields the function to call at each."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.completed:.0f} checkpoints"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)
        yield lambda: bar.advance(task)


@contextmanager
def task_progress(name: str, tasks: Sequence[Task]) -> Iterator:
    """One bar over all tasks with counts and time left; yields done(stage, key, outcome)."""
    columns = (
        TextColumn(name),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[stages]}"),
        TextColumn("left:"),
        TimeRemainingColumn(compact=True),
    )
    total = Counter(task.stage for task in tasks)
    done_of: Counter[str] = Counter()

    def stages() -> str:
        return " ".join(
            f"{_STAGE_TITLES[stage]} {done_of[stage]}/{total[stage]}" for stage in _OF_CHECKPOINTS if stage in total
        )

    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=len(tasks), stages=stages())

        def done(stage: str, key: str, outcome: Outcome) -> None:
            done_of[stage] += 1
            bar.update(task, advance=1, stages=stages())

        yield done


def show_plan(prepared: Prepared, tasks: Sequence[Task], to_fetch: Mapping[str, int]) -> None:
    """Every task that would run, one a line, the bytes that each model's would fetch, then the counts."""
    for task in tasks:
        print(f"would run: {task.stage:9} {task.name}")
    for member, outcomes in zip(prepared.plan.inputs.members, prepared.plan.outcomes, strict=True):
        outcome = prepared.plan.inputs.standing(member, outcomes)
        if not outcome.ok:
            located = member.located
            print(f"not ok:    {located.suite}/{located.model} {located.revision}: {outcome.status}: {outcome.message}")
    at_fault = {(one.suite, one.model, one.revision) for one in prepared.located if not one.outcome.ok}
    for study in prepared.plan.asked_studies:
        located = study.located
        if not study.outcome.ok and (located.suite, located.model, located.revision) not in at_fault:
            print(f"not ok:    {study.name}: {study.outcome.status}: {study.outcome.message}")
    for model, size in to_fetch.items():
        print(f"would fetch: {decimal(size)} ({size} bytes) of weights for {model}")
    counted = Counter(task.stage for task in tasks)
    listed = ", ".join(f"{number} {_STAGE_TITLES[stage]}" for stage, number in counted.items()) or "nothing"
    print(
        f"{prepared.dag.name}: {len(prepared.located)} checkpoints located; would run {listed}, in {near(prepared.folder.root)}"
    )


def show_fetched(fetched: Fetched) -> None:
    """What came over the network, if anything did."""
    if fetched.requests:
        print(f"fetched {decimal(fetched.bytes)} ({fetched.bytes} bytes) in {fetched.requests} requests")


def show_progress(path: Path, progress: RunProgress) -> None:
    """The state of a run as a small table."""
    table = Table("stage", "done", "of", title=escape(str(path)))
    for stage, (done, total) in progress.stages.items():
        table.add_row(_STAGE_TITLES[stage], str(done), str(total))
    table.add_row("tables", "1" if progress.finished else "0", "1")
    _print_whole(table)
    state = "finished" if progress.finished else "not finished: run the same command again to go on"
    print(f"{path.name}: {state}; {len(progress.problems)} checkpoints not ok")


def done_so_far(prepared: Prepared) -> str:
    """ "networks 7 of 14, spectra 5 of 14 stored" """
    stages = progress_of(open_run(prepared.folder.root)).stages
    return ", ".join(f"{_STAGE_TITLES[stage]} {done} of {total}" for stage, (done, total) in stages.items()) + " stored"


def show_measured(source: str, rows: Sequence[Measured]) -> None:
    """One row a revision; what is missing is a dash."""
    table = Table(title=escape(source))
    for column, side in (
        ("revision", "left"),
        ("status", "left"),
        *((c, "right") for c in ("alpha0", "width", "E", "nodes", "edges")),
    ):
        table.add_column(column, justify=side, no_wrap=True)
    for row in rows:
        fields = measured_row(row)
        table.add_row(
            escape(row.revision),
            row.status,
            _with_spread(fields["alpha0"], fields["alpha0_std"]),
            _with_spread(fields["width"], fields["width_std"]),
            _number(fields["emergence"]),
            _number(fields["nodes"], ".0f"),
            _number(fields["edges"], ".0f"),
        )
    _print_whole(table)
    usable = [row for row in rows if row.spectrum is not None]
    notes = Counter(note for row in usable for note in (row.message, row.spectrum.warning) if note)
    for note, times in notes.items():
        print(f"{times} of {len(rows)} checkpoints: {note}")


def audit_json(found: Mapping[str, Sequence[Finding]], several: bool) -> str:
    """One JSON document; of several sources a list of what is printed of one. Absent values are null."""
    documents = [
        {
            "source": source,
            "rows": [{name: getattr(row, name) for name in COLUMNS} | {"message": row.message or None} for row in rows],
        }
        for source, rows in found.items()
    ]
    return json.dumps(documents if several else documents[0], indent=1, allow_nan=False)


def show_audit(source: str, rows: Sequence[Finding]) -> None:
    """One row a revision and one line that sums up."""
    table = Table(title=escape(source))
    for column, side in (("revision", "left"), ("step", "right"), ("status", "left"), ("bytes", "right")):
        table.add_column(column, justify=side, no_wrap=True)
    table.add_column("sha256", no_wrap=True)
    table.add_column("message")
    for row in rows:
        style = None if row.status == "ok" else "red"
        table.add_row(
            escape(row.revision),
            "-" if row.step is None else str(row.step),
            row.status,
            "-" if row.bytes is None else f"{row.bytes:,}",
            (row.content_sha256 or "-")[:12],
            escape(row.message),
            style=style,
        )
    _print_whole(table)
    print(f"{source}: {verdict(rows)}")


def bias_json(source: str, table: pd.DataFrame) -> str:
    """One JSON document: the rows of `ninscope.sampling_bias`; absent values are null."""
    rows = [
        {name: None if pd.isna(value) or value == "" else value for name, value in row.items()}
        for row in table.astype(object).to_dict("records")
    ]
    return json.dumps({"source": source, "rows": rows}, indent=1, allow_nan=False)


def show_bias(source: str, table: pd.DataFrame) -> None:
    """One row a number of neurons, the whole network last."""
    shown = Table(title=escape(f"{source} {table['revision'][0]}"))
    for column in ("neurons a layer", "nodes", "alpha0", "width", "E"):
        shown.add_column(column, justify="right", no_wrap=True)
    for row in json.loads(bias_json(source, table))["rows"]:
        shown.add_row(
            "all" if row["nodes_per_layer"] is None else str(row["nodes_per_layer"]),
            str(row["nodes"]),
            *(_with_spread(row[name], row[f"{name}_std"]) for name in ("alpha0", "width", "emergence")),
        )
    _print_whole(shown)
    for note in dict.fromkeys(note for note in table["message"] if note):
        print(note)


def _print_whole(table: Table) -> None:
    """Print a table as wide as it is: in a narrow window lines wrap, but no number is cut off."""
    console = Console()
    wanted = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    Console(width=max(wanted, 1), soft_wrap=True).print(table)


def measured_row(row: Measured) -> dict:
    """One row of `measure --json`; absent values are None."""
    spectrum = row.spectrum
    values = {
        name: _or_none(getattr(spectrum, name)) if spectrum is not None else None
        for name in ("alpha0", "alpha0_std", "width", "width_std")
    }
    return {
        "revision": row.revision,
        "step": row.step,
        "status": row.status,
        "message": row.message or None,
        "method": spectrum.method if spectrum is not None else None,
        **values,
        "emergence": _or_none(row.emergence),
        "nodes": spectrum.nodes if spectrum is not None else None,
        "edges": _or_none(spectrum.edges) if spectrum is not None else None,
    }


def measured_json(source: str, rows: Sequence[Measured]) -> str:
    return json.dumps({"source": source, "rows": [measured_row(row) for row in rows]}, indent=1, allow_nan=False)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)


def _with_spread(value: float | None, spread: float | None) -> str:
    return _number(value) + ("" if spread is None else f" ± {spread:.4f}")
