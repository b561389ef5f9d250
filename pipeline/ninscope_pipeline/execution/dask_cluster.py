"""Jobs on a Dask cluster: of worker processes of this machine, or one that runs already."""

import logging
import signal
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from threading import Event

import dask
from dask.typing import Key
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed
from distributed.comm.core import CommClosedError
from distributed.comm.registry import backends
from distributed.core import Status
from tornado.ioloop import PeriodicCallback

from ninscope.errors import NinscopeError, RequestError, described
from ninscope_pipeline.execution import Died, Done
from ninscope_pipeline.execution.graph import Graph, job_graph
from ninscope_pipeline.execution.here import DIED
from ninscope_pipeline.execution.signals import ignored, unseen_by_children
from ninscope_pipeline.execution.thread_watch import ThreadWatch
from ninscope_pipeline.outcome import Outcome, with_log
from ninscope_pipeline.stages.stage import Job, JobId

CONNECT_SECONDS = 5
START_SECONDS = 120  # for a local worker to start, and for a run without any to go on
REPLACE_SECONDS = 5  # between looks for lost ones
WATCH_SECONDS = 5.0  # between looks of a worker at its threads

# Of local workers. Dask has them give every freed buffer back to the system at once: with a buffer a band, half of the time
# would go into getting its pages again. And it samples their stacks, for a dashboard that nobody has been told of.
_LOCAL = {
    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1},
    "distributed.worker.profile.enabled": False,
}


class ClusterError(NinscopeError):
    """The cluster that a run was on is gone."""


@contextmanager
def connected(scheduler: str | None, workers: int | None) -> Iterator[Client]:
    """A client of the cluster at `scheduler`, or of local worker processes of one thread each (default: one a core).

    Raises RequestError when the scheduler does not answer, ClusterError when no local worker can be started.
    """
    if scheduler is not None:
        with _client_of(scheduler) as client_elsewhere:
            yield client_elsewhere
        return
    cluster: LocalCluster | None = None
    client: Client | None = None
    given_up = Event()
    try:
        with dask.config.set(_LOCAL):  # as long as workers are started
            with unseen_by_children(signal.SIGINT):
                cluster = _local_cluster(workers)
                _keep_up(cluster, given_up)
                client = Client(cluster, set_as_default=False)
            yield client
    except ClusterError:
        if given_up.is_set():
            raise _no_worker(f"all are gone, and no other could be started within {START_SECONDS} s") from None
        raise
    finally:
        with ignored(signal.SIGINT):
            for part in (client, cluster):
                if part is not None:
                    part.close()


def _local_cluster(workers: int | None) -> LocalCluster:
    """Raises ClusterError when a worker does not start."""
    begun = time.monotonic()
    try:
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,  # what workers say about being stopped is noise to a user who pressed Ctrl-C
            death_timeout=START_SECONDS,
        )
    except Exception as error:  # Dask's own assertion, too, where a worker is stopped while it starts
        is_late = time.monotonic() - begun >= START_SECONDS
        reason = f"one has not started within {START_SECONDS} s" if is_late else described(error)
        raise _no_worker(reason) from None


def _no_worker(reason: str) -> ClusterError:
    return ClusterError(
        f"no local worker process can be started ({reason}); try with fewer workers, or with threads "
        "(processes = false in [cluster], --workers 1)"
    )


def _client_of(scheduler: str) -> Client:
    """A client of the scheduler at an address. Raises RequestError when it does not answer."""
    _check_address(scheduler)
    try:
        return Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise RequestError(
            f"no Dask scheduler answers at {scheduler} ({reason}); start one, or run elsewhere (--scheduler local: here)"
        ) from None


def _keep_up(cluster: LocalCluster, given_up: Event) -> None:
    """Have workers replaced that are gone for good.

    Dask gives up one that dies once more while it is being started again, and with none left a run would wait for ever. Where no
    other comes either, the scheduler is closed, which ends the run, and `given_up` is set.
    """
    count, loop, scheduler = len(cluster.worker_spec), cluster.loop, cluster.scheduler
    last_seen = time.monotonic()
    if loop is None or scheduler is None:
        raise RuntimeError("a cluster of local workers has no event loop")

    def replace() -> None:
        nonlocal last_seen
        if scheduler.workers:
            last_seen = time.monotonic()
        elif time.monotonic() - last_seen > START_SECONDS and not given_up.is_set():
            given_up.set()
            cluster.shutdown_scheduler = False  # by the cluster, which would wait half a minute for an answer of it
            loop.add_callback(scheduler.close)
            return
        for name, nanny in list(cluster.workers.items()):
            if nanny.status in (Status.failed, Status.closed):
                del cluster.workers[name]
        cluster.scale(count)

    cluster.periodic_callbacks["replace"] = replacing = PeriodicCallback(replace, 1000 * REPLACE_SECONDS)
    loop.add_callback(replacing.start)


