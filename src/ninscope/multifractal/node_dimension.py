"""Node fractal dimension: how a single node's box mass grows with its radius (NeuroMFA, Eq. 26)."""

import numpy as np
from numba import njit


def mass_radius_fits(histogram: np.ndarray, min_degree: int, log_radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares slope and R^2 of ln N_i(r) on ln r, over each node's own radii.

    histogram: int32 [nodes, K + 1], as box_histogram gives it. N counts the node itself, and edges in bin 0 have mass at
    every radius, but 0 is no radius (its logarithm does not exist). log_radii: float64 [K + 1], ln r of every bin up to a
    constant.
    Returns (dimension [nodes], r2 [nodes]), float64: dimension 0 and r2 NaN for nodes of `min_degree` edges or fewer, as in
    the authors' code; both NaN where all edges share one radius, since one point has no slope.
    """
    if log_radii.size < histogram.shape[1]:
        raise ValueError(f"{log_radii.size} radii for {histogram.shape[1]} bins: compiled code would leave the array")
    return _fit(histogram, min_degree, log_radii, np.log(np.arange(1, histogram.sum(axis=1).max(initial=0) + 2)))


@njit(cache=True, nogil=True, error_model="numpy")
def _fit(histogram, min_degree, log_radii, logarithm):
    nodes, radii = histogram.shape
    dimension = np.zeros(nodes)
    r2 = np.full(nodes, np.nan)
    x = np.empty(radii)
    y = np.empty(radii)
    for i in range(nodes):
        points = 0
        x_mean = 0.0
        y_mean = 0.0
        inside = 1 + histogram[i, 0]
        for r in range(1, radii):
            if histogram[i, r] > 0:
                inside += histogram[i, r]
                x[points] = log_radii[r]
                y[points] = logarithm[inside - 1]
                x_mean += x[points]
                y_mean += y[points]
                points += 1
        if inside - 1 <= min_degree:
            continue
        if points < 2:
            dimension[i] = np.nan
            continue
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
