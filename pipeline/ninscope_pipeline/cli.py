"""The command line. Exit codes: 0 done; 1 done, but some checkpoints are not ok; 2 the request is wrong; 130 interrupted."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ninscope.errors import InterruptedRun, NinscopeError, RequestError, one_line

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The network of neurons inside a model, measured from its weights, checkpoint by checkpoint.",
)

Source = Annotated[
    str,
    typer.Argument(help="A folder with one checkpoint or with revision folders, or a Hub repository id."),
]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder that holds run folders.")]
Scheduler = Annotated[
    str | None,
    typer.Option("--scheduler", help='Address of a running Dask scheduler (tcp://...), or "local"; before [cluster].'),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Worker processes (local ones: one a core).")]
TrustDuplicates = Annotated[
    bool, typer.Option("--trust-duplicates", help="Give E also where two steps have the same weights.")
]


@app.command()
def measure(
    source: Source,
    revision: Annotated[str | None, typer.Option("--revision", help="Only this revision.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Every neuron and every weight: what is done unless samples are asked for.")
    ] = False,
    nodes_per_layer: Annotated[
        str | None,
        typer.Option("--nodes-per-layer", metavar="N|all", help="Take samples, of N neurons of each layer (64)."),
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="Take so many samples (10).")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Take samples with this seed (0).")] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="The model that a LoRA adapter is merged into: a folder, or a Hub repository id."),
    ] = None,
    base_revision: Annotated[
        str | None, typer.Option("--base-revision", help="Which revision of the base (main; of a folder the only one).")
    ] = None,
    trust_duplicates: TrustDuplicates = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Measure every checkpoint of a source: alpha0, width and the degree of emergence E against step 0.

    The whole networks, unless samples are asked for: every weight is read, or from the Hub fetched, once.
    """
    from ninscope.checkpoints.traffic import counted
    from ninscope.measuring import measure_all
    from ninscope_pipeline import display

    with display.counting("measuring", quiet=as_json) as done, counted() as traffic:
        rows = measure_all(
            source,
            revision,
            lambda _: done(),
            exact=exact or None,
            nodes_per_layer=_nodes_per_layer(nodes_per_layer),
            samples=samples,
            seed=seed,
            base=base,
            base_revision=base_revision,
            trust_duplicates=trust_duplicates,
        )
    if as_json:
        print(display.measured_json(source, rows))
    else:
        display.show_measured(source, rows)
        display.show_fetched(traffic.fetched)
    for row in rows:
        if row.status != "ok":
            _say(f"{row.revision}: {row.status}: {row.message}")
    raise typer.Exit(any(row.status != "ok" for row in rows))


@app.command()
def audit(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Folders, or Hub repository ids.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Look for revisions that are missing, or duplicates of others, or unlike their siblings, before weights are read.

    From the Hub's metadata alone; local files are hashed, and again only once they have changed.
    """
    from ninscope.auditing import audit_findings
    from ninscope_pipeline import display

    found, refused = {}, []
    for source in dict.fromkeys(sources):
        with display.counting(f"auditing {source}", quiet=as_json) as done:
            try:
                found[source] = audit_findings(source, done)
            except RequestError as error:
                refused.append(error)
    if as_json and found:
        print(display.audit_json(found, len(dict.fromkeys(sources)) > 1))
    for source, rows in found.items():
        if not as_json:
            display.show_audit(source, rows)
        where = f"{source} " if len(found) > 1 else ""
        for row in rows:
            if row.status != "ok":
                _say(f"{where}{row.revision}: {row.status}: {row.message}")
    for error in refused:
        _say(str(error))
    if refused:
        raise typer.Exit(2)
    raise typer.Exit(any(row.status != "ok" for rows in found.values() for row in rows))


def _nodes_per_layer(text: str | None) -> int | str | None:
    """A number, or "all"; what else is written is left for the check of parameters to name."""
    try:
        return text if text is None else int(text)
    except ValueError:
        return text


@app.command()
def bias(
    source: Source,
    revision: Annotated[str | None, typer.Option("--revision", help="Which revision (the last by step).")] = None,
    nodes_per_layer: Annotated[
        str | None,
        typer.Option("--nodes-per-layer", metavar="N,N,...", help="Neurons of each layer (16,32,64,... up to all)."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", help="Samples of each size.")] = 10,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the samples.")] = 0,
    trust_duplicates: TrustDuplicates = False,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="PNG file to draw (bias.png; with --json none).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Measure what sampling does to a checkpoint: alpha0, width and E for more and more neurons a layer, up to all."""
    from ninscope.bias import sampling_bias
    from ninscope.checkpoints.audit import OVERRIDE
    from ninscope.report.bias_figure import bias_figure
    from ninscope.report.layout import png
    from ninscope_pipeline import display

    if figure is None and not as_json:
        figure = Path("bias.png")
    if figure is not None:
        _check_writable(figure)
    with display.working(f"measuring samples of {source}", quiet=as_json):
        table = sampling_bias(
            source, revision, _numbers(nodes_per_layer), samples, seed, trust_duplicates=trust_duplicates
        )
    if as_json:
        print(display.bias_json(source, table))
    else:
        display.show_bias(source, table)
    withheld = next((message for message in table["message"] if OVERRIDE in message), None)
    if withheld is not None:
        _say(f"{table['revision'][0]}: duplicate: {withheld}")
    if figure is None:
        raise typer.Exit(withheld is not None)
    place = Path(source)
    drawn = bias_figure(table, f"{place.resolve().name if place.exists() else source}, {table['revision'][0]}")
    try:
        figure.write_bytes(png(drawn))
    except OSError as error:
        raise RequestError(
            f"{figure}: the figure cannot be written ({error.strerror}); the numbers are complete"
        ) from None
    if not as_json:
        print(f"look at {figure}")
    raise typer.Exit(withheld is not None)


def _numbers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(f"--nodes-per-layer is {text!r}; numbers parted by commas were expected, 16,32,64") from None


def _check_writable(path: Path) -> None:
    """Before hours of work, and leaving nothing behind. Raises RequestError."""
    if path.suffix.lower() != ".png" and not path.is_dir():
        raise RequestError(f"{path}: the figure is a PNG; name it so with --figure")
    existed = path.exists()
    try:
        with open(path, "ab"):
            pass
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror}); name another file with --figure") from None
    if not existed:
        path.unlink()


