"""Correlations of measures with benchmark results over training, beside a loop over scipy's Spearman correlation."""

import time
from collections.abc import Iterator

import numpy as np

from ninscope.correlating.blocks import block_length, drawn_places
from ninscope.correlating.over_training import Resampling, correlations

Row = tuple[str, float, str, str, float | None]


def correlated(measures: int, tasks: int, steps: int, replicates: int, runs: int) -> Iterator[Row]:
    """CPU seconds of all pairs with intervals, nulls and lags; the loop has intervals of levels and differences, of one pair."""
    generator = np.random.default_rng(0)
    x, y = (generator.standard_normal((count, steps)).cumsum(axis=1) for count in (measures, tasks))
    resampling = Resampling(replicates=replicates)
    correlations(x[:1], y[:1], resampling)
    ours = min(_seconds(lambda: correlations(x, y, resampling)) for _ in range(runs))
    naive = _seconds(lambda: _loop(x[0], y[0], replicates)) * measures * tasks
    name = f"correlations, {measures} measures x {tasks} tasks x {steps} steps, {replicates} resamples"
    yield name, ours, "s CPU", "wanted: under 5 s", ours / 5
    yield "", ours, "s CPU", f"scipy, intervals alone {naive:.0f} s (one pair times {measures * tasks})", ours / naive


def _loop(x: np.ndarray, y: np.ndarray, replicates: int) -> list[list[float]]:
    from scipy.stats import spearmanr

    drawn = []
    for a, b in ((x, y), (np.diff(x), np.diff(y))):
        places = drawn_places(len(a), block_length(len(a)), replicates, 0, "")
        drawn.append([spearmanr(a[row], b[row]).statistic for row in places])
    return np.quantile(drawn, [0.025, 0.975], axis=1).tolist()


def _seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
