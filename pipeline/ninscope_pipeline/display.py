"""What the commands print: tables, progress bars and JSON. Results go to standard output, progress to standard error."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from ninscope.auditing import COLUMNS
from ninscope.checkpoints.audit import Finding, verdict
from ninscope.checkpoints.hub.traffic import Fetched
from ninscope.comparison import Comparison
from ninscope.errors import RequestError
from ninscope.measured_rows import Measured
from ninscope.progress import counting
from ninscope.report import FORMATS
from ninscope.wording import of_number, outer_names, with_own_models
from ninscope_pipeline.wide_tables import print_whole

if TYPE_CHECKING:  # a second of imports, which `ninscope measure` and `ninscope audit` do without
    import pandas as pd
    from matplotlib.figure import Figure

    from ninscope_pipeline.outcome import Outcome
    from ninscope_pipeline.prepared_run import PreparedRun
    from ninscope_pipeline.run_folders import RunState
    from ninscope_pipeline.stages.stage import JobId
    from ninscope_pipeline.summary import Progress as RunProgress

Say = Callable[[str], None]  # prints a line that is not a result
Side = Literal["left", "right"]  # to which the entries of a column are moved


def _title(stage: str) -> str:
    """What a user reads for a stage; tables and figures are the run's own."""
    from ninscope_pipeline.stages.registry import stages

    return stages()[stage].title if stage in stages() else stage


@contextmanager
def working(text: str, quiet: bool = False) -> Iterator[None]:
    """A spinner while something of unknown length is done."""
    with nullcontext() if quiet else Console(stderr=True).status(escape(text)):
        yield


def shows_progress(quiet: bool) -> bool:
    """Whether a command that is done in seconds or minutes shows a bar: in a terminal; a log would only fill with lines."""
    return not quiet and Console(stderr=True).is_terminal


@contextmanager
def job_progress(name: str, planned: Sequence[str]) -> "Iterator[Callable[[JobId, Outcome], None]]":
    """One bar over all jobs with counts and time left; yields done(job, outcome). planned: the stage of every job."""
    from ninscope_pipeline.stages.registry import stages

    total, done_of = Counter(planned), Counter[str]()
    shown = [stage for stage in stages() if stage in total and not stages()[stage].follows_outcomes]

    def counts() -> str:
        return " ".join(f"{_title(stage)} {done_of[stage]}/{total[stage]}" for stage in shown)

    with counting(name, len(planned)) as progress:

        def done(job: "JobId", outcome: "Outcome") -> None:
            done_of[job[0]] += 1
            progress.advance(counts())

        yield done


def show_plan(prepared: "PreparedRun", listed: Sequence[tuple[str, str]], to_fetch: Mapping[str, int]) -> None:
    """Every job that would run, one a line, the bytes that each model's would fetch, then the counts."""
    from ninscope_pipeline.results import checkpoint_results
    from ninscope_pipeline.stages.registry import stages
    from ninscope_pipeline.summary import near

    for stage_name, label in listed:
        print(f"would run: {stage_name:9} {label}")
    request = prepared.plan.request
    for checkpoint in checkpoint_results(request):
        standing = checkpoint.standing(request.dag.emergence.trust_duplicates)
        if not standing.ok:
            located = checkpoint.located
            print(
                f"not ok:    {located.suite}/{located.model} {located.revision}: {standing.status}: {standing.message}"
            )
    at_fault = {located.id for located in prepared.located if not located.outcome.ok}
    for name, stage in stages().items():
        for job in () if stage.judges_checkpoints or stage.follows_outcomes else request.jobs_of(name):
            outcome = request.outcome(job)
            fault_is_told = bool(job.name) or (job.checkpoint is not None and job.checkpoint.id in at_fault)
            if not outcome.ok and not fault_is_told:
                print(f"not ok:    {job.label}: {outcome.status}: {outcome.message}")
    if prepared.replaces:
        print(f"would replace: {prepared.replaces}; without --replace the run is refused")
    for model, size in to_fetch.items():
        print(f"would fetch: {decimal(size)} ({size} bytes) of weights for {model}")
    summed = _summed(stage for stage, _ in listed)
    about = _about(len(prepared.located), len(at_fault), len(prepared.dag.own_models()))
    print(f"{prepared.dag.name}: {about}; would run {summed}, in {near(prepared.folder.root)}")


