"""Ranks with ties, of series and of resamples of series.

All deviations of ranks are multiples of 1/2 and their products of 1/4, far below 2^53: sums of them are exact in float64, so that
no order of adding, and no library that multiplies matrices, changes a bit of a correlation.
"""

import numpy as np


def mid_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks 1..n along the last axis, float64 [..., n]; equal values share the mean of their ranks. values: [..., n], no NaN."""
    n = values.shape[-1]
    order = np.argsort(values, axis=-1, kind="stable")
    first, last = _ties(np.take_along_axis(values, order, axis=-1))
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1 if n else first, axis=-1)
    return ranks


def _ties(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first, last) place of the values equal to each, int64 [..., n]. ordered: ascending along the last axis."""
    n = ordered.shape[-1]
    places = np.broadcast_to(np.arange(n), ordered.shape)
    new = np.ones(ordered.shape, dtype=bool)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    ends = np.ones(ordered.shape, dtype=bool)
    ends[..., :-1] = new[..., 1:]
    first = np.maximum.accumulate(np.where(new, places, 0), axis=-1)
    last = np.minimum.accumulate(np.where(ends, places, n)[..., ::-1], axis=-1)[..., ::-1]
    return first, last


def resampled_deviations(series: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Ranks in resamples, less their mean, float64 [resamples, series, n]: at place i that of the value which stands there.

    series: float64 [series, n]. counts: float64 [resamples, n], how often a resample holds each place; each row sums to n. Nothing
    is sorted but the series themselves: the rank of a value is the number of drawn values below it and half of those equal to it.
    """
    resamples, n = counts.shape
    deviations = np.empty((resamples, len(series), n))
    below = np.zeros((resamples, n + 1))
    for number, values in enumerate(series):
        order = np.argsort(values, kind="stable")
        first, last = _ties(values[order])
        np.cumsum(counts[:, order], axis=1, out=below[:, 1:])
        of_place = np.empty(n, dtype=np.int64)
        of_place[order] = np.arange(n)
        ends = below[:, first[of_place]] + below[:, last[of_place] + 1]
        deviations[:, number] = (ends - n) / 2
    return deviations


def correlated(products: np.ndarray, x_squares: np.ndarray, y_squares: np.ndarray) -> np.ndarray:
    """Sums of products over the roots of the sums of squares, NaN where one of these is 0: series of one value.

    products: float64 [..., x, y]; x_squares: [..., x]; y_squares: [..., y].
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        values = products / np.sqrt(x_squares[..., :, None] * y_squares[..., None, :])
    return np.clip(values, -1.0, 1.0)  # NaN stays; rounding alone leads beyond 1


def partial(xy: np.ndarray, xz: np.ndarray, yz: np.ndarray) -> np.ndarray:
    """Correlations of x and y given z, from those of the pairs; NaN where z alone decides the ranks of x or of y.

    xy: float64 [..., x, y]; xz: [..., x]; yz: [..., y]. The first-order partial correlation, here of ranks (Kendall's Advanced
    Theory of Statistics, "partial rank correlation"; Kim 2015, ppcor, Eq. 2.3).
    """
    left_x, left_y = 1 - xz * xz, 1 - yz * yz
    free = (left_x > _DECIDED)[..., :, None] & (left_y > _DECIDED)[..., None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (xy - xz[..., :, None] * yz[..., None, :]) / np.sqrt(left_x[..., :, None] * left_y[..., None, :])
    return np.where(free, np.clip(values, -1.0, 1.0), np.nan)


_DECIDED = 1e-12  # 1 - r^2 of ranks of n <= 10^4 points that differ at all is 1e-11 or more, and rounding leaves 1e-15
