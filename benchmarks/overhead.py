"""What the pipeline costs beside the analysis: tiny tasks through graph, scheduler and store; a run that has nothing to do."""

import time
from pathlib import Path

import numpy as np
from dask.delayed import delayed
from distributed import Client
from ninscope_pipeline.stages.inputs import Inputs
from safetensors.numpy import load_file, save_file

from benchmarks.measures import in_new_process
from benchmarks.shapes import write_checkpoint
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.parameters import Parameters
from ninscope_pipeline import graph as graphs
from ninscope_pipeline.execution.dask_cluster import connected, execute
from ninscope_pipeline.located import Located, Wired
from ninscope_pipeline.outcome import Outcome, attempt
from ninscope_pipeline.plan import Plan
from ninscope_pipeline.request.analyses import DEFAULT, SAMPLED, Wanted
from ninscope_pipeline.stages import network, spectrum
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

WORKERS = 2


def store_tiny(root: str, located: Located, parameters: Parameters, key: str) -> Outcome:
    """In the place of `network.store_network`: an artefact of ten numbers."""
    store = ArtefactStore(RunFolder(root))
    return attempt(
        network.STAGE, key, lambda: store.write(network.STAGE, key, Artefact({"values": np.arange(10.0)}, {}))
    )


def copy_tiny(root: str, built: Outcome, of_network: str, parameters: Parameters, key: str) -> Outcome:
    """In the place of `spectrum.store_spectrum`: the same numbers, read and stored again."""
    store = ArtefactStore(RunFolder(root))
    return attempt(spectrum.STAGE, key, lambda: store.write(spectrum.STAGE, key, store.read(network.STAGE, of_network)))


def nothing(number: int) -> Outcome:
    return Outcome()


def tasks(folder: Path, count: int):
    """A graph of so many tasks, half of them made from the other half, beside a plain Dask graph of as many that do nothing."""
    root = folder / "overhead"
    RunFolder(root).create()
    plan = _plan(count // 2)
    real = network.store_network, spectrum.store_spectrum
    with connected(None, WORKERS) as client:
        client.gather(client.map(np.sqrt, range(100)))
        network.store_network, spectrum.store_spectrum = store_tiny, copy_tiny
        try:
            start = time.perf_counter()
            outcomes = execute(graphs.checkpoint_graph(plan, str(root)), client, lambda *_: None)
            ours = (time.perf_counter() - start) / count
        finally:
            network.store_network, spectrum.store_spectrum = real
        assert all(outcome.ok for outcome in outcomes.values())
        plain = _plain(client, count)
    store, keys = ArtefactStore(RunFolder(root)), list(plan.networks)
    start = time.perf_counter()
    assert all(store.has(stage, key) for stage in (network.STAGE, spectrum.STAGE) for key in keys)
    looking = (time.perf_counter() - start) / (2 * len(keys))
    name = f"overhead of a task, {count} tasks, {WORKERS} workers"
    yield name, ours * 1e3, "ms", f"plain Dask {plain * 1e3:.1f} ms", ours / plain
    yield "", ours * 1e3, "ms", "wanted: 10 ms or less", ours / 10e-3
    yield "looking whether an artefact is there", looking * 1e6, "us", "wanted: 330 us (3,000 a second)", looking * 3000


def _plain(client: Client, count: int) -> float:
    start = time.perf_counter()
    client.gather(client.compute([delayed(nothing, pure=False)(number) for number in range(count)]))
    return (time.perf_counter() - start) / count


def _plan(count: int) -> Plan:
    parameters = Parameters().checked()
    located = {}
    for number in range(count):
        file = FileIdentity("model.safetensors", 10**9, f"{number:064x}", (10**9, number, number))
        identity = Identity(f"step{number}", number, (file,))
        key = f"{number:032x}"
        located[key] = Located(
            "suite", "model", "/weights", f"step{number}", number, Outcome(), identity, "local",
            (Wired(parameters.reading.key, "gpt_neox", "a" * 64, 10**9),), 10**9,
            ((f"/weights/step{number}/model.safetensors", file),),
        )  # fmt: skip
    wanted = Wanted(DEFAULT, SAMPLED, parameters)
    inputs = Inputs((), (), (), (wanted,), None)
    networks = {key: (one, wanted) for key, one in located.items()}
    return Plan(inputs, [], networks=networks, spectra={key: (key, wanted) for key in located})


def repeat(folder: Path, count: int):
    """The repeat of a finished run of so many checkpoints, as a whole process."""
    base = write_checkpoint(folder / "overhead-base", "tiny", vocabulary=8)
    tensors, config = load_file(base / "model.safetensors"), (base / "config.json").read_text()
    source = folder / "many"
    for step in range(count):
        place = source / f"step{step}"
        place.mkdir(parents=True)
        scale = np.float16(1 + step / count)
        save_file({name: values * scale for name, values in tensors.items()}, place / "model.safetensors")
        (place / "config.json").write_text(config)
    dag = folder / "many.toml"
    dag.write_text(
        f"[[models]]\nsuite = 'x'\nmodel = 'x'\nsource = '{source}'\n[analysis]\nnodes_per_layer = 8\nsamples = 1\n"
    )
    code = f"from ninscope_pipeline.cli import main\nsys.argv = ['ninscope', 'run', {str(dag)!r}, '--runs-dir', "
    code += f"{str(folder)!r}]\ntry:\n    main()\nexcept SystemExit as end:\n    result = end.code\n"
    first, again = in_new_process(code), in_new_process(code)
    yield f"run of {count} tiny checkpoints", first["seconds"], "s", "(the first time)", None
    yield f"run of {count} tiny checkpoints, again", again["seconds"], "s", "wanted: under 15 s", again["seconds"] / 15
