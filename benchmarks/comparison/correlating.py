"""Which measure goes with the held-out loss over the steps of one training, after the step is taken out.

Statistics of a measure and the loss over the kept checkpoints:

- levels: Spearman's rank correlation.
- partial: both are regressed on ln(1 + step), and the residuals' ranks correlated. Not the rank form that `[correlations]` has
  (docs/method.md#correlations): the loss falls at every kept step, so that nothing of its ranks is left given the step.
- bent: the same with ln(1 + step) and its square taken out.
- differences: Spearman's rank correlation of the changes from each kept step to the next.

Intervals are of 95 %, percentiles of 2,000 replicates of the block bootstrap of `[correlations]` (blocks of three checkpoints),
the regression fitted anew in each. Beside them stands what a measure reaches that knows nothing of the loss: the 95th percentile
of |correlation| of 2,000 random walks over the same steps. Neighbouring checkpoints are alike, and 14 points leave much to chance.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from ninscope.correlating.blocks import block_length, drawn_places

REPLICATES, CONFIDENCE, SEED = 2000, 0.95, 0

Floats = NDArray[np.float64]
Statistic = Callable[[Floats, Floats, Floats], Floats]


def rank_correlation(x: Floats, y: Floats) -> Floats:
    """Spearman's, of each row: x, y float64 [replicates, points] -> [replicates]; nan where a row is constant."""
    ranked = [rankdata(values, axis=-1) for values in (x, y)]
    a, b = (ranks - ranks.mean(-1, keepdims=True) for ranks in ranked)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def without_step(values: Floats, log_step: Floats, degree: int) -> Floats:
    """Residuals of a least-squares polynomial in the log step, of each row. values, log_step: float64 [replicates, points]."""
    centred = log_step - log_step.mean(-1, keepdims=True)
    basis, _ = np.linalg.qr(np.stack([centred**power for power in range(degree + 1)], axis=-1))
    residuals = values - (basis @ (np.swapaxes(basis, -1, -2) @ values[..., None]))[..., 0]
    # What is a polynomial of the step leaves rounding alone, whose ranks mean nothing.
    spread = np.abs(values - values.mean(-1, keepdims=True)).max(-1, keepdims=True)
    return np.where(np.abs(residuals).max(-1, keepdims=True) > 1e-9 * spread, residuals, 0.0)


def _levels(x: Floats, y: Floats, log_step: Floats) -> Floats:
    return rank_correlation(x, y)


def _without(degree: int) -> Statistic:
    return lambda x, y, log_step: rank_correlation(*(without_step(values, log_step, degree) for values in (x, y)))


# Differences are taken before checkpoints are drawn: what a block holds are neighbours.
STATISTICS: dict[str, Statistic] = {
    "levels": _levels,
    "partial": _without(1),
    "bent": _without(2),
    "differences": _levels,
}


def as_they_are_and_drawn(points: int) -> NDArray[np.int64]:
    """Places of checkpoints: int64 [REPLICATES + 1, points], the first row as they are, the others in circular blocks."""
    drawn = drawn_places(points, block_length(points), REPLICATES, SEED, "comparison")
    return np.vstack([np.arange(points), drawn])


def correlated(x: Floats, y: Floats, step: Floats, statistic: str) -> tuple[float, float, float]:
    """(correlation, low, high) of a measure and the loss by a name in STATISTICS; nan where there is none.

    x, y, step: float64 [points], ascending by step; points where the measure is nan are left out.
    """
    known = np.isfinite(x)
    x, y, log_step = x[known], y[known], np.log1p(step[known])
    if statistic == "differences":
        x, y, log_step = np.diff(x), np.diff(y), log_step[1:]
    places = as_they_are_and_drawn(len(x))
    values = STATISTICS[statistic](x[places], y[places], log_step[places])
    replicates = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or len(replicates) < REPLICATES // 2:
        return float("nan"), float("nan"), float("nan")
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(replicates, [tail, 100 - tail])
    return float(values[0]), float(low), float(high)


def by_chance(y: Floats, step: Floats, statistic: str) -> float:
    """What 95 % of random walks over these steps stay below in |correlation| with the loss."""
    walks = np.random.default_rng(SEED).normal(size=(REPLICATES, len(y))).cumsum(-1)
    losses, log_steps = np.broadcast_to(y, walks.shape), np.broadcast_to(np.log1p(step), walks.shape)
    if statistic == "differences":
        walks, losses, log_steps = np.diff(walks), np.diff(losses), log_steps[:, 1:]
    return float(np.quantile(np.abs(STATISTICS[statistic](walks, losses, log_steps)), CONFIDENCE))


def correlations(measures: pd.DataFrame, loss: pd.Series) -> pd.DataFrame:
    """A row a measure, and a last one for chance: tool, measure, points, and each statistic with its ends, NAME_low and NAME_high.

    measures: tool, measure, step, value. loss: by step.
    """
    rows = []
    for (tool, name), values in measures.groupby(["tool", "measure"], sort=False):
        ordered = values.set_index("step")["value"].sort_index()
        x, y, step = ordered.to_numpy(float), loss[ordered.index].to_numpy(float), ordered.index.to_numpy(float)
        row: dict[str, object] = {"tool": tool, "measure": name, "points": int(np.isfinite(x).sum())}
        for statistic in STATISTICS:
            ends = correlated(x, y, step, statistic)
            row |= dict(zip((statistic, f"{statistic}_low", f"{statistic}_high"), ends, strict=True))
        rows.append(row)
    ordered_loss = loss.sort_index()
    chance: dict[str, object] = {"tool": "chance", "measure": "random walks", "points": len(loss)}
    for statistic in STATISTICS:
        chance[statistic] = by_chance(ordered_loss.to_numpy(float), ordered_loss.index.to_numpy(float), statistic)
    return pd.DataFrame([*rows, chance])
