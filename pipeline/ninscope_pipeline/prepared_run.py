"""One run from its DAG file to its tables: survey, plan, jobs, tables and figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ninscope.errors import RequestError
from ninscope_pipeline.execution import Executor
from ninscope_pipeline.failure_log import FailureLog
from ninscope_pipeline.figures import STAGE as FIGURES
from ninscope_pipeline.figures import figures_key
from ninscope_pipeline.located import STAGE as LOCATE
from ninscope_pipeline.located import Located, task_key
from ninscope_pipeline.outcome import Outcome
from ninscope_pipeline.plan import Plan, Request, jobs_to_run, make_plan
from ninscope_pipeline.replacing import replaced_results
from ninscope_pipeline.request.dagfile import Dag
from ninscope_pipeline.request.evaluations.reading import read_evaluations
from ninscope_pipeline.request.evaluations.settling import settled
from ninscope_pipeline.result_files import write_down, write_results
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import JobId
from ninscope_pipeline.storing.manifest import is_current
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore
from ninscope_pipeline.survey import Survey, survey
from ninscope_pipeline.survey_memory import remember
from ninscope_pipeline.tables import STAGE as TABLES
from ninscope_pipeline.tables import tables_key

if TYPE_CHECKING:
    from distributed import Client

# How often a plan is made and run while stored artefacts turn out to be damaged: after the first time none should.
_ROUNDS = 3


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to start; nothing has been written yet.

    tables, figures: whether they must be made again. replaces: whose results in the folder they would replace, where these are
    another experiment's; else empty. notes: what is to be said of the results that come with the models.
    """

    dag: Dag
    folder: RunFolder
    survey: Survey
    plan: Plan
    tables: bool
    figures: bool
    replaces: str = ""
    notes: tuple[str, ...] = ()

    @property
    def located(self) -> list[Located]:
        return self.survey.located

    @property
    def listed(self) -> list[tuple[str, str]]:
        """(stage, label) of everything that would run, in the order in which it could."""
        jobs = [(job.stage, job.label) for job in self.plan.to_run]
        return jobs + [(TABLES, "all")] * self.tables + [(FIGURES, "all")] * self.figures


def prepare(dag: Dag, runs_dir: Path, client: "Client | None" = None) -> PreparedRun:
    """Survey every checkpoint and plan. client: a Dask client to survey on, instead of threads here.

    Raises RequestError when the request itself is wrong: a source that does not exist, an unreadable evaluations file.
    """
    try:
        folder = RunFolder(runs_dir.expanduser().resolve() / dag.name)
    except (OSError, RuntimeError) as error:  # an unknown user's home
        raise RequestError(f"{runs_dir}: no such folder ({error}); give another --runs-dir") from None
    models = dag.all_models()
    read = read_evaluations(models)
    surveyed = survey(dag, folder, client)
    results = settled(models, read.evaluations, surveyed.located)
    plan = make_plan(dag, surveyed.located, results.evaluations, folder)
    key = tables_key(plan.request)
    tables = not is_current(folder, folder.tables, key)
    figures = tables or not is_current(folder, folder.figures, figures_key(key, dag.figures.formats))
    replaces = replaced_results(folder, dag, surveyed.located) if tables else ""
    return PreparedRun(dag, folder, surveyed, plan, tables, figures, replaces, (*read.notes, *results.notes))


def start(prepared: PreparedRun) -> None:
    """Make the run folder and write down what is asked.

    Raises RequestError when the folder cannot be written, StoreError when the disk is full.
    """
    folder, plan = prepared.folder, prepared.plan
    folder.create()
    store, log = ArtefactStore(folder), FailureLog(folder)
    store.mend_groups(store.stages())
    for stage, key in plan.moved:
        store.restamp(stage, key)
    remember(folder, prepared.located, prepared.survey.beside)
    write_down(folder, plan, tables_key(plan.request))
    log.forget_stored(store)
    for located in prepared.located:
        log.note(LOCATE, task_key(*located.id), located.outcome)


def finish(prepared: PreparedRun) -> None:
    """Clear away what has served. Raises StoreError."""
    request = prepared.plan.request
    with prepared.folder.alone() as alone:
        store = ArtefactStore(prepared.folder)
        for name, stage in stages().items():
            wanted = [job for job in request.jobs_of(name) if not (job.key and request.is_given_up(job))]
            stage.clear(store, wanted, alone)


def perform(prepared: PreparedRun, executor: Executor, done: Callable[[JobId, Outcome], None]) -> dict[JobId, Outcome]:
    """Run the plan's jobs, then write tables and figures; returns what became of each.

    A job in which ninscope itself failed leaves its traceback in the run's folder log. Where a stored artefact turns out to be
    damaged, all are checked and what is damaged is made again. Raises RequestError, StoreError, ClusterError.
    """
    folder, plan, log = prepared.folder, prepared.plan, FailureLog(prepared.folder)

    def logged(job: JobId, outcome: Outcome) -> None:
        log.note(*job, outcome)
        done(job, outcome)

    outcomes: dict[JobId, Outcome] = {}
    with folder.occupied():
        for left in reversed(range(_ROUNDS)):
            ended, request = _run_jobs(plan, executor, folder, logged, log, last=not left)
            if not (left and _any_damaged(ended)):
                ended |= write_results(folder, request, logged)
            outcomes |= ended
            if not _any_damaged(ended):
                break
            if left:
                outcomes = {job: outcome for job, outcome in outcomes.items() if not outcome.damaged}
                plan = make_plan(prepared.dag, prepared.located, plan.request.evaluations, folder, thorough=True)
    write_down(folder, Plan(request), tables_key(request), only_of_tables=True)
    return outcomes


def _run_jobs(
    plan: Plan,
    executor: Executor,
    folder: RunFolder,
    done: Callable[[JobId, Outcome], None],
    log: FailureLog,
    last: bool,
) -> tuple[dict[JobId, Outcome], Request]:
    """(what became of the jobs, the request with that).

    Jobs that follow from what became of others are a graph of their own: a job whose worker died takes every job that depends on
    it along, and a checkpoint that kills its worker must not take the rest. last: go on even where something was damaged.
    """
    root = str(folder.root)
    ended = dict(executor.execute(root, plan.first_jobs(), done, log.note_death))
    request = plan.request.after(ended, ArtefactStore(folder))
    if _any_damaged(ended) and not last:
        return ended, request
    following = [job for stage in stages().values() if stage.follows_outcomes for job in request.jobs_of(stage.name)]
    later = executor.execute(root, jobs_to_run(request, following), done, log.note_death)
    return ended | dict(later), request.after(later, ArtefactStore(folder))


def _any_damaged(outcomes: Mapping[JobId, Outcome]) -> bool:
    return any(outcome.damaged for outcome in outcomes.values())
