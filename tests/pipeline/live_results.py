"""What a training hands over of checkpoints that lie in files, measured whole with controls, and a training that is killed."""

import os
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path

from counted_networks import counted, network_of

from ninscope.exact.controls import Start, control_readings
from ninscope.exact.whole import exact_analysis
from ninscope.measurement import exact_measurement
from ninscope.parameters import Parameters
from ninscope.weights.counting import network_weights
from ninscope_pipeline.live import LiveRequest, LiveResult, LiveRun
from ninscope_pipeline.live.record import LiveRecord

SUITE = Path(__file__).parents[2] / "data" / "stdlib-neox-67k"
WHOLE = Parameters("all", parts=["block"])


def asked(**about):
    return LiveRequest(**{"name": "training", "model": "neox", "parameters": WHOLE, "every": 64} | about)


@cache
def opened(step, suite=SUITE):
    return network_of(suite / f"step{step}", WHOLE)


def result(step, start=0, suite=SUITE, **more):
    """What a training hands over of a step. start: the step of its baseline."""
    return replace(_measured(step, start, suite), **more)


def with_counts(given, suite=SUITE):
    """The same result with what a snapshot keeps."""
    network, _ = opened(given.step, suite)
    counts, totals, squares = counted(network, suite / f"step{given.step}")
    return replace(given, counts=counts, totals=totals, squares=squares)


@cache
def _measured(step, start, suite):
    network, numbers = opened(step, suite)
    weights = network_weights(network)
    against = None
    if step != start:
        other, _ = opened(start, suite)
        against = Start(other, network_weights(other).rms, other.revision)
    readings, note = control_readings(network, weights.rms, WHOLE, against)
    measured = exact_measurement(exact_analysis(network, WHOLE))
    return LiveResult(
        step=step,
        network=network,
        parameters_count=numbers,
        measurement=measured,
        norms=weights.statistics,
        readings=readings,
        note=note,
    )


def record(folder, *results, finish=True, **about):
    """A training that hands these over."""
    live = LiveRun(folder, asked(**about))
    for one in results:
        live.add(one)
    if finish:
        live.finish()
    else:
        live.close()
    return live


def add_and_be_killed(folder, step):
    """Add a step, and be killed, -9, when all but the record is written."""
    live = LiveRun(folder, asked())
    LiveRecord.write = lambda self, folder: os.kill(os.getpid(), signal.SIGKILL)
    live.add(result(int(step)))