@app.command()
def run(
    dag: Annotated[
        str,
        typer.Argument(
            metavar="DAG.toml",
            help="A DAG file, or the name of one that ships: demo, ablations, diffusion, memel, parts, pythia, ...",
        ),
    ],
    runs_dir: RunsDir = Path("runs"),
    scheduler: Scheduler = None,
    workers: Workers = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run, and do nothing.")] = False,
    trust_duplicates: TrustDuplicates = False,
) -> None:
    """Run an experiment: every checkpoint of its models to tables and figures. What is already there is not done again."""
    from ninscope_pipeline.run_command import dag_path, run_dag

    raise typer.Exit(run_dag(dag_path(dag), runs_dir, _say, scheduler, workers, dry_run, trust_duplicates))


@app.command()
def demo(runs_dir: RunsDir = Path("runs"), workers: Workers = None) -> None:
    """Run the experiment in dags/demo.toml on the small suite that ships in data/."""
    from ninscope_pipeline.run_command import dag_path, run_dag

    raise typer.Exit(run_dag(dag_path("demo"), runs_dir, _say, workers=workers))


@app.command()
def status(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or its name in ./runs.")],
) -> None:
    """How far a run is, and which of its checkpoints are not ok."""
    from ninscope_pipeline import display
    from ninscope_pipeline.opened_run import open_run
    from ninscope_pipeline.summary import progress_of, stage_problems

    path = Path(run)
    if not (path / "run.toml").is_file() and (Path("runs") / run / "run.toml").is_file():
        path = Path("runs") / run
    opened = open_run(path)
    progress = progress_of(opened)
    display.show_progress(path, progress)
    lines = [problem.line() for problem in progress.problems]
    lines += stage_problems(opened) if progress.finished else []
    for line in lines:
        _say(line)
    raise typer.Exit(bool(lines))


def _say(line: str) -> None:
    print(f"ninscope: {line}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `ninscope` command: every error is one line, and an exit code."""
    # Not where it is ignored, as under nohup, nor in a thread, which cannot.
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt_once)
    try:
        code = _exit_code(arguments)
    finally:
        if signal.getsignal(signal.SIGINT) is _interrupt_once:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(code)


def _interrupt_once(number, frame) -> None:
    """Ctrl-C ends the command in order, and a second one while it is ending changes nothing."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _exit_code(arguments: Sequence[str] | None) -> int:
    interrupted = False
    code: int | str | None
    try:
        code = app(args=arguments, standalone_mode=False, prog_name="ninscope")
        sys.stdout.flush()
        interrupted = code == 130
    except RequestError as error:
        _say(str(error))
        code = 2
    except InterruptedRun as error:
        _say(str(error))
        code = 130
    except NinscopeError as error:
        _say(str(error))
        code = 1
    except SystemExit as end:  # how the command line library ends on Ctrl-C
        code, interrupted = end.code, end.code == 130
    except (typer.Abort, KeyboardInterrupt):
        code, interrupted = 130, True
    except Exception as error:
        code = _unexpected(error)
    if interrupted:
        _say("interrupted")
        sys.stderr.flush()
        os._exit(130)  # not to wait for threads that measure what nobody wants any more; nothing is being written
    return int(code or 0)


def _unexpected(error: Exception) -> int:
    """Unknown options and the like; a reader that went away; and our own faults, whose traceback can be asked for."""
    if hasattr(error, "format_message"):
        if text := error.format_message():
            _say(f"{text} (ninscope --help)")
        return 2
    if isinstance(error, BrokenPipeError):
        sys.stdout = None
        return 1
    if os.environ.get("NINSCOPE_DEBUG"):
        raise error
    _say(one_line(f"failed: {type(error).__name__}: {error} (NINSCOPE_DEBUG=1 shows where)"))
    return 1


if __name__ == "__main__":
    main()
