"""Jobs in threads of this process: kernels release the interpreter's lock, and no worker need be started for them.

A stage that runs models has a process of its own for every thread: its libraries take threads and memory as they like, and where
that process dies only its job does.
"""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from dask import threaded
from dask.callbacks import Callback
from dask.highlevelgraph import HighLevelGraph

from ninscope_pipeline.execution import JOB_THREADS, Died, Done
from ninscope_pipeline.execution.graph import job_graph
from ninscope_pipeline.execution.job import run_job
from ninscope_pipeline.execution.model_process import begin
from ninscope_pipeline.outcome import Outcome, with_log
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import Job, JobId

DIED = "the worker died over it each time, perhaps for lack of memory"


class ThreadsHere:
    """Runs jobs in so many threads."""

    def __init__(self, threads: int):
        self._threads = threads
        self._own = threading.local()
        self._processes: list[ProcessPoolExecutor] = []
        self._closed = False

    def execute(self, root: str, jobs: Sequence[Job], done: Done, died: Died) -> Mapping[JobId, Outcome]:
        """See `Executor`."""
        if not jobs:
            return {}
        graph = job_graph(jobs, root, self._run)
        id_of = {delayed.key: job_id for job_id, delayed in graph.items()}
        # `dask.compute` would do the same, and import the distributed scheduler to ask whether there is one.
        tasks = HighLevelGraph.merge(*(delayed.dask for delayed in graph.values())).to_dict()
        outcomes: dict[JobId, Outcome] = {}

        def ended(key: str, outcome: Outcome, *_: Any) -> None:
            if (job_id := id_of.get(key)) is not None:
                outcomes[job_id] = outcome
                done(job_id, outcome)

        pool = ThreadPoolExecutor(self._threads, thread_name_prefix=JOB_THREADS)
        try:
            with Callback(posttask=ended):
                threaded.get(tasks, list(id_of), pool=pool, num_workers=self._threads)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return outcomes

    def close(self) -> None:
        """Stop the processes of models."""
        self._closed = True
        for pool in self._processes:
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, root: str, job: Job, needs: Sequence[Outcome]) -> Outcome:
        if not stages()[job.stage].runs_models or not all(outcome.ok for outcome in needs):
            return run_job(root, job, needs)
        for _ in range(2):  # it may have been killed for what another process took
            try:
                return self._process().submit(run_job, root, job, needs).result()
            except BrokenProcessPool as error:
                self._own.pool, reason = None, str(error)
                if self._closed:
                    break
        return Outcome("failed", with_log(DIED, *job.id), f"{reason}\n", lost=True)

    def _process(self) -> ProcessPoolExecutor:
        """The process of this thread."""
        pool = getattr(self._own, "pool", None)
        if pool is None:
            pool = self._own.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=begin)
            self._processes.append(pool)
        return pool