def _about(checkpoints: int, at_fault: int, own_models: int) -> str:
    """What a run is about, one clause."""
    found = (f"{checkpoints - at_fault} of " if at_fault else "") + of_number(checkpoints, "checkpoint")
    return with_own_models(f"{found} located", checkpoints, own_models)


def _summed(listed: Iterable[str]) -> str:
    """How often each stage is listed; tables and figures are one job, whatever their number."""
    from ninscope_pipeline.stages.registry import stages

    counted = Counter(listed)
    return (
        ", ".join(f"{_title(stage)} ({number})" if stage in stages() else stage for stage, number in counted.items())
        or "nothing"
    )


def show_fetched(fetched: Fetched) -> None:
    """What came over the network, if anything did."""
    if fetched.requests:
        print(f"fetched {decimal(fetched.bytes)} ({fetched.bytes} bytes) in {of_number(fetched.requests, 'request')}")


def show_progress(path: Path, progress: "RunProgress") -> None:
    """The state of a run as a small table."""
    from ninscope_pipeline.run_folders import name_of

    table = Table("stage", "done", "of", title=escape(str(path)))
    for stage, (done, total) in progress.stages.items():
        table.add_row(_title(stage), str(done), str(total))
    table.add_row("tables", "1" if progress.finished else "0", "1")
    print_whole(table)
    again = "only the training could measure those steps" if progress.training else "run the same command again"
    state = progress.training or ("finished" if progress.finished else f"not finished; {again} to continue")
    absent = sum(total - done for done, total in progress.stages.values())
    if progress.finished and absent:
        verb = "is" if absent == 1 else "are"
        state += f", but {of_number(absent, 'stored result')} of its plan {verb} not there; {again}"
    bad = f"{of_number(len(progress.problems), 'checkpoint')} not ok"
    print(f"{name_of(path)}: {state}; {with_own_models(bad, progress.checkpoints, progress.own_models)}")


def show_runs(folder: Path, runs: "Sequence[RunState]") -> None:
    """One row a run."""
    table = Table(title=escape(str(folder)))
    _add_columns(table, "left", "run", "state")
    makes_own = any(run.own_models for run in runs)
    _add_columns(table, "right", "checkpoints", *(["own models"] if makes_own else []), "size", "last asked")
    for run in runs:
        counts = [str(run.checkpoints), *([str(run.own_models)] if makes_own else [])]
        changed = f"{run.changed:%Y-%m-%d %H:%M}"
        table.add_row(escape(run.name), run.state, *counts, decimal(run.bytes), changed)
    print_whole(table)


def show_cleaned(path: Path, removed: "Mapping[JobId, int]", dry_run: bool) -> None:
    """How much was removed, by stage."""
    verb = "would remove" if dry_run else "removed"
    print(f"{path}: {verb} {_summed(stage for stage, _ in removed)}; {decimal(sum(removed.values()))}")


def done_so_far(prepared: "PreparedRun") -> str:
    """ "networks 7 of 14, spectra 5 of 14 stored" """
    from ninscope_pipeline.opened_run import open_run
    from ninscope_pipeline.summary import progress_of

    stages = progress_of(open_run(prepared.folder.root)).stages
    return ", ".join(f"{_title(stage)} {done} of {total}" for stage, (done, total) in stages.items()) + " stored"


