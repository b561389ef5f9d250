"""What `ninscope run` does, from the name of a DAG file to the last line it prints."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from ninscope.checkpoints.hub.traffic import Fetched, counted
from ninscope.errors import InterruptedRun, RequestError
from ninscope_pipeline import display
from ninscope_pipeline.display import Say
from ninscope_pipeline.execution.workers import at_work, connected_to
from ninscope_pipeline.figures import STAGE as FIGURES
from ninscope_pipeline.forecast import bytes_to_fetch
from ninscope_pipeline.opened_run import Run
from ninscope_pipeline.outcome import OK, Outcome
from ninscope_pipeline.prepared_run import PreparedRun, finish, perform, prepare, start
from ninscope_pipeline.request.cluster import QUEUES, job_class_of
from ninscope_pipeline.request.dagfile import Dag, load_dag
from ninscope_pipeline.shipped import shipped_dags
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import JobId, Stage
from ninscope_pipeline.summary import Problem, near, notes_of, problems_of, stage_problems, summary_lines
from ninscope_pipeline.tables import STAGE as TABLES

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client


def dag_path(text: str) -> Path:
    """A DAG file, or the one of that name that ships with ninscope. Raises RequestError."""
    path = Path(text).expanduser()
    if path.is_file():
        return path
    shipped = shipped_dags()
    if text in shipped:
        return shipped[text]
    known = {name: name for name in shipped} | {file.stem: str(file) for file in sorted(path.parent.glob("*.toml"))}
    alike = get_close_matches(path.stem, known, n=1, cutoff=0.7)
    near = f"did you mean {known[alike[0]]!r}?; " if alike else ""
    raise RequestError(
        f"{text}: no such DAG file; {near}give a path, or one that ships with ninscope: {', '.join(shipped)}"
    )


def run_dag(
    dag_file: Path,
    runs_dir: Path,
    say: Say,
    scheduler: str | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    trust_duplicates: bool = False,
    trust_unlike_counts: bool = False,
    replace: bool = False,
) -> int:
    """Run a DAG file and tell of it; returns the exit code. say: prints a line that is not a result.

    scheduler, workers: instead of what [cluster] says. replace: also where the run folder holds results of another source.
    Raises RequestError, InterruptedRun, and what stops a run midway.
    """
    dag = load_dag(dag_file)
    dag = dag.trusting(trust_duplicates, trust_unlike_counts)
    cluster = dag.cluster.overridden(scheduler, workers)
    dag = dag.model_copy(update={"cluster": cluster})
    if cluster.kind != "address":
        if cluster.kind in QUEUES:
            job_class_of(cluster.kind)  # before anything is done: what it takes is installed
        return _run(dag, runs_dir, None, dry_run, replace, say)
    with connected_to(cluster, 1, runs_dir, say) as client:
        return _run(dag, runs_dir, client, dry_run, replace, say)


def _run(dag: Dag, runs_dir: Path, client: "Client | None", dry_run: bool, replace: bool, say: Say) -> int:
    with display.working(f"finding the checkpoints of {dag.name}"), counted() as listing:
        prepared = prepare(dag, runs_dir, client)
    listed = prepared.listed
    for note in (*prepared.survey.notes, *prepared.notes):
        say(note)
    if dry_run:
        with display.working(f"estimating how much {dag.name} would fetch"):
            to_fetch = bytes_to_fetch(prepared.plan)
        display.show_plan(prepared, listed, to_fetch)
        return 0
    if prepared.replaces and not replace:
        raise RequestError(
            f"{near(prepared.folder.root)} holds {prepared.replaces}, which this DAG file does not ask for; give it "
            "another name, or replace them with --replace"
        )
    start(prepared)
    outcomes: dict[JobId, Outcome] = {}
    if listed:
        try:
            with display.job_progress(dag.name, [stage for stage, _ in listed]) as done:
                if client is not None:
                    from ninscope_pipeline.execution.dask_cluster import OnCluster

                    outcomes = perform(prepared, OnCluster(client), done)
                else:
                    with at_work(dag.cluster, len(prepared.plan.to_run), prepared.folder.log, say) as executor:
                        outcomes = perform(prepared, executor, done)
        except KeyboardInterrupt:
            reached = display.done_so_far(prepared)
            raise InterruptedRun(f"interrupted: {reached}; run the same command again to continue") from None
    else:
        print(f"{dag.name}: all results are stored already; nothing to run")
    failed = {stage: outcome for (stage, _), outcome in outcomes.items() if _is_of_run(stage) and not outcome.ok}
    for stage, outcome in failed.items():
        say(f"{stage}: {outcome.message}")
    if TABLES in failed or FIGURES in failed:
        return 1
    finish(prepared)
    ended = [*(located.outcome for located in prepared.located), *outcomes.values()]
    fetched = sum((outcome.fetched for outcome in ended), start=listing.fetched)
    return _told(prepared, outcomes, fetched, say) or int(bool(failed))


def _is_of_run(stage: str) -> bool:
    """Whether a stage's failures are no single checkpoint's."""
    return stage in (TABLES, FIGURES) or stages()[stage].follows_outcomes


def _untold(prepared: PreparedRun, outcomes: Mapping[JobId, Outcome], problems: Sequence[Problem]) -> list[str]:
    """A line for every job that failed and of which neither the table `checkpoints` nor its own stage tells."""
    told = {(problem.suite, problem.model, problem.revision) for problem in problems}
    return [
        f"{job.label} {job.stage}: {outcome.message}"
        for job in prepared.plan.to_run
        if job.requested
        and not (outcome := outcomes.get(job.id, OK)).ok
        and type(stages()[job.stage]).problems is Stage.problems
        and not _is_of_run(job.stage)
        and (job.checkpoint is None or job.checkpoint.id not in told)
    ]


class _ReadOnce(Run):
    """A run that has ended: what is told of it looks at the same few tables again and again."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._tables: dict[str, pd.DataFrame] = {}

    def table(self, name: str) -> "pd.DataFrame":
        if name not in self._tables:
            self._tables[name] = super().table(name)
        return self._tables[name]


def _told(prepared: PreparedRun, outcomes: Mapping[JobId, Outcome], fetched: Fetched, say: Say) -> int:
    """Say what came of a finished run; the exit code says whether some checkpoints are not ok."""
    result = _ReadOnce(prepared.folder.root)
    problems = problems_of(result.table("checkpoints"))
    for problem in problems:
        say(problem.line())
    failed = [*_untold(prepared, outcomes, problems), *stage_problems(result)]
    for line in (*failed, *notes_of(result)):
        say(line)
    display.show_fetched(fetched)
    print("\n".join(summary_lines(result)))
    return int(bool(problems or failed))
