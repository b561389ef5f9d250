"""Least squares of many ordinates on one abscissa, in a fixed order of summation (no BLAS, whose order depends on its threads)."""

import numpy as np


def slopes(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and R^2 of y[:, k] on x.

    x: float64 [n], n >= 2 and not all equal; y: float64 [n, k]. Returns (slope [k], r2 [k]); r2 is NaN where y is constant,
    since nothing is there to be explained (q = 0: the partition function is the node count at every radius).
    """
    x_centred = (x - x.mean())[:, None]
    y_centred = y - y.mean(axis=0)
    x_square = (x_centred**2).sum()
    y_square = (y_centred**2).sum(axis=0)
    product = (x_centred * y_centred).sum(axis=0)
    # A constant column differs from its mean by rounding alone; the partition sums are good to 1e-13 or so.
    constant = y_square <= (1e-12 * np.maximum(np.abs(y).max(axis=0), 1.0)) ** 2 * x.size
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(constant, np.nan, product**2 / (x_square * y_square))
    return product / x_square, r2
