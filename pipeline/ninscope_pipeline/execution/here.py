"""Jobs in threads of this process: kernels release the interpreter's lock, and no worker need be started for them.

A stage that runs models has processes of its own, as many as threads at most: its libraries take threads and memory as they like,
and where such a process dies only its job does.
"""

import signal
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from dask import threaded
from dask.highlevelgraph import HighLevelGraph

from ninscope_pipeline.execution import JOB_THREADS, Died, Done
from ninscope_pipeline.execution.graph import job_graph
from ninscope_pipeline.execution.job import run_job
from ninscope_pipeline.execution.model_process import begin
from ninscope_pipeline.execution.signals import unseen_by_children
from ninscope_pipeline.outcome import Outcome, with_log
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import Job, JobId

DIED = "the worker died over it each time, perhaps for lack of memory"
_SECONDS_TO_END = 5.0


class ThreadsHere:
    """Runs jobs in so many threads."""

    def __init__(self, threads: int):
        self._threads = threads
        self._lock = threading.Lock()
        self._closed = False
        self._processes: list[ProcessPoolExecutor] = []  # of one process each
        self._idle: list[ProcessPoolExecutor] = []

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
            # Not by `Callback`, which is one for the whole process: of two runs in its threads one would hear of all jobs.
            callbacks = [(None, None, None, ended, None)]
            threaded.get(tasks, list(id_of), pool=pool, num_workers=self._threads, callbacks=callbacks)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return outcomes

    def close(self) -> None:
        """Stop the processes of models, and let none begin any more."""
        with self._lock:
            self._closed = True
        for pool in self._processes:
            processes = getattr(pool, "_processes", None) or {}
            manager = getattr(pool, "_executor_manager_thread", None)
            pool.shutdown(wait=False, cancel_futures=True)  # first, so that nothing is submitted after the kill
            for process in list(processes.values()):
                process.kill()
            if manager is not None:  # which Python 3.11 wakes at its end by a pipe that this thread is just closing
                manager.join(_SECONDS_TO_END)

    def _run(self, root: str, job: Job, needs: Sequence[Outcome]) -> Outcome:
        if not stages()[job.stage].runs_models or not all(outcome.ok for outcome in needs):
            return run_job(root, job, needs)
        reason = ""
        for _ in range(2):  # it may have been killed for what another process took
            pool = self._taken()
            if pool is None:
                break
            try:
                with unseen_by_children(signal.SIGINT):  # a process that it starts, however young
                    future = pool.submit(run_job, root, job, needs)
                outcome = future.result()
            except BrokenProcessPool as error:
                reason = f"{error}\n"
            except BaseException:
                self._idle.append(pool)
                raise
            else:
                self._idle.append(pool)
                return outcome
        return Outcome("failed", with_log(DIED, *job.id), reason, lost=True)

    def _taken(self) -> ProcessPoolExecutor | None:
        """A process that no other thread has; None where the run is given up."""
        with self._lock:
            if self._closed:
                return None
            if self._idle:
                return self._idle.pop()
            pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=begin)
            self._processes.append(pool)
            return pool
