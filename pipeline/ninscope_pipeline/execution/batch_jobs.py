"""Workers as jobs of a batch system, through dask-jobqueue: as many as there is work for, and none left behind.

Dask's own adaptive scaling is not used. It takes single workers of a job for jobs, and so cancels the wrong ones where a job
has several, and a job that ends before its worker came stays in its books for ever.
"""

import asyncio
import logging
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, Scheduler
from distributed.core import Status
from tornado.ioloop import PeriodicCallback

from ninscope.errors import RequestError, one_line
from ninscope_pipeline.execution import TELL_AGAIN_SECONDS, Tell
from ninscope_pipeline.execution.signals import ignored, unseen_by_children
from ninscope_pipeline.request.cluster import Cluster, processes_of

if TYPE_CHECKING:
    from dask_jobqueue.core import Job, JobQueueCluster
else:
    Job = object  # the library is an extra; the class of its job comes with the cluster's kind

LOOK_SECONDS = 0.5
ASK_SECONDS = (1.0, 30.0)  # between questions to the batch system: at first, and at most
LOST_SECONDS = 60.0  # without a word from any worker of a job: a nanny starts one again, slowly from a network's disk
IDLE_SECONDS = 60.0  # a job that waits for work may cost less than a place in the queue
RETRY_SECONDS = 30.0

# As for local workers (execute.py). Dask's variables are what `dask worker` makes its own processes from; None: not set.
PROLOGUE = (
    "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1",
    "export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON=\"{'MALLOC_TRIM_THRESHOLD_': None}\"",
    "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False",  # it can hang a worker, and nobody looks at it
)


class _Job(Job):
    """What is known of one job, mixed into dask-jobqueue's class. A job that is refused takes no other along."""

    refused = ""  # why
    since = 0.0  # refused, or without a worker
    idle_since: float | None = None
    worker_came = worker_here = False
    state = ""  # the batch system's word

    async def start(self) -> None:
        self.since = time.monotonic()
        try:
            await super().start()
        except (OSError, RuntimeError, ValueError) as error:
            self.refused = _reason(error, str(self.submit_command))
            self.since = time.monotonic()
            self.status = Status.running  # or its cluster falls over it

    async def close(self) -> None:
        await super().close()
        self.status = Status.closed


def _reason(error: Exception, command: str) -> str:
    """One line of what a submission came to; dask-jobqueue's own text has a dozen."""
    command = command.split()[0]
    if isinstance(error, FileNotFoundError):
        return f"{command}: no such command; jobs are submitted from a login node"
    if isinstance(error, OSError):
        return f"{command}: {error.strerror}"
    out, _, err = str(error).partition("stderr:\n")
    reason = err.strip() or out.partition("stdout:\n")[2].strip() or str(error)
    reason = "; ".join(line.strip() for line in reason.splitlines() if line.strip())
    return one_line(reason if reason.startswith(command) else f"{command}: {reason}")


@contextmanager
def jobs_at_work(cluster: Cluster, job_class: type, tasks: int, log: Path, tell: Tell) -> Iterator[Client]:
    """A client of a scheduler in this process with a first worker; see `cluster.at_work`."""
    queue: JobQueueCluster | None = None
    client: Client | None = None
    keeper: _Keeper | None = None
    try:
        # Neither may a Ctrl-C reach a submission, or its job would be nobody's.
        with unseen_by_children(signal.SIGINT):
            queue = _queue(cluster, job_class, log)
            client = Client(queue, set_as_default=False)
        with dask.config.set({"distributed.deploy.lost-worker-timeout": "1000h"}):  # the keeper knows better
            keeper = _Keeper(queue, cluster, tasks, tell)
            while not keeper.settled.wait(0.2):
                pass
            if keeper.failure:
                raise RequestError(keeper.failure)
            yield client
    finally:
        with ignored(signal.SIGINT):
            for part in (keeper, client, queue):
                if part is not None:
                    part.close()


