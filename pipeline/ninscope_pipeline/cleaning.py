"""What `ninscope clean` does: removes from a run folder what is of no more use."""

from pathlib import Path

from ninscope.errors import RequestError
from ninscope_pipeline.opened_run import open_run
from ninscope_pipeline.run_folders import bytes_on_disk
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import JobId
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore


def clean_run(path: Path, dry_run: bool = False) -> dict[JobId, int]:
    """Remove the artefacts that a run's plan does not name; returns their bytes by stage and key.

    Those that follow from others' results (E) stay where an earlier version wrote the plan, which does not name them.
    Raises RequestError: the run has not finished, or another is at work there; StoreError.
    """
    run, folder = open_run(path), RunFolder(path)
    if not run.finished:
        raise RequestError(
            f"{path}: the run has not finished; finish it first, so that it is known what its tables need"
        )
    planned = {**run.plan["stages"], **run.plan.get("following", {}), **run.plan.get("kept", {})}
    folders = [folder for name, stage in stages().items() for folder in (name, stage.keeps)]
    known = [folder for folder in folders if folder and folder in planned]
    with folder.alone() as alone:
        if not alone:
            raise RequestError(
                f"{path}: a run is at work there, or the file system has no locks; clean it when it has ended"
            )
        store = ArtefactStore(folder)
        unused = [(stage, key) for stage in known for key in store.keys(stage) if key not in set(planned[stage])]
        sizes = {job: bytes_on_disk(folder.store.joinpath(*job)) for job in unused}
        for job in () if dry_run else unused:
            store.remove(*job)
    return sizes
