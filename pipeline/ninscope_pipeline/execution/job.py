"""Doing one job, wherever it runs: nothing where its artefact is there, else the stage's work, stored."""

from collections.abc import Sequence
from pathlib import Path

from ninscope.errors import CheckpointError
from ninscope_pipeline.outcome import Outcome, attempt
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import Job, Stage
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore


def run_job(root: Path | str, job: Job, needs: Sequence[Outcome]) -> Outcome:
    """Do a job and store its artefact. root: the run's folder. needs: what became of the jobs that this one needs.

    Raises what stops the whole run: RequestError, StoreError.
    """
    stage, store = stages()[job.stage], ArtefactStore(RunFolder(root))
    failure = next((outcome for outcome in needs if not outcome.ok), None)
    if failure is not None:
        stage.need_failed(store, job, failure)
        return failure.passed_on()
    return attempt(job.stage, job.key, lambda: _make_and_store(stage, store, job))


def _make_and_store(stage: Stage, store: ArtefactStore, job: Job) -> None:
    """Raises CheckpointError: what the work raises; of numbers that are not finite it is stored, and not tried again."""
    if stage.is_superseded(store, job) or store.has_result(job.stage, job.key):
        return  # the same content under another name, or another run was faster
    try:
        artefact = stage.make(store, job)
        stage.check_unchanged(store, job)
    except CheckpointError as error:
        if error.status == "nonfinite":
            stage.check_unchanged(store, job)
            store.write_failure(job.stage, job.key, error)
        raise
    store.write(job.stage, job.key, artefact)
    stage.made(store, job)