def _queue(cluster: Cluster, job_class: type, log: Path) -> "JobQueueCluster":
    from dask_jobqueue.core import JobQueueCluster

    given, configured = cluster.job or {}, f"jobqueue.{cluster.kind}"
    log.mkdir(parents=True, exist_ok=True)

    def option(name: str, otherwise: Any) -> Any:
        return given.get(name) or dask.config.get(f"{configured}.{name.replace('_', '-')}", None) or otherwise

    options: dict[str, Any] = {
        **given,
        "job_cls": type(job_class.__name__, (_Job, job_class), {}),
        "processes": processes_of(cluster),
        "job_name": given.get("job_name", "ninscope"),
        "log_directory": option("log_directory", str(log)),
        "shared_temp_directory": option("shared_temp_directory", str(log)),  # of certificates, with security
        "job_script_prologue": [*PROLOGUE, *option("job_script_prologue", [])],
        # The last one counts: cores that no process has asked for are for memory.
        "worker_extra_args": [*option("worker_extra_args", []), "--nthreads", "1"],
        "death_timeout": option("death_timeout", 60),
        "scheduler_options": {"dashboard_address": "127.0.0.1:0", **option("scheduler_options", {})},
    }
    try:
        return JobQueueCluster(silence_logs=logging.CRITICAL, **options)
    except Exception as error:
        reason = str(error).splitlines()[0].removeprefix("Cluster failed to start: ")
        raise RequestError(f"[cluster]: no Dask scheduler for {cluster.kind} could be started: {reason}") from None


