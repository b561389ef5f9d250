"""Controls of E and the jackknife, beside the plain exact analysis of the same file in the same process."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measures import in_new_process
from benchmarks.shapes import SHAPES, write_checkpoint

Row = tuple[str, float, str, str, float | None]

_SETUP = """
import time
import numpy as np
from ninscope.checkpoints.source import open_source
from ninscope.exact.controls import growth_reading, unit_readings
from ninscope.exact.rescaled import rescaled_layers
from ninscope.exact.whole import exact_analysis
from ninscope.multifractal import jackknife
from ninscope.networks.neuron_network import neuron_network
from ninscope.parameters import Parameters
from ninscope.weights.counting import WeightCounter, network_weights

source = open_source({source!r})
now, start = (neuron_network(source.open(step)) for step in ("step1", "step0"))
parameters = Parameters(nodes_per_layer="all")
start_rms = network_weights(start).rms  # a run knows it from the baseline's own turn


def controls():
    counter = WeightCounter(now)
    exact_analysis(now, parameters, passenger=counter)
    rms = counter.weights().rms
    unit_readings(now, rms, parameters, start_rms)
    growth_reading(start, start_rms, rms, parameters)


def least(works):
    result = [float("inf")] * len(works)
    for number in range({runs} + 1):
        for place, work in enumerate(works):
            begin = time.process_time()
            work()
            if number:
                result[place] = min(result[place], time.process_time() - begin)
    return result
"""


def controls(folder: Path, shape: str, runs: int) -> Iterator[Row]:
    """A checkpoint and its baseline: everything that `[controls]` computes beside the exact analysis."""
    place = folder / f"controls-{shape}"
    for seed, step in enumerate(("step0", "step1")):
        write_checkpoint(place / step, shape, seed, vocabulary=8)
    setup = _SETUP.format(source=str(place), runs=runs)
    found = in_new_process(setup + "result = least([lambda: exact_analysis(now, parameters), controls])\n")
    plain, controlled = found["result"]
    name = f"CPU of the exact analysis with controls, {shape} shape"
    yield name, controlled, "s", f"without {plain:.2f} s; wanted: 2.5 times", controlled / plain
    _, width, _ = SHAPES[shape]
    limit = 2 * 4 * width * width * 2 + 400_000_000  # one tensor of each of both checkpoints, and 400 MB
    name = f"peak memory of controls, {shape} shape"
    yield name, found["peak"] / 1e6, "MB", f"(whole process; wanted: under {limit / 1e6:.0f} MB)", found["peak"] / limit
    leaving = (
        "ones = {f'{block.source} -> {block.target}': 1.0 for block in now.blocks}\n"
        "layers = [layer.sums[0] for layer in rescaled_layers(now, parameters, parameters.integer_radii, [ones])]\n"
        "radii = parameters.integer_radii.logarithms\n"
        "leave_out = lambda: jackknife.left_out_values(layers, parameters.q, radii)\n"
        "result = least([lambda: exact_analysis(now, parameters, statistics=True), leave_out])\n"
    )
    whole, left_out = in_new_process(setup + leaving)["result"]
    name = f"CPU of the jackknife, {shape} shape"
    yield name, left_out * 1e3, "ms", f"the analysis with it {whole:.2f} s; wanted: 0.05 times", left_out / whole
    shutil.rmtree(place)
