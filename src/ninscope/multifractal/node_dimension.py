"""Node fractal dimension: how a single node's box mass grows with its radius (NeuroMFA, Eq. 26)."""

import numpy as np
from numba import njit

from ninscope.multifractal.logarithms import logarithms


def mass_radius_fits(
    histogram: np.ndarray, min_degree: int, log_radii: np.ndarray, degrees: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares slope and R^2 of ln N_i(r) on ln r, over each node's own radii.

    histogram: int32 [nodes, K + 1], as box_histogram gives it. N counts the node itself, and edges in bin 0 have mass at
    every radius, but 0 is no radius (its logarithm does not exist). log_radii: float64 [K + 1], ln r of every bin up to a
    constant, NaN below and above those that enter fits; degrees: int64 [nodes], the histogram's row sums, where they are known.
    Returns (dimension [nodes], r2 [nodes]), float64: dimension 0 and r2 NaN for nodes of `min_degree` edges or fewer, as in
    the authors' code; both NaN where all edges that enter share one radius, since one point has no slope.
    """
    if log_radii.size < histogram.shape[1]:
        raise ValueError(f"{log_radii.size} radii for {histogram.shape[1]} bins: compiled code would leave the array")
    if degrees is None:
        degrees = histogram.sum(axis=1, dtype=np.int64)
    inside = np.flatnonzero(~np.isnan(log_radii[1 : histogram.shape[1]]))
    first, last = (int(inside[0]) + 1, int(inside[-1]) + 1) if inside.size else (1, 0)
    return _fit(histogram, degrees, min_degree, log_radii, logarithms(int(degrees.max(initial=0)) + 1), first, last)


@njit(cache=True, nogil=True, error_model="numpy")
def _fit(
    histogram: np.ndarray,
    degrees: np.ndarray,
    min_degree: int,
    log_radii: np.ndarray,
    logarithm: np.ndarray,
    first: int,
    last: int,
) -> tuple[np.ndarray, np.ndarray]:
    nodes, radii = histogram.shape
    dimension = np.zeros(nodes)
    r2 = np.full(nodes, np.nan)
    x = np.empty(radii)
    y = np.empty(radii)
    for i in range(nodes):
        if degrees[i] <= min_degree:
            continue
        row = histogram[i]
        inside = row[0]
        points = 0
        for r in range(1, first):
            inside += row[r]
        for r in range(first, last + 1):
            inside += row[r]
            # Every radius is written and only those with edges move on: which have is random, and a branch would be mispredicted.
            x[points] = log_radii[r]
            y[points] = logarithm[inside]
            points += row[r] > 0
        if points < 2:
            dimension[i] = np.nan
            continue
        x_mean = 0.0
        y_mean = 0.0
        for k in range(points):
            x_mean += x[k]
            y_mean += y[k]
        x_mean /= points
        y_mean /= points
        x_square = 0.0
        y_square = 0.0
        product = 0.0
        for k in range(points):
            dx = x[k] - x_mean
            dy = y[k] - y_mean
            x_square += dx * dx
            y_square += dy * dy
            product += dx * dy
        dimension[i] = product / x_square
        r2[i] = product * product / (x_square * y_square)
    return dimension, r2
