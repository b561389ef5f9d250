"""Statistics of weights: beside the exact analysis in whose pass they are counted; singular values beside WeightWatcher."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cpu import commands
from benchmarks.measures import cpu_seconds, in_new_process
from benchmarks.shapes import write_checkpoint

Row = tuple[str, float, str, str, float | None]

_WATCHER = "weightwatcher==0.7.7"


def weights(folder: Path, shape: str, runs: int) -> Iterator[Row]:
    """CPU of the exact analysis with and without counting, in this process, and of whole runs; then of singular values."""
    checkpoint = write_checkpoint(folder / f"weights-{shape}" / "step0", shape, vocabulary=8)
    plain, counted = _analysing(checkpoint, runs)
    name = f"CPU of the exact analysis with weights counted, {shape} shape"
    yield name, counted, "s", f"without {plain:.2f} s; wanted: 1.15 times", counted / plain
    yield from _running(folder, checkpoint, shape, runs)
    yield from _singular_values(checkpoint, shape)
    shutil.rmtree(checkpoint.parent)


def _analysing(checkpoint: Path, runs: int) -> list[float]:
    """Least CPU seconds of the analysis alone, and with the weights counted as well, taken in turn."""
    code = (
        "import time\n"
        "from ninscope.checkpoints.source import open_source\n"
        "from ninscope.exact.whole import exact_analysis\n"
        "from ninscope.networks.neuron_network import neuron_network\n"
        "from ninscope.parameters import Parameters\n"
        "from ninscope.weights.counting import WeightCounter\n"
        f"source = open_source({str(checkpoint.parent)!r})\n"
        "network = neuron_network(source.open('step0'))\n"
        "def counted():\n"
        "    counter = WeightCounter(network)\n"
        "    exact_analysis(network, Parameters(nodes_per_layer='all'), passenger=counter)\n"
        "    counter.weights()\n"
        "works = [lambda: exact_analysis(network, Parameters(nodes_per_layer='all')), counted]\n"
        "result = [float('inf')] * 2\n"
        f"for number in range({runs} + 1):\n"
        "    for place, work in enumerate(works):\n"
        "        start = time.process_time()\n"
        "        work()\n"
        "        if number:\n"
        "            result[place] = min(result[place], time.process_time() - start)\n"
    )
    return in_new_process(code)["result"]


def _running(folder: Path, checkpoint: Path, shape: str, runs: int) -> Iterator[Row]:
    """`ninscope run` with an exact analysis, and the same with [weights]."""
    text = (
        f"[[models]]\nsuite = 'x'\nmodel = 'x'\nsource = '{checkpoint.parent}'\n[analysis]\nnodes_per_layer = 'all'\n"
    )
    runs_dir = folder / "weights-runs"
    called = []
    for name, section in (("plain", ""), ("weights", "[weights]\nchanges = false\n")):
        dag = folder / f"{name}.toml"
        dag.write_text(text + section)
        called.append([*commands(None)["here"], "run", str(dag), "--runs-dir", str(runs_dir)])
    plain, counted = cpu_seconds(called, runs, lambda: shutil.rmtree(runs_dir, ignore_errors=True))
    name = f"CPU of an exact run with the section weights, {shape} shape"
    yield name, counted, "s", f"without {plain:.2f} s; wanted: 1.15 times", counted / plain
    shutil.rmtree(runs_dir, ignore_errors=True)


def _singular_values(checkpoint: Path, shape: str) -> Iterator[Row]:
    """One process each, one thread, the same weights; WeightWatcher where it and torch are installed."""
    environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    ours = (
        "import time\n"
        "from ninscope.checkpoints.source import open_source\n"
        "from ninscope.networks.neuron_network import neuron_network\n"
        "from ninscope.weights.singular_values import network_singular_values\n"
        f"source = open_source({str(checkpoint.parent)!r})\n"
        "network = neuron_network(source.open('step0'))\n"
        "start = time.process_time()\n"
        "network_singular_values(network)\n"
        "result = time.process_time() - start\n"
    )
    seconds = in_new_process(ours, _with(environment))["result"]
    name = f"CPU of singular values, {shape} shape, one thread"
    if any(importlib.util.find_spec(module) is None for module in ("weightwatcher", "torch")):
        yield name, seconds, "s", f"(no {_WATCHER} to compare with: pip install it and torch)", None
        return
    theirs = (
        "import contextlib, io, logging, time, torch\n"
        "from safetensors.torch import load_file\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    import weightwatcher\n"
        "logging.disable(logging.WARNING)\n"
        "layers = []\n"
        f"for name, values in load_file({str(checkpoint / 'model.safetensors')!r}).items():\n"
        "    if 'embed' not in name:\n"
        "        layer = torch.nn.Linear(values.shape[1], values.shape[0], bias=False)\n"
        "        layer.weight.data = values.float()\n"
        "        layers.append(layer)\n"
        "start = time.process_time()\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    weightwatcher.WeightWatcher(model=torch.nn.Sequential(*layers)).analyze()\n"
        "result = time.process_time() - start\n"
    )
    watched = in_new_process(theirs, _with(environment))["result"]
    yield name, seconds, "s", f"{_WATCHER} analyze() {watched:.1f} s; wanted: 0.5 times", seconds / watched


def _with(environment: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