class _Keeper:
    """Submits jobs, cancels them, and says what is waited for; all of it in the event loop of their cluster.

    settled: set with the first worker, or with a failure.
    """

    def __init__(self, queue: "JobQueueCluster", cluster: Cluster, tasks: int, tell: Tell):
        if cluster.maximum is None or queue.scheduler is None or queue.loop is None:
            raise ValueError(
                "jobs are kept of a cluster with a largest number of workers and a scheduler that has started"
            )
        self.settled, self.failure = threading.Event(), ""
        self._queue, self._kind, self._tell = queue, cluster.kind, tell
        self._scheduler: Scheduler = queue.scheduler
        self._processes = processes_of(cluster)
        self._minimum, self._maximum = cluster.minimum or 0, cluster.maximum
        # As the scheduler will see it, which takes half a second for a task that it does not know and wants to be done in five.
        self._first = math.ceil(tasks / 10)
        self._worker_came = self._work_came = False
        self._told, self._told_at = "", 0.0
        self._refusals: set[str] = set()
        self._asked_at, self._ask_after = time.monotonic(), ASK_SECONDS[0]
        self._retry_at, self._ended = 0.0, ""
        self._looking = asyncio.Lock()
        self._callback = PeriodicCallback(self._look, LOOK_SECONDS * 1000)
        queue.loop.add_callback(self._callback.start)

    def close(self) -> None:
        async def stop() -> None:
            self._callback.stop()
            async with self._looking:  # what it has begun to submit is known before all is cancelled
                pass

        self._queue.sync(stop)

    async def _look(self) -> None:
        if self._looking.locked() or self._queue.status != Status.running:
            return
        async with self._looking:
            now = time.monotonic()
            self._note_workers(now)
            await self._ask(now)
            await self._drop([name for name, job in self._queue.workers.items() if self._is_over(job, now)])
            await self._scale(now)
            self._settle(now)

    def _members(self, name: str) -> list[str]:
        return [name, *(f"{name}-{number}" for number in range(self._processes))]

    def _note_workers(self, now: float) -> None:
        here = {str(worker.name): worker for worker in self._scheduler.workers.values()}
        for name, job in self._queue.workers.items():
            workers = [here[member] for member in self._members(name) if member in here]
            job.worker_here = bool(workers)
            if workers:
                job.worker_came = self._worker_came = True
                job.since, job.state = now, ""
            if any(worker.processing for worker in workers):
                job.idle_since = None
            elif job.idle_since is None:
                job.idle_since = now
        self._work_came = self._scheduler.transition_counter > 0

    async def _ask(self, now: float) -> None:
        """Where SLURM says what became of jobs whose workers are not here; of the other kinds only workers tell."""
        absent = [job for job in self._queue.workers.values() if job.job_id and not job.worker_here]
        if self._kind != "slurm" or not absent:
            self._ask_after = ASK_SECONDS[0]
            return
        if now < self._asked_at + self._ask_after:
            return
        self._asked_at, self._ask_after = now, min(2 * self._ask_after, ASK_SECONDS[1])
        try:
            listed = await type(absent[0])._call(["squeue", "-h", "-u", str(os.getuid()), "-o", "%A|%T|%r"])
        except (OSError, RuntimeError):
            return  # its controller may be away for a while
        lines = (line.split("|", 2) for line in listed.splitlines() if line.count("|") > 1)  # beside what a site adds
        states = {number: (state, why) for number, state, why in lines}
        for job in absent:
            state, why = states.get(job.job_id, ("ended", ""))
            job.state = f"pending ({why})" if state == "PENDING" else state.lower()
            if state == "PENDING":  # once more, where it was preempted and put back in the queue
                job.worker_came = False

    def _is_over(self, job: _Job, now: float) -> bool:
        if job.refused:
            return now > job.since + RETRY_SECONDS
        if job.state == "ended":
            return True
        return job.worker_came and now > job.since + LOST_SECONDS

    async def _drop(self, names: list[str]) -> None:
        """Cancel jobs. One that ended before a worker came is not followed by another at once."""
        for name in names:
            job = self._queue.workers[name]
            if job.state == "ended" and not job.worker_came:
                self._ended, self._retry_at = job.job_id, time.monotonic() + RETRY_SECONDS
        if names:
            await self._queue.scale_down(names)

    async def _scale(self, now: float) -> None:
        scheduler, submitted = self._scheduler, len(self._queue.worker_spec)
        workers = scheduler.adaptive_target() if self._worker_came and self._work_came else self._first
        wanted = math.ceil(min(max(workers, self._minimum), self._maximum) / self._processes)
        wanted = min(wanted, self._maximum // self._processes)
        if wanted > submitted and now >= self._retry_at:
            self._queue.scale(jobs=wanted)
            await self._queue
        elif wanted < submitted:
            jobs = self._queue.workers.items()
            # Those that are still in the queue first.
            idle = [n for n, job in sorted(jobs, key=lambda item: item[1].worker_came) if self._is_idle(job, now)]
            surplus = idle[: submitted - wanted]
            await scheduler.retire_workers(
                names=[member for name in surplus for member in self._members(name)], close_workers=True, remove=True
            )
            await self._drop(surplus)

    @staticmethod
    def _is_idle(job: _Job, now: float) -> bool:
        return job.idle_since is not None and now > job.idle_since + IDLE_SECONDS

    def _settle(self, now: float) -> None:
        jobs = list(self._queue.workers.values())
        refused = [job.refused for job in jobs if job.refused]
        if self._worker_came:
            self.settled.set()
            for reason in set(refused) - self._refusals:
                self._refusals.add(reason)
                self._tell(f"a job was refused and is tried again later: {reason}")
        elif len(refused) == len(jobs) and (refused or self._ended):
            self.failure = (
                f"no job could be submitted: {refused[0]}"
                if refused
                else f"job {self._ended} ended before its worker came; what it printed is in {self._log_directory()}"
            )
            self.settled.set()
        if not self._scheduler.workers and not self.failure:
            self._say_what_is_waited_for(jobs, now)

    def _log_directory(self) -> str:
        return self._queue._job_kwargs["log_directory"]

    def _say_what_is_waited_for(self, jobs: list[_Job], now: float) -> None:
        if self._worker_came and not self._scheduler.tasks:
            return
        states = Counter(job.refused or job.state or "submitted" for job in jobs)
        listed = ", ".join(f"{number} job{'s' * (number > 1)} {state}" for state, number in sorted(states.items()))
        if not jobs and self._ended:
            listed = f"job {self._ended} ended before its worker came (look into {self._log_directory()})"
        text = f"waiting for {'a' if self._worker_came else 'the first'} worker: {listed or 'no job yet'}"
        if text != self._told or now > self._told_at + TELL_AGAIN_SECONDS:
            self._told, self._told_at = text, now
            self._tell(text)
