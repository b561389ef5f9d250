"""Rank correlations of measures of checkpoints with scores over training (docs/method.md#correlations).

Two curves that rise while a model trains always correlate, whatever they are. So three correlations stand side by side: of the
levels, of their differences from point to point, and of the levels given the step; and beside each what two unrelated curves give
of the same differences, each shuffled by itself. Rejected: p-values of Spearman's test, which take the points for
independent; phase-randomised surrogates, which have no trend.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from ninscope.checks import MAX_SEED, checked_confidence, checked_integer
from ninscope.correlating.blocks import block_length, counts_of, drawn_places, shuffled_places
from ninscope.correlating.ranks import correlated, mid_ranks, partial, resampled_deviations
from ninscope.errors import RequestError

KINDS = LEVELS, DIFFERENCES, PARTIAL = ("levels", "differences", "partial")
MIN_REPLICATES, MAX_REPLICATES = 100, 10_000
MOST_LAGS = 50
FEWEST_VALUE, FEWEST = 3, 8  # points of a correlation, and of anything that is resampled or shifted
_MOST_UNDEFINED = 0.5  # of resamples, for an interval of the others
_SIDE = 32  # measures, and scores, that are correlated together
_BITS = 36  # of differences, and of what they add up to: 10^4 of them in another order leave errors of 2^-39
_NUMBERS = 1 << 21  # of float64 in the largest array of one pass over resamples, about


class Reason(IntEnum):
    """Why a correlation has no value, or a value no interval."""

    NONE = 0
    FEW_FOR_A_VALUE = 1  # fewer than 3 points
    CONSTANT_MEASURE = 2
    CONSTANT_SCORE = 3
    MEASURE_FOLLOWS_STEP = 4  # partial: its ranks are those of the step, so nothing is left of them given the step
    SCORE_FOLLOWS_STEP = 5
    FEW_FOR_AN_INTERVAL = 6  # fewer than 8 points
    UNDEFINED_RESAMPLES = 7  # more than half of the resamples have no value


@dataclass(frozen=True)
class Resampling:
    """How intervals and nulls are drawn, checked when it is made; these are the only defaults.

    replicates: resamples, and pairs of unrelated curves. confidence: share of them inside an interval or a band. seed: of the
    draws. block: consecutive points that are drawn together (None: n^(1/3) of n points, rounded up). max_lag: points by which one
    series is shifted against the other, either way. Raises RequestError.
    """

    replicates: int = 999
    confidence: float = 0.95
    seed: int = 0
    block: int | None = None
    max_lag: int = 3

    def __post_init__(self) -> None:
        checked_integer("replicates", self.replicates, MIN_REPLICATES, MAX_REPLICATES)
        checked_confidence(self.confidence)
        checked_integer("seed", self.seed, 0, MAX_SEED)
        if self.block is not None:
            checked_integer("block", self.block, 1, MAX_SEED, " or none")
        checked_integer("max_lag", self.max_lag, 0, MOST_LAGS)

    def block_of(self, n: int) -> int:
        """Length of a block of n points; no more than n."""
        return min(n, block_length(n) if self.block is None else self.block)


@dataclass(frozen=True)
class Correlations:
    """Of every measure with every score. All are float64 [kinds, measures, scores] in the order of KINDS, but where said.

    value: Spearman's rho, missing (NaN) as `reason` (a `Reason`, uint8) says. low, high: percentile interval over resamples.
    undefined: share of the resamples that have no value, which are left out of it; where it is more than half there is none.
    null_low, null_high: what unrelated curves of the same differences give. points: pairs that enter, int64. lag, lag_value,
    lag_null: [measures, scores]; by how many points the measure leads the score (less than 0: it follows) where their differences
    correlate most, that correlation, and how far from 0 it gets by chance, at the lag that suits chance best.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    undefined: np.ndarray
    null_low: np.ndarray
    null_high: np.ndarray
    points: np.ndarray
    reason: np.ndarray
    lag: np.ndarray
    lag_value: np.ndarray
    lag_null: np.ndarray


