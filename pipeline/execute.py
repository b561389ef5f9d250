"""Run a Dask graph: on local worker processes or a running cluster, with progress, until done or interrupted."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster, as_completed
from ninscope.pipeline.graph import Graph
from ninscope.pipeline.stages.outcome import Outcome

from ninscope.errors import RequestError

Done = Callable[[str, str, Outcome], None]


@contextmanager
def connected(scheduler: str | None, workers: int | None) -> Iterator[Client]:
    """A client of the cluster at `scheduler`, or of local worker processes of one thread each (default: one a core).

    Raises RequestError when the scheduler does not answer.
    """
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=20, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise RequestError(
                f"no Dask scheduler answers at {scheduler} ({reason}); start one or leave --scheduler out"
            ) from None
        with client:
            yield client
        return
    # Quiet: what workers say about being stopped is noise to a user who pressed Ctrl-C.
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def execute(graph: Graph, client: Client, done: Done) -> dict[tuple[str, str], Outcome]:
    """Run every task; done(stage, key, outcome) is called as each ends. A worker that dies fails its task, not the run."""
    names = list(graph.tasks)
    futures = client.compute([graph.tasks[name] for name in names])
    name_of = {future.key: name for future, name in zip(futures, names, strict=True)}
    outcomes: dict[tuple[str, str], Outcome] = {}
    try:
        for future in as_completed(futures, loop=client.loop):
            stage, key = name_of[future.key]
            outcome = _outcome_of(future)
            outcomes[stage, key] = outcome
            done(stage, key, outcome)
    except BaseException:
        client.cancel(futures, force=True)
        raise
    return outcomes


def _outcome_of(future) -> Outcome:
    if future.status == "finished":
        return future.result()
    error = future.exception()
    reason = (str(error).splitlines() or [""])[0]
    return Outcome("failed", f"the task was lost: {type(error).__name__}: {reason}")


def counts(stages) -> str:
    """ "14 nin, 14 spectra" for a list of stage names."""
    return ", ".join(f"{number} {stage}" for stage, number in Counter(stages).items())
