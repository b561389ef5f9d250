"""What the pipeline costs beside the analysis: tiny jobs through graph, scheduler and store; a run that has nothing to do."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from dask.delayed import delayed
from distributed import Client

from benchmarks.cpu import suite_of
from benchmarks.measures import in_new_process
from benchmarks.shapes import write_checkpoint
from ninscope_pipeline.execution.dask_cluster import connected, execute
from ninscope_pipeline.execution.graph import job_graph
from ninscope_pipeline.outcome import Outcome, attempt
from ninscope_pipeline.stages.stage import Job
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import Artefact, ArtefactStore


def store_tiny(root: str, job: Job, needs: Sequence[Outcome]) -> Outcome:
    """In the place of a stage's work: an artefact of ten numbers, or the same numbers, read and stored again."""
    store = ArtefactStore(RunFolder(root))

    def work() -> None:
        made = store.read(*job.needs[0]) if job.needs else Artefact({"values": np.arange(10.0)}, {})
        store.write(job.stage, job.key, made)

    return attempt(job.stage, job.key, work)


def nothing(number: int) -> Outcome:
    return Outcome()


def tasks(folder: Path, count: int, workers: int):
    """A graph of so many jobs, half of them made from the other half, beside a plain Dask graph of as many that do nothing."""
    root = folder / "overhead"
    RunFolder(root).create()
    keys = [f"{number:032x}" for number in range(count // 2)]
    jobs = [Job("nin", key, key, None) for key in keys]
    jobs += [Job("spectra", key, key, None, (("nin", key),)) for key in keys]
    with connected(None, workers) as client:
        client.gather(client.map(np.sqrt, range(100)))
        start = time.perf_counter()
        outcomes = execute(job_graph(jobs, str(root), store_tiny), client, lambda *_: None)
        ours = (time.perf_counter() - start) / count
        assert all(outcome.ok for outcome in outcomes.values())
        plain = _plain(client, count)
    store = ArtefactStore(RunFolder(root))
    start = time.perf_counter()
    assert all(store.has(*job.id) for job in jobs)
    looking = (time.perf_counter() - start) / len(jobs)
    name = f"overhead of a task, {count} tasks, {workers} workers"
    yield name, ours * 1e3, "ms", f"plain Dask {plain * 1e3:.1f} ms", ours / plain
    yield "", ours * 1e3, "ms", "wanted: 10 ms or less", ours / 10e-3
    yield "looking whether an artefact is there", looking * 1e6, "us", "wanted: 330 us (3,000 a second)", looking * 3000


def _plain(client: Client, count: int) -> float:
    start = time.perf_counter()
    client.gather(client.compute([delayed(nothing, pure=False)(number) for number in range(count)]))
    return (time.perf_counter() - start) / count


def repeat(folder: Path, count: int):
    """The repeat of a finished run of so many checkpoints, as a whole process."""
    base = write_checkpoint(folder / "overhead-base", "tiny", vocabulary=8)
    source = suite_of(base, folder / "many", count)
    dag = folder / "many.toml"
    dag.write_text(
        f"[[models]]\nsuite = 'x'\nmodel = 'x'\nsource = '{source}'\n[analysis]\nnodes_per_layer = 8\nsamples = 1\n"
    )
    code = f"from ninscope_pipeline.cli import main\nsys.argv = ['ninscope', 'run', {str(dag)!r}, '--runs-dir', "
    code += f"{str(folder)!r}]\ntry:\n    main()\nexcept SystemExit as end:\n    result = end.code\n"
    first, again = in_new_process(code), in_new_process(code)
    yield f"run of {count} tiny checkpoints", first["seconds"], "s", "(the first time)", None
    yield f"run of {count} tiny checkpoints, again", again["seconds"], "s", "wanted: under 15 s", again["seconds"] / 15
