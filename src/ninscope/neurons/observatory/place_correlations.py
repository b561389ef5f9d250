"""Does a neuron's place in the network tell what it does? Rank correlations of single neurons, and what permutations would give.

Layers differ in both: neurons of late layers may have other places and fire otherwise, and then places and measures correlate
over all layers though they do not within any. So the permutation is within layers: it keeps what a layer's neurons are like
together, and destroys which of them is which. Its mean and variance are exact, so nothing is drawn.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ninscope.correlating.ranks import mid_ranks

# What a neuron's place in the network is, by its column among the single neurons of an exact analysis (`NodeValues`).
PLACES = {"alpha": "dimension", "mean_distance": "average_weighted_degree", "degree": "edges"}
LEAST = 3  # neurons that a correlation needs
NUMBERS = ("correlation", "low", "high")
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
    ranked = _Ranked(values)
    rows = []
    for place in places:
        for measure in measures:
            count, *found = ranked.correlated(place, measure)
            rows.append((place, measure, count, *found))
    columns = {"place": "str", "measure": "str", "neurons": "int64", **dict.fromkeys(NUMBERS, "float64")}
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


class _Ranked:
    """Ranks among the neurons that have a pair of columns, each taken once: most columns are known of the same neurons."""

    def __init__(self, values: pd.DataFrame) -> None:
        self._values = values
        self._layers = pd.factorize(values["layer"])[0]
        self._columns: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._among: dict[bytes, dict[str, _Deviations]] = {}

    def correlated(self, place: str, measure: str) -> tuple[int, float, float, float]:
        """(neurons that have both, correlation, low, high)."""
        known = self._column(place)[1] & self._column(measure)[1]
        count = int(known.sum())
        if count < LEAST:
            return count, *(np.nan,) * 3
        among = self._among.setdefault(known.tobytes(), {})
        for name in (place, measure):
            if name not in among:
                among[name] = _Deviations(self._column(name)[0][known], self._layers[known])
        return count, *_correlated(among[place], among[measure])

    def _column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(numbers, which of them are known)."""
        if name not in self._columns:
            numbers = self._values[name].to_numpy(np.float64)
            self._columns[name] = numbers, np.isfinite(numbers)
        return self._columns[name]


class _Deviations:
    """Ranks less their mean, and their sums by layer. values: float64 [n], finite; layers: int64 [n]."""

    def __init__(self, values: np.ndarray, layers: np.ndarray) -> None:
        self.ranks = mid_ranks(values) - (len(values) + 1) / 2
        self.squares = float((self.ranks * self.ranks).sum())
        counts = np.bincount(layers).astype(np.float64)
        self.counts = np.maximum(counts, 1)  # a layer of which no neuron is known adds nothing
        self.sums = np.bincount(layers, weights=self.ranks)
        own = self.ranks - (self.sums / self.counts)[layers]
        self.within = np.bincount(layers, weights=own * own)


def _correlated(x: _Deviations, y: _Deviations) -> tuple[float, float, float]:
    """(correlation of ranks, low, high)."""
    scale = float(np.sqrt(x.squares * y.squares))
    if scale == 0:
        return (np.nan,) * 3
    correlation = float(np.clip((x.ranks * y.ranks).sum() / scale, -1, 1))
    spread = float((x.within * y.within / np.maximum(x.counts - 1, 1)).sum())
    if spread == 0:  # every permutation gives the same, but for rounding
        return (correlation,) * 3
    mean = float((x.sums * y.sums / x.counts).sum()) / scale
    reach = _NORMAL * float(np.sqrt(spread)) / scale
    return correlation, max(mean - reach, -1.0), min(mean + reach, 1.0)
