"""Run a Dask graph: on local worker processes or a running cluster, with progress, until done or interrupted."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

import dask
from distributed import Client, LocalCluster, as_completed
from distributed.comm.registry import backends
from ninscope.pipeline.graph import Graph
from ninscope.pipeline.stages.outcome import Outcome

from ninscope.errors import RequestError, one_line

CONNECT_SECONDS = 5

# Of local workers. Dask has them give every freed buffer back to the system at once: with a buffer a band, half of the time
# would go into getting its pages again. And it samples their stacks, for a dashboard that nobody has been told of.
_LOCAL = {
    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1},
    "distributed.worker.profile.enabled": False,
}

Done = Callable[[str, str, Outcome], None]


@contextmanager
def connected(scheduler: str | None, workers: int | None) -> Iterator[Client]:
    """A client of the cluster at `scheduler`, or of local worker processes of one thread each (default: one a core).

    Raises RequestError when the scheduler does not answer.
    """
    if scheduler is not None:
        _check_address(scheduler)
        try:
            client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise RequestError(
                f"no Dask scheduler answers at {scheduler} ({reason}); start one or leave --scheduler out"
            ) from None
        with client:
            yield client
        return
    cluster = client = None
    try:
        with _unseen_by_children(signal.SIGINT), dask.config.set(_LOCAL):
            # Quiet: what workers say about being stopped is noise to a user who pressed Ctrl-C.
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
            client = Client(cluster, set_as_default=False)
        yield client
    finally:
        with _ignored(signal.SIGINT):
            for part in (client, cluster):
                if part is not None:
                    part.close()


def _check_address(address: str) -> None:
    """Raises RequestError for what cannot be an address: the client would only find out slowly, and not quietly."""
    scheme, _, place = address.rpartition("://")
    if (scheme or "tcp") not in backends or not place.strip("/"):
        raise RequestError(f"no Dask scheduler answers at {address}: tcp://HOST:PORT was expected")


@contextmanager
def _unseen_by_children(number: int) -> Iterator[None]:
    """Processes and threads started meanwhile never see the signal; this thread sees it afterwards.

    A terminal's Ctrl-C goes to every process of the command. Worker processes are to be stopped by us, not by a
    KeyboardInterrupt each, so they inherit the signal blocked.
    """
    # Started by the first process of a program, and it would unblock the signal in the thread that does.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _ignored(number: int) -> Iterator[None]:
    """A second Ctrl-C while workers are being stopped changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def execute(graph: Graph, client: Client, done: Done) -> dict[tuple[str, str], Outcome]:
    """Run every task; done(stage, key, outcome) is called as each ends. A worker that dies fails its task, not the run."""
    names = list(graph)
    futures = client.compute([graph[name] for name in names])
    name_of = {future.key: name for future, name in zip(futures, names, strict=True)}
    outcomes: dict[tuple[str, str], Outcome] = {}
    try:
        for future in as_completed(futures, loop=client.loop):
            stage, key = name_of[future.key]
            outcome = _outcome_of(future)
            outcomes[stage, key] = outcome
            done(stage, key, outcome)
        # A dying worker takes all its tasks along. Each goes once more, by itself, so that only those that kill stay lost.
        for future, name in zip(futures, names, strict=True):
            if outcomes[name].lost and not _lost_before(graph, name, outcomes):
                future.retry()
                outcomes[name] = _outcome_of(future)
    except BaseException:
        client.cancel(futures, force=True)
        raise
    return outcomes


def _lost_before(graph: Graph, name: tuple[str, str], outcomes: dict[tuple[str, str], Outcome]) -> bool:
    """Whether something that this task waits for is still lost: it would only be killed once more."""
    upstream = set(graph[name].__dask_graph__())
    return any(graph[other].key in upstream for other in graph if other != name and outcomes[other].lost)


def _outcome_of(future) -> Outcome:
    """What a task returned, once it has ended."""
    error = future.exception()
    if error is None:
        return future.result()
    reason = one_line(str(error))
    return Outcome("failed", f"the worker died over it, perhaps for lack of memory ({reason})", lost=True)
