"""How many bytes a plan would fetch: each stage says what its jobs do, by the code that fetches."""

from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor

from ninscope.errors import CheckpointError
from ninscope_pipeline.plan import Plan
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import Fetch, Job

_THREADS = 16


def bytes_to_fetch(plan: Plan) -> dict[str, int]:
    """Bytes of weights that are not on this machine, by model ("suite/model"). Raises RequestError."""
    jobs = [job for job in plan.to_run if job.checkpoint is not None]
    with ThreadPoolExecutor(_THREADS) as pool:  # headers may have to be read
        fetches = list(pool.map(_fetch_of, jobs))
    total: dict[str, int] = {}
    counted: set[Hashable] = set()
    for job, whole in zip(jobs, fetches, strict=True):
        for fetch in () if whole is None else (whole, *whole.beside):
            if fetch.shared_as is not None and fetch.shared_as in counted:
                continue
            counted.add(fetch.shared_as)
            name = f"{job.checkpoint.suite}/{job.checkpoint.model}" if job.checkpoint else ""
            total[name] = total.get(name, 0) + fetch.bytes
    return total


def _fetch_of(job: Job) -> Fetch | None:
    try:
        return stages()[job.stage].fetch(job)
    except CheckpointError:
        return None  # the run will say what there is to say about it