def show_measured(source: str, rows: Sequence[Measured]) -> None:
    """One row a revision; what is missing is a dash. Below, what is to be known of rows, each thing once with their names."""
    table = Table(title=escape(source))
    with_parts = any(row.parts for row in rows)
    _add_columns(table, "left", "revision", *(["part"] if with_parts else []), "status")
    _add_columns(table, "right", "alpha0", "width", "E", "nodes", "edges")
    notes = _notes(rows)
    if notes:
        _add_columns(table, "left", "notes")
    for row in rows:
        for part, shown in {"all": row, **row.parts}.items():
            fields = measured_values(shown)
            table.add_row(
                escape(row.revision),
                *([escape(part)] if with_parts else []),
                row.status,
                _with_spread(fields["alpha0"], fields["alpha0_std"]),
                _with_spread(fields["width"], fields["width_std"]),
                _number(fields["emergence"]),
                _number(fields["nodes"], ".0f"),
                _number(fields["edges"], ".0f"),
                *([_numbers_of(shown, notes)] if notes else []),
            )
    print_whole(table)
    for number, (note, names) in enumerate(notes.items(), 1):
        of_rows = f" ({len(names)} rows)" if len(names) > 4 else ""
        print(f"[{number}] {outer_names(names)}{of_rows}: {note}")


