"""The axis of training steps that figures share: logarithmic, with a place for step 0."""

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from ninscope.report.layout import label_places


def position(step: ArrayLike) -> np.ndarray:
    """Where a step stands on the log axis: log2(step + 1), so that step 0 has a place too."""
    return np.log2(np.asarray(step, dtype=np.float64) + 1)


def thinned(steps: np.ndarray, least: float = 0.7) -> np.ndarray:
    """Steps to label, int64: no two closer than `least` on the axis, always the last. steps: int64, ascending."""
    kept: list[int] = []
    for step in steps[::-1]:
        if not kept or position(kept[-1]) - position(step) >= least:
            kept.append(int(step))
    return np.array(kept[::-1], dtype=np.int64)


def count(step: int) -> str:
    """ "512", "4k" """
    return f"{step // 1000}k" if step >= 1000 and step % 1000 == 0 else str(step)


def label_steps(axes: Axes, steps: Iterable[int], least: float = 0.7) -> None:
    """Ticks at these steps, as far as they do not crowd."""
    ticks = thinned(np.array(sorted(steps), dtype=np.int64), least)
    label_places(axes.xaxis, position(ticks), [count(step) for step in ticks])
    if len(ticks):
        low, high = axes.get_xlim()
        first, last = position(ticks[[0, -1]])
        if first < low or last > high:  # steps without a value
            axes.set_xlim(min(low, first), max(high, last))
