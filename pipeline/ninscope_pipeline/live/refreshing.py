"""Tables and figures of a training's run folder, brought up to date from what it has recorded."""

import os
from collections.abc import Mapping

from ninscope.errors import RequestError
from ninscope_pipeline.execution.job import run_job
from ninscope_pipeline.failure_log import FailureLog
from ninscope_pipeline.figures import figures_key
from ninscope_pipeline.live.record import LiveRecord, digest_of, read_record
from ninscope_pipeline.outcome import Outcome
from ninscope_pipeline.plan import Plan, Request, jobs_to_run, make_plan
from ninscope_pipeline.result_files import write_down, write_results
from ninscope_pipeline.stages.controls import CONTROLS
from ninscope_pipeline.stages.exact import EXACT
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.snapshots import SNAPSHOTS
from ninscope_pipeline.stages.stage import Job, JobId
from ninscope_pipeline.stages.weights_stored import WEIGHTS
from ninscope_pipeline.storing.manifest import is_current
from ninscope_pipeline.storing.runfolder import RunFolder, StoreError
from ninscope_pipeline.storing.store import ArtefactStore
from ninscope_pipeline.tables import tables_key

LOCK = "refresh"
_ROUNDS = 3  # as in prepared_run: what is damaged is found when it is read
_WRITTEN = (EXACT.name, WEIGHTS, CONTROLS.name, SNAPSHOTS.name)  # stages whose artefacts a training writes
_GONE = Outcome("missing", "its stored result is damaged or gone, and only the training itself could measure that step")


def refresh_for_reader(folder: RunFolder, figures: bool) -> None:
    """`readers.bring_up_to_date` of a training's folder."""
    if _is_up_to_date(folder, figures) or not os.access(folder.root, os.W_OK):
        return
    try:
        refresh(folder, figures)
    except StoreError as error:
        if not isinstance(error.__context__, OSError):
            raise


def refresh(folder: RunFolder, figures: bool = True) -> None:
    """Write tables, plan.json and run.toml of all that is recorded by now, and draw the figures; what is there stays.

    Raises RequestError: the record is damaged, or tables cannot be made of it; StoreError.
    """
    with folder.locked(LOCK):  # who comes later has more rows
        recorded = digest_of(folder)
        record = read_record(folder)
        log = FailureLog(folder)
        for left in reversed(range(_ROUNDS)):
            outcomes = _refreshed(folder, record, recorded, figures, thorough=left < _ROUNDS - 1)
            for job, outcome in outcomes.items():
                log.note(*job, outcome)
            if not any(outcome.damaged for outcome in outcomes.values()):
                break
        if failed := [f"{stage}: {outcome.message}" for (stage, _), outcome in outcomes.items() if not outcome.ok]:
            raise RequestError(f"{folder.root}: {failed[0]}")


def _is_up_to_date(folder: RunFolder, figures: bool) -> bool:
    plan = folder.read_plan()
    if plan["live"]["record"] != digest_of(folder) or not is_current(folder, folder.tables, plan["tables"]):
        return False
    return not figures or is_current(folder, folder.figures, figures_key(plan["tables"]))


def _refreshed(
    folder: RunFolder, record: LiveRecord, recorded: str, figures: bool, thorough: bool
) -> dict[JobId, Outcome]:
    """What became of what was made now. thorough: every artefact is read, and removed where it is damaged."""
    store, before = ArtefactStore(folder), folder.read_plan()
    located = record.located()
    plan = make_plan(record.dag, located, ((),), folder, thorough)
    for stage, key in plan.moved:
        store.restamp(stage, key)
    request = plan.request.after(_lost(plan.request, record, store), store)
    following = [job for stage in stages().values() if stage.follows_outcomes for job in request.jobs_of(stage.name)]
    outcomes = {job.id: run_job(folder.root, job, ()) for job in jobs_to_run(request, following)}
    request = request.after(outcomes, store)
    if any(outcome.damaged for outcome in outcomes.values()):
        return outcomes
    outcomes |= write_results(folder, request, lambda job, outcome: None, figures)
    write_plan(folder, request, record, recorded)
    _remove_superseded(store, before, folder.read_plan())
    return outcomes


def _lost(request: Request, record: LiveRecord, store: ArtefactStore) -> dict[JobId, Outcome]:
    """Outcomes of what nobody can make any more: a result that is gone, controls that failed, a stage that reads weights."""
    lost = {}
    for job in request.jobs():
        is_first = not stages()[job.stage].follows_outcomes
        if is_first and job.requested and job.key and request.outcome(job).ok and not store.has(*job.id):
            lost[job.id] = _told(job, record)
    return lost


def _told(job: Job, record: LiveRecord) -> Outcome:
    if job.stage == CONTROLS.name and job.checkpoint is not None:
        status, message = record.rows[job.checkpoint.step or 0].controls
        if status:
            return Outcome(status, message)
    return _GONE


def write_plan(folder: RunFolder, request: Request, record: LiveRecord, recorded: str) -> None:
    """run.toml and plan.json. recorded: digest of the record that the tables are of."""
    plan = Plan(request)
    kept = {row.step for row in record.rows.values() if row.snapshot}
    snapshots = [job for job in request.jobs_of(SNAPSHOTS.name) if job.checkpoint and job.checkpoint.step in kept]
    keys = plan.keys() | {SNAPSHOTS.name: sorted({job.key for job in snapshots})}
    keys = {stage: keys[stage] for stage in _WRITTEN if keys.get(stage)}
    about = {"stages": keys, "live": {"record": recorded, "steps": len(record.rows)}}
    write_down(folder, plan, tables_key(request), about=about)


def _remove_superseded(store: ArtefactStore, before: Mapping, now: Mapping) -> None:
    """E of fewer steps: every row makes another artefact of all."""
    for stage, keys in before.get("following", {}).items():
        for key in set(keys) - set(now["following"].get(stage, ())):
            store.remove(stage, key)
