"""The command line. Exit codes: 0 done; 1 done, but some checkpoints are not ok; 2 the request is wrong; 130 interrupted."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import ninscope
from ninscope_pipeline.ending import run_command_line

app = typer.Typer(
    rich_markup_mode=None,  # it would take [analysis] in a help text for markup
    pretty_exceptions_enable=False,
    help="Measure the network of neurons inside a model from its weights, checkpoint by checkpoint.",
)

SourceArgument = Annotated[
    str,
    typer.Argument(
        help="Folder with one checkpoint or with revision folders or files, one file of weights, or a Hub repository (org/name)."
    ),
]
SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Folders with one checkpoint or with revision folders or files, files of weights, or Hub repositories (org/name).",
    ),
]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder that holds run folders.")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help='Address of a running Dask scheduler (tcp://...), or "local", instead of what the DAG file says.',
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="Number of workers that ninscope starts (default on this machine: one per core)."
    ),
]
TrustDuplicates = Annotated[
    bool, typer.Option("--trust-duplicates", help="Compute E even where two steps have identical weights.")
]
TrustUnlikeCounts = Annotated[
    bool,
    typer.Option(
        "--trust-unlike-counts",
        help="Compute E even where other layers count than in the baseline, or 10 % more or fewer nodes.",
    ),
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or its name in ./runs.")]
BaselineOption = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="REVISION|first",
        help="Revision that E compares with, or the first by step (default: step 0).",
    ),
]

_COMPARED = (
    "Source, as SOURCE or SOURCE@REVISION (folder, file of weights, Hub repository); or a run, by folder or name."
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ninscope {ninscope.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _ninscope(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        from ninscope_pipeline.next_steps import show_next_steps

        show_next_steps(
            {command.name or str(getattr(command.callback, "__name__", "")) for command in app.registered_commands}
        )


@app.command(short_help="Measure every checkpoint of a source.")
def measure(
    sources: SourcesArgument,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Measure this revision only (default: all revisions).")
    ] = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Measure every neuron and every weight (the default unless you ask for samples)."),
    ] = False,
    nodes_per_layer: Annotated[
        str | None,
        typer.Option(
            "--nodes-per-layer",
            metavar="N|all",
            help="Measure samples of N neurons per layer (default for samples: 64), or all neurons.",
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Number of samples (default for samples: 10).")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the samples (default for samples: 0).")] = None,
    q: Annotated[
        str | None,
        typer.Option(
            "--q", metavar="FROM:TO:STEP", help="Orders of the moments, or a list -1,0,1 (default: -3:3:0.1)."
        ),
    ] = None,
    transfer: Annotated[
        str | None,
        typer.Option("--transfer", help="Distance of a weight: reciprocal (default), coth or neg_log."),
    ] = None,
    radii: Annotated[
        str | None,
        typer.Option("--radii", metavar="integer|log:K", help="Whole distances (default), or K radii even in ln d."),
    ] = None,
    max_distance: Annotated[
        float | None, typer.Option("--max-distance", help="Distance up to which an edge counts (default: 150).")
    ] = None,
    min_degree: Annotated[
        int | None, typer.Option("--min-degree", help="Edges that a node must exceed to count (default: 10).")
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option("--parts", metavar="block,kind,layer", help="Measure parts of the network too: any of the three."),
    ] = None,
    wiring: Annotated[
        str | None,
        typer.Option("--wiring", help="chain (default), or parallel: the MLP of GPT-NeoX reads x."),
    ] = None,
    convolutions: Annotated[
        str | None,
        typer.Option("--convolutions", help="A kernel is one edge: norm (default); or one for every tap: per_tap."),
    ] = None,
    gauge: Annotated[
        str | None,
        typer.Option(
            "--gauge",
            metavar="stored|fixed",
            help="Weights as stored (default), or fixed: one choice of all rescalings with the model's function.",
        ),
    ] = None,
    fit_radii: Annotated[
        str | None,
        typer.Option("--fit-radii", metavar="A:B", help="Distances of the radii that enter fits (default: all)."),
    ] = None,
    layers_crossed: Annotated[
        int | None,
        typer.Option("--layers-crossed", help="Weight blocks that a path may cross (default: 1)."),
    ] = None,
    direction: Annotated[
        str | None,
        typer.Option(
            "--direction", help="Edges of a neuron: out-going (out, the default), or those that lead to it: in."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="Model to merge LoRA adapters into: a folder or a Hub repository."),
    ] = None,
    base_revision: Annotated[
        str | None,
        typer.Option(
            "--base-revision", help="Revision of the base model (default: main; for a folder its only revision)."
        ),
    ] = None,
    baseline: BaselineOption = None,
    architecture: Annotated[
        Path | None,
        typer.Option("--architecture", help="TOML file with a table [architecture] that describes the model."),
    ] = None,
    trust_duplicates: TrustDuplicates = False,
    trust_unlike_counts: TrustUnlikeCounts = False,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="File for a figure over steps: .png, .svg or .pdf.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the result as CSV; `> FILE` stores it.")] = False,
) -> None:
    """Measure every checkpoint of a source: alpha0, width and the degree of emergence E against a baseline (step 0).

    Measures the whole network unless you ask for samples: every weight is read once, or fetched once from the Hub.
    """
    from ninscope_pipeline.measure_command import (
        Output,
        measure_sources,
        parsed_fit_radii,
        parsed_list,
        parsed_nodes,
        parsed_q,
        parsed_radii,
    )
    from ninscope_pipeline.request.toml_files import load_architecture

    options = {
        "revision": revision,
        "exact": exact or None,
        "nodes_per_layer": parsed_nodes(nodes_per_layer),
        "samples": samples,
        "seed": seed,
        "q": parsed_q(q),
        "transfer": transfer,
        "radii": parsed_radii(radii),
        "max_distance": max_distance,
        "min_degree": min_degree,
        "parts": parsed_list(parts),
        "wiring": wiring,
        "convolutions": convolutions,
        "gauge": gauge,
        "fit_radii": parsed_fit_radii(fit_radii),
        "layers_crossed": layers_crossed,
        "direction": direction,
        "base": base,
        "base_revision": base_revision,
        "baseline": baseline,
        "architecture": None if architecture is None else load_architecture(architecture),
        "trust_duplicates": trust_duplicates,
        "trust_unlike_counts": trust_unlike_counts,
    }
    raise typer.Exit(measure_sources(sources, options, Output(as_json, as_csv, figure), _say))


@app.command(short_help="Find missing, duplicate and unlike revisions.")
def audit(
    sources: SourcesArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
) -> None:
    """Find revisions that are missing, duplicates of others, or unlike their siblings.

    Reads no weights: the Hub's metadata are enough, and local files are hashed once, and again only when they change.
    """
    from ninscope_pipeline.audit_command import audit_sources

    raise typer.Exit(audit_sources(sources, as_json, _say))


@app.command(short_help="Show how sampling changes what is measured.")
def bias(
    source: SourceArgument,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Revision to measure (default: the last step).")
    ] = None,
    nodes_per_layer: Annotated[
        str | None,
        typer.Option(
            "--nodes-per-layer",
            metavar="N,N,...",
            help="Numbers of neurons per layer (default: 16,32,64,... up to all).",
        ),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", help="Number of samples of each size.")] = 10,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the samples.")] = 0,
    baseline: BaselineOption = None,
    trust_duplicates: TrustDuplicates = False,
    trust_unlike_counts: TrustUnlikeCounts = False,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", help="File for the figure: .png, .svg or .pdf (default: bias.png; with --json none)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
) -> None:
    """Show how sampling changes alpha0, width and E of a checkpoint, from few neurons per layer to all of them."""
    from ninscope_pipeline.bias_command import parsed_numbers, show_sampling_bias

    options = {
        "revision": revision,
        "nodes_per_layer": parsed_numbers(nodes_per_layer),
        "samples": samples,
        "seed": seed,
        "trust_duplicates": trust_duplicates,
        "trust_unlike_counts": trust_unlike_counts,
        "baseline": baseline,
    }
    raise typer.Exit(show_sampling_bias(source, options, figure, as_json, _say))


@app.command(short_help="Tell what differs between two checkpoints, or two runs.")
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=_COMPARED)],
    b: Annotated[str, typer.Argument(metavar="B", help="What to compare with A: another source, or another run.")],
    nodes_per_layer: Annotated[
        str | None,
        typer.Option(
            "--nodes-per-layer", metavar="N|all", help="Samples of N neurons per layer (default: all neurons)."
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Number of samples (default for samples: 10).")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the samples (default for samples: 0).")] = None,
    same_training: Annotated[
        bool,
        typer.Option("--same-training", help="Compute E though the two lie in two folders or repositories."),
    ] = False,
    trust_unlike_counts: Annotated[
        bool,
        typer.Option(
            "--trust-unlike-counts", help="Compute E even where other layers, or 10 % more or fewer nodes, count."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the values as CSV; `> FILE` stores them.")] = False,
) -> None:
    """Tell, in words and in a table, what differs between two checkpoints or models, or between two runs.

    For checkpoints this is how the models are built, alpha0 and width, E of B against A, norms, and the matrices that changed
    most; for runs it is parameters, versions, checkpoints, and the values of tables.
    """
    from ninscope_pipeline.compare_command import compare_two
    from ninscope_pipeline.measure_command import Output, parsed_nodes

    options = {
        "nodes_per_layer": parsed_nodes(nodes_per_layer),
        "samples": samples,
        "seed": seed,
        "same_training": same_training,
        "trust_unlike_counts": trust_unlike_counts,
    }
    raise typer.Exit(compare_two(a, b, options, Output(as_json, as_csv)))


@app.command(short_help="Run an experiment: analyses, tables, figures.")
def run(
    dag: Annotated[
        str,
        typer.Argument(
            metavar="DAG.toml",
            help="DAG file, or the name of one that ships: demo, controls, ablations, diffusion, memel, parts, "
            "polysemanticity, pythia, ...",
        ),
    ],
    runs_dir: RunsDir = Path("runs"),
    scheduler: Scheduler = None,
    workers: Workers = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run, and run nothing.")] = False,
    trust_duplicates: TrustDuplicates = False,
    trust_unlike_counts: TrustUnlikeCounts = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace results of another source in the same run folder.")
    ] = False,
) -> None:
    """Run an experiment: analyse every checkpoint, then write tables and figures. Stored results are reused."""
    from ninscope_pipeline.execution.limits import reserve_little

    reserve_little()
    from ninscope_pipeline.run_command import dag_path, run_dag

    trusted = trust_duplicates, trust_unlike_counts
    raise typer.Exit(run_dag(dag_path(dag), runs_dir, _say, scheduler, workers, dry_run, *trusted, replace))


@app.command()
def demo(runs_dir: RunsDir = Path("runs"), workers: Workers = None) -> None:
    """Run dags/demo.toml on the small suite in data/."""
    from ninscope_pipeline.execution.limits import reserve_little

    reserve_little()
    from ninscope_pipeline.run_command import dag_path, run_dag

    raise typer.Exit(run_dag(dag_path("demo"), runs_dir, _say, workers=workers))


@app.command()
def status(
    run: RunArgument,
) -> None:
    """Show a run's progress and its failed checkpoints."""
    from ninscope_pipeline import display
    from ninscope_pipeline.opened_run import open_run
    from ninscope_pipeline.run_folders import run_path
    from ninscope_pipeline.summary import progress_of, stage_problems

    path = run_path(run)
    opened = open_run(path)
    progress = progress_of(opened)
    display.show_progress(path, progress)
    lines = [problem.line() for problem in progress.problems]
    lines += stage_problems(opened) if progress.finished else []
    for line in lines:
        _say(line)
    raise typer.Exit(bool(lines))


