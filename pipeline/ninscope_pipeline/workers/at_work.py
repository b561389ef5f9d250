"""Workers as [cluster] asks for them, and a client of theirs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ninscope_pipeline.asked.cluster import LOCAL, QUEUES, Cluster, job_class_of
from ninscope_pipeline.workers import TELL_AGAIN_SECONDS, Tell


@contextmanager
def at_work(cluster: Cluster, tasks: int, log: Path, tell: Tell) -> Iterator:
    """A client of a Dask cluster with workers for so many tasks. log: folder for what jobs print; tell: takes one line.

    Nothing is left running afterwards but the scheduler at an address. Raises RequestError: no scheduler answers, no job can
    be submitted, or all jobs end before a worker comes.
    """
    from ninscope_pipeline.workers.execute import connected

    if cluster.kind in QUEUES:
        from ninscope_pipeline.workers.jobs import jobs_at_work

        with jobs_at_work(cluster, job_class_of(cluster.kind), tasks, log, tell) as client:
            yield client
    elif cluster.kind == LOCAL:
        from ninscope.threads import cores

        with connected(None, cluster.workers or min(cores(), tasks)) as client:
            yield client
    else:
        with connected(cluster.address, None) as client:
            _wait_for_a_worker(client, cluster.address, tell)
            yield client


def _wait_for_a_worker(client, address: str, tell: Tell) -> None:
    told = -TELL_AGAIN_SECONDS
    while not client.scheduler_info()["workers"]:
        if time.monotonic() - told >= TELL_AGAIN_SECONDS:
            told = time.monotonic()
            tell(f"waiting for the first worker of the scheduler at {address}")
        time.sleep(0.2)
