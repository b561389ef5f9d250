"""The axis of training steps that figures share: logarithmic, with a place for step 0."""

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from ninscope.report.layout import label_places

MOST_TICKS = 40  # of an axis; with more steps only those with labels have one
_LONG = 12.0  # an axis of steps 0 to 4000; on a shorter one labels may stand closer


def position(step: ArrayLike) -> np.ndarray:
    """Where a step stands on the log axis: log2(step + 1), so that step 0 has a place too."""
    return np.log2(np.asarray(step, dtype=np.float64) + 1)


def thinned(steps: np.ndarray, least: float = 0.7) -> np.ndarray:
    """Steps to label, int64: no two closer than `least` on the axis, always the last. steps: int64, ascending.

    Of an axis shorter than that of steps 0 to 4000, `least` is as much less, and more for longer labels.
    """
    if len(steps):
        length, widest = np.ptp(position(steps[[0, -1]])), max(len(count(int(step))) for step in steps)
        least *= min(1.0, length / _LONG * max(1.0, (widest + 1) / 4))
    kept: list[int] = []
    last = np.inf
    for step, place in zip(steps[::-1].tolist(), position(steps)[::-1].tolist(), strict=True):
        if last - place >= least:
            kept.append(step)
            last = place
    return np.array(kept[::-1], dtype=np.int64)


def count(step: int) -> str:
    """ "512", "4k" """
    return f"{step // 1000}k" if step >= 1000 and step % 1000 == 0 else str(step)


def label_steps(axes: Axes, steps: Iterable[int], least: float = 0.7) -> None:
    """A tick at every one of these steps, unless they are very many; labels as far as they do not crowd."""
    every = np.array(sorted(steps), dtype=np.int64)
    labelled = thinned(every, least)
    ticks = every if len(every) <= MOST_TICKS else labelled
    known = set(labelled.tolist())
    label_places(axes.xaxis, position(ticks), [count(step) if step in known else "" for step in ticks.tolist()])
    if len(ticks):
        low, high = axes.get_xlim()
        first, last = position(ticks[[0, -1]])
        if first < low or last > high:  # steps without a value
            axes.set_xlim(min(low, first), max(high, last))


def cell_edges(places: np.ndarray) -> np.ndarray:
    """Where the cells of a map about these ascending places begin and end: halfway. float64 [n] -> [n + 1]; n >= 1."""
    if places.size == 1:
        return places[0] + np.array([-0.5, 0.5])
    middles = (places[1:] + places[:-1]) / 2
    return np.concatenate([[2 * places[0] - middles[0]], middles, [2 * places[-1] - middles[-1]]])