@app.command(short_help="Write one page of a run, or of several, to read in a browser.")
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders, or their names in ./runs.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="The page (default: report.html in the run's folder; of several runs in the current folder).",
        ),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", metavar="FOLDER", help="Also write every chart as an SVG file there.")
    ] = None,
) -> None:
    """Write one self-contained page: what the numbers say, interactive charts, every table. It needs no network."""
    from ninscope_pipeline.report_command import write_report

    raise typer.Exit(write_report(runs, out, figures, _say))


@app.command(short_help="List runs: state, size, last use.")
def runs(runs_dir: RunsDir = Path("runs")) -> None:
    """List the runs of a folder: how far each is, how large, and when it was last at work."""
    from ninscope_pipeline import display
    from ninscope_pipeline.run_folders import runs_in

    display.show_runs(runs_dir, runs_in(runs_dir))


@app.command(short_help="Ask the tables of a run in SQL.")
def query(
    run: RunArgument,
    sql: Annotated[
        str, typer.Argument(metavar="SQL", help='One SELECT over the run\'s tables: "SELECT * FROM emergence".')
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as one JSON document.")] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print the rows as CSV, with every digit; `> FILE` stores it.")
    ] = False,
    parquet: Annotated[
        Path | None, typer.Option("--parquet", metavar="FILE", help="Write the rows to a Parquet file.")
    ] = None,
) -> None:
    """Ask the tables of a run in SQL, by DuckDB. Absent values are NULL; "SHOW TABLES" lists tables, "DESCRIBE emergence" columns.

    A query reads the tables of its run and writes nothing. It takes at most half of the memory that this process may use.
    """
    from ninscope_pipeline.query_command import Output, query_run

    query_run(run, sql, Output(as_json, as_csv, parquet), _say)


@app.command(short_help="Remove stored results that nothing needs.")
def clean(
    run: RunArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be removed, and remove nothing.")
    ] = False,
) -> None:
    """Remove stored results that the run's DAG file, as it was last run, does not ask for any more.

    Tables, figures and whatever they are made from stay.
    """
    from ninscope_pipeline import display
    from ninscope_pipeline.cleaning import clean_run
    from ninscope_pipeline.run_folders import run_path

    path = run_path(run)
    display.show_cleaned(path, clean_run(path, dry_run), dry_run)


@app.command(short_help="Check this environment in one screen.")
def doctor(
    runs_dir: RunsDir = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
) -> None:
    """Check what a run needs of this environment: limits, disk, numba's cache, the Hub, optional parts.

    Exit code 1 where something would stop a run; each thing says what to do.
    """
    from ninscope_pipeline.doctor_command import show_checks

    raise typer.Exit(show_checks(runs_dir, as_json))


def _say(line: str) -> None:
    print(f"ninscope: {line}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `ninscope` command: every error is one line, and an exit code."""
    run_command_line(app, arguments, _say)


if __name__ == "__main__":
    main()
