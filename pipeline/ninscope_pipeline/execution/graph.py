"""From jobs to a Dask graph. Building it computes nothing; artefacts pass through the store, and only outcomes travel."""

import uuid
from collections.abc import Callable, Sequence
from functools import partial

from dask.delayed import Delayed, delayed

from ninscope_pipeline.execution.job import run_job
from ninscope_pipeline.outcome import Outcome
from ninscope_pipeline.stages.stage import Job, JobId

# Delayed jobs by stage and key; each yields an Outcome.
Graph = dict[JobId, Delayed]


def job_graph(jobs: Sequence[Job], root: str, work: Callable[..., Outcome] = run_job) -> Graph:
    """A graph of jobs, each after those among them that it needs. work: what does a job; called as `run_job`."""
    graph: Graph = {}
    for job in jobs:
        needs = [graph[need] for need in job.needs if need in graph]
        # Two runs may share a cluster, of one folder even, where jobs of one name are taken for the same: what one run cancels
        # the other would lose.
        name = f"{job.stage}-{job.key}-{uuid.uuid4().hex}"
        # In a partial Dask looks for no task: of an argument it would look into every field.
        graph[job.id] = delayed(partial(work, root, job), pure=False)(needs, dask_key_name=name)
    return graph