def correlations(
    measures: np.ndarray, scores: np.ndarray, resampling: Resampling | None = None, name: str = ""
) -> Correlations:
    """Every measure against every score, over the points of training that both have.

    measures: float64 [measures, n]; scores: float64 [scores, n], both in the order of the steps; NaN and infinity are missing.
    Neither the steps themselves nor the distances between them matter, only their order. name: keys the draws, with the seed and
    the number of points: pairs of as many points share resamples, and none depends on which other pairs there are. Raises
    RequestError: the two have other numbers of points.
    """
    if measures.ndim != 2 or scores.ndim != 2 or measures.shape[1] != scores.shape[1]:
        raise RequestError(
            f"measures of shape {measures.shape} and scores of shape {scores.shape}; give [measures, n] and [scores, n]"
        )
    resampling = Resampling() if resampling is None else resampling
    whole = _empty(len(measures), len(scores))
    for rows, known in _alike(np.isfinite(measures)):
        for columns, also_known in _alike(np.isfinite(scores)):
            both = known & also_known
            for some_rows in _pieces(rows):
                x = measures[some_rows][:, both]
                for some_columns in _pieces(columns):
                    block = _complete(x, scores[some_columns][:, both], resampling, name)
                    _put(whole, block, some_rows, some_columns)
    return whole


