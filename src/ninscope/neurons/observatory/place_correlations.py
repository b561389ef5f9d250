"""Does a neuron's place in the network tell what it does? Rank correlations of single neurons, and what permutations would give.

Layers differ in both: neurons of late layers may have other places and fire otherwise, and then places and measures correlate
over all layers though they do not within any. So the permutation is within layers: it keeps what a layer's neurons are like
together, and destroys which of them is which. Its mean and variance are exact, so nothing is drawn.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ninscope.correlating.ranks import mid_ranks

LEAST = 3  # neurons that a correlation needs
_NORMAL = 1.959963984540054  # of the standard normal, 95 % lie within so much of 0


def place_correlations(values: pd.DataFrame, places: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """Spearman's correlation of every place with every measure over neurons, beside permutations within layers.

    values: a row a neuron; `layer`, and float64 columns of these names, NaN or infinite where a number is not known. Returned
    is a row a pair, place by place: place, measure, neurons (that have both, int64), correlation (NaN of fewer than 3 neurons,
    or where all are alike), low and high: within which 95 % of permutations lie, by their exact mean and variance and a normal
    distribution (Hoeffding's combinatorial central limit theorem), cut to -1..1.

    With ranks x, y less their means over all neurons, and S their sums of squares within layer l of n_l neurons: the sum of
    x y over permutations of x within layers has the mean sum_l n_l mean_l(x) mean_l(y) and the variance
    sum_l S_l(x) S_l(y) / (n_l - 1).
    """
    layers = pd.factorize(values["layer"])[0]
    rows = []
    for place in places:
        x = values[place].to_numpy(np.float64)
        for measure in measures:
            y = values[measure].to_numpy(np.float64)
            known = np.isfinite(x) & np.isfinite(y)
            found = _correlated(x[known], y[known], layers[known]) if known.sum() >= LEAST else (np.nan,) * 3
            rows.append((place, measure, int(known.sum()), *found))
    return pd.DataFrame(rows, columns=["place", "measure", "neurons", "correlation", "low", "high"])


def _correlated(x: np.ndarray, y: np.ndarray, layers: np.ndarray) -> tuple[float, float, float]:
    """(correlation of ranks, low, high). x, y: float64 [n]; layers: int64 [n]."""
    x, y = (mid_ranks(values) - (len(values) + 1) / 2 for values in (x, y))
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    if scale == 0:
        return (np.nan,) * 3
    counts = np.bincount(layers).astype(np.float64)
    there = counts > 0
    n, sum_x, sum_y, squares_x, squares_y = (
        np.bincount(layers, weights=of)[there] for of in (np.ones_like(x), x, y, x * x, y * y)
    )
    mean = float((sum_x * sum_y / n).sum()) / scale
    spread = (squares_x - sum_x**2 / n) * (squares_y - sum_y**2 / n) / np.maximum(n - 1, 1)
    reach = _NORMAL * float(np.sqrt(np.maximum(spread, 0).sum())) / scale
    correlation = float(np.clip((x * y).sum() / scale, -1, 1))
    return correlation, max(mean - reach, -1.0), min(mean + reach, 1.0)
