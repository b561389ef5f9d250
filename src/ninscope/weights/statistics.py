"""Statistics of the weights of a matrix, or of a network, from counts of bit patterns (docs/method.md#statistics-of-weights).

Everything follows from the counts, in the order of magnitudes, and from exact sums: the same bits whatever order weights were read
in. Norm, rms, mean and std of F16, BF16 and F32 are the float64 nearest to the exact ones.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
from numba import njit

from ninscope.weights.exact_sums import Moments, moments_of, rms_of_sums, square_sums
from ninscope.weights.patterns import ACCURACY, ROW_SUMS, PatternCounts, as_wide, magnitudes, row_sums, widened
from ninscope.wording import listed

NEAR_ZERO = 0.01  # of the rms: smaller weights are near zero
SIGNED_QUANTILES = {"q01": 0.01, "q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95, "q99": 0.99}
MAGNITUDE_QUANTILES = {"abs_q05": 0.05, "abs_q50": 0.5, "abs_q95": 0.95, "abs_q99": 0.99, "abs_max": 1.0}


@dataclass(frozen=True)
class WeightStatistics:
    """Of n weights w. Missing values are NaN: of no weights all, of weights that are all alike kurtosis, of zeros gini, hoyer
    and near_zero, of F64 beyond float32 what follows from bins.

    norm: Euclidean (of a matrix Frobenius); rms: norm / sqrt(n); mean; std: n in the denominator; kurtosis: mean-centred fourth
    moment over the squared variance (normal: 3). q01 to q99: quantiles of w, abs_q05 to abs_max of |w|, linear between order
    statistics. gini: mean absolute difference of |w| over twice its mean; hoyer: (sqrt n - l1/l2) / (sqrt n - 1). near_zero:
    share with |w| < NEAR_ZERO rms; zeros: share that is 0. accuracy: how far, relative, quantiles, gini and the bound of near_zero
    may be off: 0 for 16-bit types.
    """

    weights: int
    norm: float
    rms: float
    mean: float
    std: float
    kurtosis: float
    q01: float
    q05: float
    q25: float
    q50: float
    q75: float
    q95: float
    q99: float
    abs_q05: float
    abs_q50: float
    abs_q95: float
    abs_q99: float
    abs_max: float
    gini: float
    hoyer: float
    near_zero: float
    zeros: float
    accuracy: float

    @property
    def message(self) -> str:
        """One clause on what is missing; empty where nothing is."""
        if self.weights == 0:
            return "no weights"
        if math.isnan(self.zeros):
            moments = [name for name, value in (("mean", self.mean), ("deviation", self.std)) if not math.isnan(value)]
            return f"only {listed(['norms', *moments])} are known: the weights were not counted one by one"
        if self.norm == 0:
            return "all weights are 0: no kurtosis, gini, hoyer or near_zero"
        if math.isinf(self.norm):
            return "weights too large for a norm: no kurtosis, quantiles, gini, hoyer or near_zero"
        if math.isnan(self.abs_q50):
            return "weights too large or too small to be counted as float32: no quantiles, gini or near_zero"
        if math.isnan(self.kurtosis):
            return "weights too large for a kurtosis" if self.std else "all weights are alike: no kurtosis"
        return ""


_QUANTILES = (*SIGNED_QUANTILES, *MAGNITUDE_QUANTILES)
_SMALLEST_RMS = 1e-30  # of weights whose bins are those of normal float32, but for a few
STATISTICS = tuple(field.name for field in fields(WeightStatistics))


@dataclass(frozen=True)
class _Occupied:
    """The magnitudes that occur: float64 [k], ascending; how many weights above and below 0 have them, int64 [k] each."""

    magnitudes: np.ndarray
    positive: np.ndarray
    negative: np.ndarray

    @property
    def both(self) -> np.ndarray:
        return self.positive + self.negative


def statistics_of(counts: PatternCounts) -> WeightStatistics:
    """The statistics of counted weights, all finite."""
    occupied, n = _occupied(counts), counts.weights
    if n == 0:
        return WeightStatistics(0, **dict.fromkeys(STATISTICS[1:], math.nan))
    sums = _summed_powers(occupied, n) if counts.is_exact else joined_sums(counts.rows)
    fourth, l1, zeros = sums[4:].tolist()
    moments = _moments(counts.exact_sums, sums, n)
    norm, rms, variance = moments.norm, moments.rms, moments.variance
    square = variance * variance
    spread = moments.std > 0
    measurable = 0 < norm < math.inf
    countable = norm == 0 or counts.is_exact or _fits_bins(occupied, rms)
    return WeightStatistics(
        weights=n,
        norm=norm,
        rms=rms,
        mean=moments.mean,
        std=moments.std,
        kurtosis=fourth / n / square if spread and 0 < square < math.inf else math.nan,
        **(_quantiles(occupied, n) if countable else dict.fromkeys(_QUANTILES, math.nan)),
        gini=_gini(occupied, n) if measurable and countable else math.nan,
        hoyer=(math.sqrt(n) - l1 / norm) / (math.sqrt(n) - 1) if measurable and n > 1 else math.nan,
        near_zero=float(occupied.both[occupied.magnitudes < NEAR_ZERO * rms].sum() / n)
        if measurable and countable
        else math.nan,
        zeros=zeros / n,
        accuracy=0.0 if counts.is_exact else ACCURACY,
    )


def _moments(exact: np.ndarray | None, sums: np.ndarray, n: int) -> Moments:
    """Of n weights, from their exact sums where there are some, else from `sums`, float64 [ROW_SUMS]."""
    if exact is not None:
        return moments_of(exact, n)
    _, mean, second, *_ = sums.tolist()
    variance = second / n
    spread = math.sqrt(variance) > 1e-14 * abs(mean)  # else all they differ from their mean by rounding
    return Moments(*_norm_and_rms(n, mean, second), mean, variance, math.sqrt(variance) if spread else 0.0)


def _norm_and_rms(n: int, mean: float, second: float) -> tuple[float, float]:
    norm = math.sqrt(second + n * mean * mean)
    return norm, norm / math.sqrt(n)


def rms_of(weights: np.ndarray) -> float:
    """The root mean square of a matrix, float32 or float64 [rows, columns]: to the bit what `statistics_of` says of it."""
    if weights.dtype == np.float32:
        return rms_of_sums(square_sums(weights.view(np.uint32), "F32"), weights.size)
    _, mean, second, *_ = joined_sums(row_sums(weights)).tolist()
    return _norm_and_rms(weights.size, mean, second)[1]


def _fits_bins(occupied: _Occupied, rms: float) -> bool:
    """Whether the bins of float32 tell such weights apart: F64 may hold others."""
    return rms > _SMALLEST_RMS and occupied.magnitudes[-1] < magnitudes("F32")[-1]


def sums_of(counts: PatternCounts) -> np.ndarray:
    """What `patterns.ROW_SUMS` lists, of all counted weights as one row, float64 [ROW_SUMS]."""
    if not counts.is_exact:
        return joined_sums(counts.rows)
    return _summed_powers(_occupied(counts), counts.weights) if counts.weights else np.zeros(ROW_SUMS)


def _summed_powers(occupied: _Occupied, n: int) -> np.ndarray:
    sums = np.zeros(ROW_SUMS)
    _sum_powers(occupied.magnitudes, occupied.positive, occupied.negative, n, sums)
    return sums


@njit(cache=True, nogil=True)
def _sum_powers(magnitudes: np.ndarray, positive: np.ndarray, negative: np.ndarray, n: int, sums: np.ndarray) -> None:
    """sums: float64 [ROW_SUMS], written, of n weights; added up from the smallest magnitude to the largest."""
    total = magnitude = zeros = 0.0
    for i in range(magnitudes.size):
        total += (positive[i] - negative[i]) * magnitudes[i]
        magnitude += (positive[i] + negative[i]) * magnitudes[i]
        zeros += positive[i] + negative[i] if magnitudes[i] == 0.0 else 0
    mean = total / n
    second = third = fourth = 0.0
    for i in range(magnitudes.size):
        above, below = magnitudes[i] - mean, magnitudes[i] + mean
        of_positive, of_negative = positive[i] * above * above, negative[i] * below * below
        second += of_positive + of_negative
        third += of_positive * above - of_negative * below
        fourth += of_positive * above * above + of_negative * below * below
    sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], sums[6] = n, mean, second, third, fourth, magnitude, zeros


def joined_sums(rows: np.ndarray) -> np.ndarray:
    """Sums of rows, float64 [k, ROW_SUMS], as those of one row, float64 [ROW_SUMS]; exact sums, so in any order.

    Moments about the common mean follow from those about each row's (Pébay 2008, Formulas for Robust, One-Pass Parallel
    Computation of Covariances and Arbitrary-Order Statistical Moments).
    """
    lengths, means, second, third, fourth, l1, zeros = rows.T
    n = math.fsum(lengths)
    if n == 0:
        return np.zeros(ROW_SUMS)
    mean = math.fsum(lengths * means) / n
    away = means - mean
    with np.errstate(over="ignore", invalid="ignore"):  # of weights beyond 1e75 there is no fourth power
        joined = [
            second + lengths * away**2,
            third + 3 * away * second + lengths * away**3,
            fourth + 4 * away * third + 6 * away**2 * second + lengths * away**4,
        ]
    moments = [math.fsum(terms) if np.isfinite(terms).all() else math.inf for terms in joined]
    return np.array([n, mean, *moments, math.fsum(l1), math.fsum(zeros)])


def together(parts: list[PatternCounts]) -> PatternCounts:
    """Counts of matrices of any types as one; those of different types in the bins of the wider ones."""
    if len({part.dtype for part in parts}) > 1:
        parts = [widened(part, sums_of(part)) if part.is_exact else as_wide(part) for part in parts]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole


def _occupied(counts: PatternCounts) -> _Occupied:
    values = magnitudes(counts.dtype)
    positive, negative = (half[: values.size] for half in counts.counts.reshape(2, -1))
    there = np.flatnonzero(positive.astype(bool) | negative.astype(bool))
    return _Occupied(values[there], positive[there].astype(np.int64), negative[there].astype(np.int64))


def _gini(occupied: _Occupied, n: int) -> float:
    ranked, total = _ranked_sum(occupied.magnitudes, occupied.positive, occupied.negative, n)
    return ranked / (n * total)


@njit(cache=True, nogil=True)
def _ranked_sum(magnitudes: np.ndarray, positive: np.ndarray, negative: np.ndarray, n: int) -> tuple[float, float]:
    """(sum of (2 rank - n - 1) |w|, sum of |w|): weights of one magnitude share the middle of their ranks."""
    ranked = total = 0.0
    up_to = 0
    for i in range(magnitudes.size):
        both = positive[i] + negative[i]
        up_to += both
        weight = both * magnitudes[i]
        ranked += weight * np.float64(2 * up_to - both - n)
        total += weight
    return ranked, total


def _quantiles(occupied: _Occupied, n: int) -> dict[str, float]:
    signed = np.concatenate([-occupied.magnitudes[::-1], occupied.magnitudes])
    counts = np.concatenate([occupied.negative[::-1], occupied.positive])
    return _between(signed, counts, n, SIGNED_QUANTILES) | _between(
        occupied.magnitudes, occupied.both, n, MAGNITUDE_QUANTILES
    )


def _between(values: np.ndarray, counts: np.ndarray, n: int, levels: dict[str, float]) -> dict[str, float]:
    """Quantiles, linear between order statistics, as numpy's default. values: ascending."""
    places = (n - 1) * np.array(list(levels.values()))
    below = np.floor(places).astype(np.int64)
    ranks = np.stack([below, np.minimum(below + 1, n - 1)], axis=1).reshape(-1)
    found = np.empty(ranks.size)
    _order_statistics(values, counts, ranks, found)
    low, high = found.reshape(-1, 2).T
    between = low + (high - low) * (places - below)
    return {name: value + 0.0 for name, value in zip(levels, between.tolist(), strict=True)}  # no -0.0


@njit(cache=True, nogil=True)
def _order_statistics(values: np.ndarray, counts: np.ndarray, ranks: np.ndarray, found: np.ndarray) -> None:
    """The values with these ranks, from 0. ranks: ascending but for ties and steps back by one; found: written."""
    place, up_to = 0, counts[0]
    for i in range(ranks.size):
        if i > 0 and ranks[i] < ranks[i - 1]:
            place, up_to = 0, counts[0]
        while up_to <= ranks[i]:
            place += 1
            up_to += counts[place]
        found[i] = values[place]