def _alike(known: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(numbers of series, the points that they have, bool [n]), series with the same points together."""
    patterns, which = np.unique(known, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        yield np.flatnonzero(which.reshape(-1) == number), pattern


def _pieces(numbers: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(numbers), _SIDE):
        yield numbers[first : first + _SIDE]


def _empty(measures: int, scores: int) -> Correlations:
    shape = (len(KINDS), measures, scores)
    value, low, high, undefined, null_low, null_high = (np.full(shape, np.nan) for _ in range(6))
    points, reason = np.zeros(shape, np.int64), np.zeros(shape, np.uint8)
    lag, lag_value, lag_null = (np.full(shape[1:], np.nan) for _ in range(3))
    return Correlations(value, low, high, undefined, null_low, null_high, points, reason, lag, lag_value, lag_null)


def _put(whole: Correlations, block: Correlations, rows: np.ndarray, columns: np.ndarray) -> None:
    for field in fields(Correlations):
        getattr(whole, field.name)[..., rows[:, None], columns] = getattr(block, field.name)


class _Deviations(NamedTuple):
    """Ranks less their mean, [..., series, n], of levels and differences, and of the order of steps [..., 1, n]."""

    levels: np.ndarray
    differences: np.ndarray
    order: np.ndarray


def _complete(x: np.ndarray, y: np.ndarray, resampling: Resampling, name: str) -> Correlations:
    """As `correlations`, of series without gaps."""
    n = x.shape[1]
    block = _empty(len(x), len(y))
    block.points[:] = np.array([n, max(n - 1, 0), n])[:, None, None]
    block.reason[:] = _reasons(x, y, block.points)
    if n < FEWEST_VALUE:
        return block
    of_x, of_y = _deviations(x), _deviations(y)
    values = _three(of_x, of_y)
    missing = block.reason > 0
    block.value[:] = np.where(missing, np.nan, values)
    few = ~missing & (block.points < FEWEST)
    block.reason[few] = Reason.FEW_FOR_AN_INTERVAL
    if n < FEWEST:
        return block
    _add_intervals(block, x, y, resampling, name)
    _add_nulls(block, x, y, of_x, of_y, resampling, name)
    for ends in (block.low, block.high, block.undefined, block.null_low, block.null_high):
        ends[missing | few] = np.nan
    unled = (missing | few)[KINDS.index(DIFFERENCES)]
    for of_lag in (block.lag, block.lag_value, block.lag_null):
        of_lag[unled] = np.nan
    torn = ~missing & ~few & (block.undefined > _MOST_UNDEFINED)
    block.reason[torn] = Reason.UNDEFINED_RESAMPLES
    block.low[torn] = block.high[torn] = np.nan
    return block


def _reasons(x: np.ndarray, y: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Why there is no value, uint8 [kinds, measures, scores]."""
    reasons = np.zeros(points.shape, np.uint8)
    if x.shape[1] < FEWEST_VALUE:
        reasons[:] = Reason.FEW_FOR_A_VALUE
        return reasons
    for kind, (of_x, of_y) in enumerate(((x, y), (differences(x), differences(y)), (x, y))):
        reasons[kind, :, np.ptp(of_y, axis=1) == 0] = Reason.CONSTANT_SCORE
        reasons[kind, np.ptp(of_x, axis=1) == 0] = Reason.CONSTANT_MEASURE
    given_step = reasons[KINDS.index(PARTIAL)]
    given_step[(given_step == 0) & _follows_step(y)[None, :]] = Reason.SCORE_FOLLOWS_STEP
    given_step[(given_step != Reason.CONSTANT_SCORE) & _follows_step(x)[:, None]] = Reason.MEASURE_FOLLOWS_STEP
    few = points < FEWEST_VALUE
    reasons[few] = Reason.FEW_FOR_A_VALUE
    return reasons


def _follows_step(series: np.ndarray) -> np.ndarray:
    """Which series rise at every point, or fall at every point, bool [series]."""
    steps = np.diff(series)
    return np.logical_or((steps > 0).all(axis=1), (steps < 0).all(axis=1))


def _deviations(series: np.ndarray) -> _Deviations:
    n = series.shape[1]
    order = np.arange(n, dtype=np.float64)[None, :] - (n - 1) / 2
    return _Deviations(mid_ranks(series) - (n + 1) / 2, mid_ranks(differences(series)) - n / 2, order)


def differences(series: np.ndarray) -> np.ndarray:
    """Differences from point to point, float64 [series, n - 1], rounded to 2^-36 of the largest |value|, about.

    An accuracy is a number of right answers over a number of questions, so many of its differences are alike; in floating point
    .26 - .25 and .27 - .26 are not.
    """
    return _rounded(np.diff(series, axis=-1), series)


def _rounded(values: np.ndarray, series: np.ndarray) -> np.ndarray:
    """Values [..., series, n] as multiples of a power of two, which suits the largest |value| of each series [series, n]."""
    exponents = np.frexp(np.abs(series).max(axis=-1, keepdims=True))[1] - _BITS
    return np.ldexp(np.rint(np.ldexp(values, -exponents)), exponents)


def _three(of_x: _Deviations, of_y: _Deviations) -> np.ndarray:
    """Correlations of each kind, float64 [kinds, ..., measures, scores], of series in the order of their points."""
    levels = _pairwise(of_x.levels, of_y.levels)
    given = partial(levels, _pairwise(of_x.levels, of_x.order)[..., 0], _pairwise(of_y.levels, of_y.order)[..., 0])
    return np.stack([levels, _pairwise(of_x.differences, of_y.differences), given])


def _pairwise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return correlated(x @ np.swapaxes(y, -1, -2), _squares(x), _squares(y))


def _squares(deviations: np.ndarray) -> np.ndarray:
    return np.einsum("...i,...i->...", deviations, deviations)


def _add_intervals(block: Correlations, x: np.ndarray, y: np.ndarray, resampling: Resampling, name: str) -> None:
    """Percentile intervals: pairs of values are drawn in blocks; differences are taken before, and no block joins two others."""
    n, count = x.shape[1], resampling.replicates
    values = np.empty((len(KINDS), count, len(x), len(y)))
    order = np.arange(n, dtype=np.float64)[None, :]
    of_levels = drawn_places(n, resampling.block_of(n), count, resampling.seed, f"{name} levels")
    of_differences = drawn_places(n - 1, resampling.block_of(n - 1), count, resampling.seed, f"{name} differences")
    for some in _passes(count, len(x) + len(y), n):
        counts = counts_of(of_levels[some])
        ranks = resampled_deviations(np.concatenate([x, y, order]), counts)
        x_ranks, y_ranks, z_ranks = ranks[:, : len(x)], ranks[:, len(x) : -1], ranks[:, -1:]
        values[0, some] = _drawn(x_ranks, y_ranks, counts)
        given = (_drawn(x_ranks, z_ranks, counts)[..., 0], _drawn(y_ranks, z_ranks, counts)[..., 0])
        values[2, some] = partial(values[0, some], *given)
        counts = counts_of(of_differences[some])
        ranks = resampled_deviations(differences(np.concatenate([x, y])), counts)
        values[1, some] = _drawn(ranks[:, : len(x)], ranks[:, len(x) :], counts)
    for kind in range(len(KINDS)):
        block.low[kind], block.high[kind], defined = _between(values[kind], resampling.confidence)
        block.undefined[kind] = 1 - defined / count


def _drawn(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Correlations in resamples, [resamples, x, y], of deviations [resamples, series, n] that are drawn so often."""
    weighted_x, weighted_y = x * counts[:, None, :], y * counts[:, None, :]
    squares = np.einsum("bxi,bxi->bx", weighted_x, x), np.einsum("byi,byi->by", weighted_y, y)
    return correlated(weighted_x @ np.swapaxes(y, -1, -2), *squares)


def _add_nulls(
    block: Correlations,
    x: np.ndarray,
    y: np.ndarray,
    of_x: _Deviations,
    of_y: _Deviations,
    resampling: Resampling,
    name: str,
) -> None:
    """What curves give that are made of the same differences, shuffled for measures and for scores apart; and lags.

    Where the series have a correlation, so have all these curves: the same differences decide whether a curve has one value, and
    whether it only rises.
    """
    n, count = x.shape[1], resampling.replicates
    lags = _lags(n - 1, resampling.max_lag)
    block.lag[:], block.lag_value[:] = _leading(of_x.differences, of_y.differences, lags)
    values = np.empty((len(KINDS), count, len(x), len(y)))
    largest = np.empty((count, len(x), len(y)))
    for_x, for_y = (
        shuffled_places(n - 1, resampling.block_of(n - 1), count, resampling.seed, f"{name} unrelated {which}")
        for which in ("measures", "scores")
    )
    for some in _passes(count, len(x) + len(y), n):
        drawn_x, drawn_y = _unrelated(x, of_x, for_x[some]), _unrelated(y, of_y, for_y[some])
        values[:, some] = _three(drawn_x, drawn_y)
        largest[some] = np.abs(_leading(drawn_x.differences, drawn_y.differences, lags)[1])
    for kind in range(len(KINDS)):
        block.null_low[kind], block.null_high[kind], _ = _between(values[kind], resampling.confidence)
    block.lag_null[:] = _quantile(np.sort(largest, axis=0), _defined(largest), resampling.confidence)


def _unrelated(series: np.ndarray, own: _Deviations, places: np.ndarray) -> _Deviations:
    """Ranks of curves that a series' differences make in another order.

    own: ranks of the series; places: int64 [resamples, n - 1]. Each curve begins and
    ends where the series does, so it rises or falls as much.
    """
    resamples, n = places.shape[0], series.shape[1]
    curves = np.zeros((resamples, len(series), n))
    np.cumsum(np.swapaxes(np.diff(series)[:, places], 0, 1), axis=-1, out=curves[..., 1:])
    shuffled = np.swapaxes(own.differences[:, places], 0, 1)
    order = np.broadcast_to(own.order, (resamples, 1, n))
    return _Deviations(mid_ranks(_rounded(curves, series)) - (n + 1) / 2, shuffled, order)


def _lags(n: int, most: int) -> list[int]:
    """0, 1, -1, 2, ...: as far as FEWEST of n differences stay beside each other, so that of equal values the nearest wins."""
    reach = max(min(most, n - FEWEST), 0)
    return [0, *(sign * lag for lag in range(1, reach + 1) for sign in (1, -1))]


def _leading(x: np.ndarray, y: np.ndarray, lags: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(the lag of the largest |correlation|, that correlation), both [..., x, y]; NaN where a series does not vary.

    x, y: deviations of ranks [..., series, n]. The sample cross-correlation (Box and Jenkins, Time Series Analysis) of ranks: sums
    over the points that are beside each other, over the squares of all, so that long lags are not favoured.
    """
    n = x.shape[-1]
    squares = _squares(x), _squares(y)
    best = np.full((*x.shape[:-1], y.shape[-2]), np.nan)
    chosen = np.full(best.shape, np.nan)
    for lag in lags:
        early, late = slice(0, n - abs(lag)), slice(abs(lag), n)
        ahead, behind = (x[..., early], y[..., late]) if lag >= 0 else (x[..., late], y[..., early])
        value = correlated(ahead @ np.swapaxes(behind, -1, -2), *squares)
        better = np.abs(value) > np.abs(best) if lag else ~np.isnan(value)
        best, chosen = np.where(better, value, best), np.where(better, float(lag), chosen)
    return chosen, best


def _passes(replicates: int, series: int, n: int) -> Iterator[slice]:
    size = max(1, _NUMBERS // (series * n))
    for first in range(0, replicates, size):
        yield slice(first, min(first + size, replicates))


def _defined(values: np.ndarray) -> np.ndarray:
    return (~np.isnan(values)).sum(axis=0)


def _between(values: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(low, high, number that are not NaN) over the first axis; the ends leave half of the rest out on either side."""
    ordered, defined = np.sort(values, axis=0), _defined(values)
    tail = (1 - confidence) / 2
    return _quantile(ordered, defined, tail), _quantile(ordered, defined, 1 - tail), defined


def _quantile(ordered: np.ndarray, defined: np.ndarray, share: float) -> np.ndarray:
    """A quantile over the first axis, linear between values. ordered: ascending, NaN last; defined: how many are none."""
    place = share * np.maximum(defined - 1, 0)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(defined - 1, 0))
    below, above = (np.take_along_axis(ordered, at[None], axis=0)[0] for at in (low, high))
    return below + (place - low) * (above - below)
