"""Workers as [cluster] asks for them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ninscope.threads import cores
from ninscope_pipeline.execution import TELL_AGAIN_SECONDS, Executor, Tell
from ninscope_pipeline.execution.limits import check_limits
from ninscope_pipeline.request.cluster import LOCAL, QUEUES, Cluster, job_class_of

if TYPE_CHECKING:
    from distributed import Client

# Beyond so many, threads of one process would wait for each other's Python between kernels.
MOST_THREADS = 8


@contextmanager
def at_work(cluster: Cluster, jobs: int, log: Path, tell: Tell) -> Iterator[Executor]:
    """Workers for so many jobs. log: folder for what batch jobs print; tell: takes one line.

    Nothing is left running afterwards but the scheduler at an address. Raises RequestError: no scheduler answers, no batch job can
    be submitted, or all of them end before a worker comes, or a limit of the shell is too low.
    """
    if cluster.kind == LOCAL:
        workers = cluster.workers or min(cores(), max(jobs, 1))
        processes = workers > MOST_THREADS if cluster.processes is None else cluster.processes
        check_limits(workers, processes)
        if not processes:
            from ninscope_pipeline.execution.here import ThreadsHere

            threads = ThreadsHere(workers)
            try:
                yield threads
            finally:
                threads.close()
            return
    with connected_to(cluster, jobs, log, tell) as client:
        from ninscope_pipeline.execution.dask_cluster import OnCluster

        yield OnCluster(client)


@contextmanager
def connected_to(cluster: Cluster, jobs: int, log: Path, tell: Tell) -> "Iterator[Client]":
    """A client of a Dask cluster as [cluster] asks for it; see `at_work`."""
    from ninscope_pipeline.execution.dask_cluster import connected

    if cluster.kind in QUEUES:
        from ninscope_pipeline.execution.batch_jobs import jobs_at_work

        with jobs_at_work(cluster, job_class_of(cluster.kind), jobs, log, tell) as client:
            yield client
    elif cluster.kind == LOCAL:
        with connected(None, cluster.workers or min(cores(), max(jobs, 1))) as client:
            yield client
    else:
        with connected(cluster.address, None) as client:
            _wait_for_a_worker(client, cluster.address, tell)
            yield client


def _wait_for_a_worker(client: "Client", address: str | None, tell: Tell) -> None:
    last_told = -TELL_AGAIN_SECONDS
    while not client.scheduler_info()["workers"]:
        if time.monotonic() - last_told >= TELL_AGAIN_SECONDS:
            last_told = time.monotonic()
            tell(f"waiting for the first worker of the scheduler at {address}")
        time.sleep(0.2)
