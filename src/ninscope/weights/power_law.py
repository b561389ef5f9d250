"""The exponent of the power law that the tail of a spectrum of eigenvalues follows best: WeightWatcher's alpha.

Clauset, Shalizi and Newman 2009, Power-law Distributions in Empirical Data: for every value as the smallest of the tail, alpha by
maximum likelihood; of all tails the one whose Kolmogorov-Smirnov distance to its power law is smallest. As WeightWatcher 0.7.7
does it (Martin, Peng and Mahoney 2021), with its bounds: eigenvalues of 1e-5 or less are left out, and where fewer than 20 remain,
the tail holds eight or more and alpha is corrected for its bias.
"""

import math

import numpy as np
from numba import njit

LEAST_EIGENVALUE = 1e-5
_SMALL = 20  # with fewer eigenvalues than this
LEAST_TAIL = 8


def spectral_alpha(eigenvalues: np.ndarray) -> float:
    """The exponent alpha of the density x^-alpha of the tail. eigenvalues: of W^T W, float64 [n].

    NaN where fewer than LEAST_TAIL of them are above LEAST_EIGENVALUE, or where these are all alike.
    """
    values = np.sort(eigenvalues[eigenvalues > LEAST_EIGENVALUE])
    if values.size < LEAST_TAIL:
        return math.nan
    logs = np.log(values)
    few = values.size < _SMALL
    alphas, distances = np.full(values.size - 1, np.nan), np.full(values.size - 1, np.inf)
    _fit_tails(logs, few, alphas, distances)
    if few:
        lengths = values.size - np.arange(values.size - 1)
        distances = np.where(lengths < LEAST_TAIL, np.inf, distances)
    best = int(np.argmin(distances))
    return float(alphas[best]) if np.isfinite(distances[best]) else math.nan


@njit(cache=True, nogil=True)
def _fit_tails(logs: np.ndarray, few: bool, alphas: np.ndarray, distances: np.ndarray) -> None:
    """alpha and the Kolmogorov-Smirnov distance of every tail, written. logs: of the values, ascending. few: correct the bias."""
    n = logs.size
    above = logs[n - 1]  # sum of the logarithms of the tail
    for first in range(n - 2, -1, -1):
        above += logs[first]
        length = n - first
        spread = above - length * logs[first]
        if spread <= 1e-12 * length:
            continue
        alpha = 1.0 + (length - 1.0 if few else length) / spread
        farthest = 0.0
        for i in range(first, n):
            expected = 1.0 - math.exp((1.0 - alpha) * (logs[i] - logs[first]))
            farthest = max(farthest, abs(expected - (i - first) / length))
        alphas[first], distances[first] = alpha, farthest