def _notes(rows: Sequence[Measured]) -> dict[str, list[str]]:
    """The revisions that a note concerns, by the note: messages of those that were measured, and warnings."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        for part, shown in {"": row, **row.parts}.items():
            for note in _notes_of(shown):
                notes.setdefault(note, []).append(f"{row.revision} {part}".rstrip())
    return notes


def _notes_of(row: Measured) -> list[str]:
    warning = f"warning: {row.warning}" if row.warning else ""
    return [note for note in (row.message, warning) if note] if row.spectrum is not None else []


def _numbers_of(row: Measured, notes: Mapping[str, object]) -> str:
    own = _notes_of(row)
    return ", ".join(str(number) for number, note in enumerate(notes, 1) if note in own)


def audit_json(findings: Mapping[str, Sequence[Finding]], several: bool) -> str:
    """One JSON document; of several sources a list of what is printed of one. Absent values are null."""
    documents = [
        {
            "source": source,
            "rows": [{name: getattr(row, name) for name in COLUMNS} | {"message": row.message or None} for row in rows],
        }
        for source, rows in findings.items()
    ]
    return json.dumps(documents if several else documents[0], indent=1, allow_nan=False)


def show_audit(source: str, rows: Sequence[Finding]) -> None:
    """One row a revision and one line that sums up."""
    table = Table(title=escape(source))
    sides: tuple[tuple[str, Side], ...] = (
        ("revision", "left"), ("step", "right"), ("status", "left"), ("bytes", "right"), ("sha256", "left"),
    )  # fmt: skip
    for column, side in sides:
        _add_columns(table, side, column)
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
    print_whole(table)
    print(f"{source}: {verdict(rows)}")


def bias_json(source: str, table: "pd.DataFrame") -> str:
    """One JSON document: the rows of `ninscope.sampling_bias`; absent values are null."""
    import pandas as pd

    rows = [
        {name: None if pd.isna(value) or value == "" else value for name, value in row.items()}
        for row in table.astype(object).to_dict("records")
    ]
    return json.dumps({"source": source, "rows": rows}, indent=1, allow_nan=False)


def show_bias(source: str, table: "pd.DataFrame") -> None:
    """One row a number of neurons, the whole network last."""
    import pandas as pd

    shown = Table(title=escape(f"{source} {table['revision'][0]}"))
    _add_columns(shown, "right", "neurons per layer", "nodes", "alpha0", "width", "E")
    for row in json.loads(bias_json(source, table))["rows"]:
        shown.add_row(
            "all" if row["nodes_per_layer"] is None else str(row["nodes_per_layer"]),
            str(row["nodes"]),
            *(_with_spread(row[name], row[f"{name}_std"]) for name in ("alpha0", "width", "emergence")),
        )
    print_whole(shown)
    for note in dict.fromkeys(note for note in table["message"] if note):
        print(note)
    for warning, rows in table[table["warning"] != ""].groupby("warning", sort=False):
        sizes = ["all" if pd.isna(size) else str(size) for size in rows["nodes_per_layer"]]
        print(f"warning: {', '.join(sizes)} neurons per layer: {warning}")


MOST_DETAILS = 10  # rows of details that a terminal shows


def show_comparison(comparison: Comparison) -> None:
    """The words, then what differs, one row each, then the first details."""
    print(f"A: {comparison.a}\nB: {comparison.b}")
    for text in comparison.words:
        print(text)
    if comparison.same:
        return
    differing = [value for value in comparison.values if value.differs]
    if differing:
        table = Table(title="what differs")
        _add_columns(table, "left", "topic", "name")
        _add_columns(table, "right", "A", "B", "difference")
        for value in differing:
            cells = (_cell(entry) for entry in (value.a, value.b, value.difference))
            table.add_row(value.topic, escape(value.name), *cells)
        print_whole(table)
    # Of runs, columns that are alike are many.
    details = [row for row in comparison.detail_rows if row.get("differing", 1)]
    if details:
        columns = [name for name in comparison.detail_columns if any(row[name] != "" for row in details)]
        table = Table(title="details")
        for column in columns:
            _add_columns(table, "left" if isinstance(details[0][column], str) else "right", column.replace("_", " "))
        for row in details[:MOST_DETAILS]:
            table.add_row(*(_cell(row[column]) for column in columns))
        print_whole(table)
        if len(details) > MOST_DETAILS:
            print(f"details: {MOST_DETAILS} of {len(details)} rows; --json has all")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return _number(_or_none(value), ".4g")
    text = "-" if value is None else f"{value:,}" if type(value) is int else str(value)
    return escape(text if len(text) <= 44 else f"{text[:20]} ... {text[-20:]}")


def _add_columns(table: Table, side: Side, *names: str) -> None:
    for name in names:
        table.add_column(name, justify=side, no_wrap=True)


def measured_values(row: Measured) -> dict[str, Any]:
    """The values of one row of `measure`, by the names of --json; absent values are None."""
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
        "warning": row.warning or None,
        "baseline": row.baseline or None,
    }


def measured_document(source: str, rows: Sequence[Measured]) -> dict[str, Any]:
    """What `measure --json` prints of one source; rows have parts where parts were asked for."""
    listed_rows = []
    for row in rows:
        parts = [{"part": name, **measured_values(part)} for name, part in row.parts.items()]
        listed_rows.append(measured_values(row) | ({"parts": parts} if parts else {}))
    return {"source": source, "rows": listed_rows}


def check_figure_file(path: Path) -> None:
    """Before hours of work, and leaving nothing behind. Raises RequestError."""
    if path.suffix.lower()[1:] not in FORMATS and not path.is_dir():
        raise RequestError(
            f"{path}: the figure is a PNG, SVG or PDF; give --figure a file name that ends in .png, .svg or .pdf"
        )
    existed = path.exists()
    try:
        with open(path, "ab"):
            pass
    except OSError as error:
        raise RequestError(f"{path}: cannot write there ({error.strerror}); give another file with --figure") from None
    if not existed:
        path.unlink()


def write_figure(path: Path, figure: "Figure") -> None:
    """In the format that the file's name states. Raises RequestError."""
    from ninscope.report.layout import picture

    try:
        path.write_bytes(picture(figure, path.suffix.lower()[1:]))
    except OSError as error:
        raise RequestError(
            f"{path}: cannot write the figure ({error.strerror}); the numbers above are complete"
        ) from None


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)


def _with_spread(value: float | None, spread: float | None) -> str:
    return _number(value) + ("" if spread is None else f" ± {spread:.4f}")