def _check_address(address: str) -> None:
    """Raises RequestError for what cannot be an address: the client would only find out slowly, and not quietly."""
    scheme, _, host = address.rpartition("://")
    if (scheme or "tcp") not in backends or not host.strip("/"):
        raise RequestError(f"no Dask scheduler answers at {address}: tcp://HOST:PORT was expected")


class OnCluster:
    """Runs jobs on the workers of a Dask client. A worker that dies fails its job at most, not the run."""

    def __init__(self, client: Client):
        self._client = client

    def execute(self, root: str, jobs: Sequence[Job], done: Done, died: Died) -> Mapping[JobId, Outcome]:
        """See `Executor`."""
        return execute(job_graph(jobs, root), self._client, done, died)


def execute(graph: Graph, client: Client, done: Done, died: Died = lambda *_: None) -> dict[JobId, Outcome]:
    """Run every job of a graph; see `Executor`."""
    outcomes: dict[JobId, Outcome] = {}
    with scheduler_kept(client):
        futures = client.compute([graph[job_id] for job_id in graph])
        id_of: dict[Key, JobId] = {future.key: job_id for future, job_id in zip(futures, graph, strict=True)}
        try:
            for batch in as_completed(futures, loop=client.loop).batches():
                for future, outcome in zip(batch, _outcomes_of(batch, id_of, client), strict=True):
                    outcomes[id_of[future.key]] = outcome
                    if not outcome.lost:
                        done(id_of[future.key], outcome)
            for worker, keys in _deaths(client):
                if ours := [id_of[key] for key in keys if key in id_of]:
                    died(worker, ours)
            _try_again(graph, futures, id_of, outcomes, done)
        except BaseException:
            if client.status == "running":
                client.cancel(futures, force=True)
            raise
    return outcomes


@contextmanager
def scheduler_kept(client: Client) -> Iterator[None]:
    """Raises ClusterError when the scheduler is lost meanwhile. Workers whose threads die are replaced."""
    # It would tell of every attempt to find the scheduler again, long after we have said that it is gone.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    where = "" if client.scheduler is None else f" at {client.scheduler.address}"
    try:
        with suppress(ImportError):  # workers that lack ninscope: their tasks say so
            client.register_plugin(ThreadWatch(WATCH_SECONDS))
        yield
    except NinscopeError:
        raise
    except Exception as error:
        if client.status == "running" and not isinstance(error, (CancelledError, CommClosedError)):
            raise
        raise ClusterError(
            f"the Dask scheduler{where} is gone; start it and run the same command again, which goes on from there"
        ) from None


def _try_again(
    graph: Graph,
    futures: Sequence[Future],
    id_of: Mapping[Key, JobId],
    outcomes: dict[JobId, Outcome],
    done: Done,
) -> None:
    """A dying worker takes all its tasks along. Each goes once more, by itself, so that only those that kill stay lost."""
    lost = {graph[job_id].key for job_id, outcome in outcomes.items() if outcome.lost}
    for future in futures:
        job_id = id_of[future.key]
        if future.key not in lost:
            continue
        # What waits for something that is still lost would only be killed once more.
        if not lost & (set(graph[job_id].__dask_graph__()) - {future.key}):
            future.retry()
            outcomes[job_id] = outcome_of(future, id_of)
            if not outcomes[job_id].lost:
                lost.discard(future.key)
        done(job_id, outcomes[job_id])


def _outcomes_of(futures: Sequence[Future], id_of: Mapping[Key, JobId], client: Client) -> list[Outcome]:
    """What tasks that have ended returned, in one request where none of them failed."""
    try:
        return client.gather(futures)
    except Exception:
        return [outcome_of(future, id_of) for future in futures]


def outcome_of(future: Future, id_of: Mapping[Key, JobId]) -> Outcome:
    """What a task returned, once it has ended, or what became of it. Raises what concerns all tasks."""
    try:
        return future.result()
    except KilledWorker as error:
        # Tasks that wait for the one that was being run have the same error, and nothing to add to its log.
        name = id_of.get(error.task, id_of[future.key])
        message = with_log(DIED, *name)
        return Outcome("failed", message, f"{error}\n" if name == id_of[future.key] else "", lost=True)
    except NinscopeError:
        raise
    except Exception as error:
        if future.status != "error":
            raise
        message = with_log(f"{type(error).__name__}: {error}", *id_of[future.key])  # the worker lacks ninscope, say
        return Outcome("failed", message, "".join(traceback.format_exception(error)))


def _deaths(client: Client) -> list[tuple[str, set[Key]]]:
    """(address, tasks it had) of each worker that died, as far as the scheduler remembers."""
    return [
        (event["worker"], event["processing-tasks"])
        for _, event in client.get_events("all")
        if event.get("action") == "remove-worker" and not event["expected"]
    ]
