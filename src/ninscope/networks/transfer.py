"""Transfer functions: from an edge's weight to the distance it stands for (NeuroMFA, Eq. 1 and 5.4).

All three keep the same edges, those with 1 < 1/|w| <= max_distance; distances are taken in float64. Radii are integer
multiples of a step that gives each about max_distance of them, and enter the analysis only as ratios r/d, so a distance is
kept as its bin: the number of steps, rounded half to even.
"""

import math
from functools import lru_cache

import numpy as np
from numba import njit

TRANSFERS = ("reciprocal", "coth", "neg_log")
UNCOUNTED = -1
MAX_RADII = 10_000


def radius_count(max_distance: float) -> int:
    """How many radii there are: bins 1..radius_count."""
    return round(max_distance)


def radius_step(transfer: str, max_distance: float) -> float:
    """The distance between two radii: 1, or for neg_log, which ranges over 0..ln(max_distance), a fraction of it."""
    if transfer == "neg_log":
        return math.log(max_distance) / radius_count(max_distance)
    return 1.0


@lru_cache(maxsize=32)
def epsilon(max_distance: float) -> float:
    """The smallest float64 |w| with 1/|w| <= max_distance in float64 arithmetic: comparing with it saves the division.

    For no bound (infinity) the smallest number that is not 0."""
    if math.isinf(max_distance):
        return math.ulp(0.0)
    bound = 1.0 / max_distance
    while 1.0 / bound <= max_distance:
        bound = np.nextafter(bound, 0.0)
    while 1.0 / bound > max_distance:
        bound = np.nextafter(bound, 1.0)
    return float(bound)


def distances(magnitudes: np.ndarray, transfer: str) -> np.ndarray:
    """f(|w|) of float64 magnitudes [n], float64 [n]; 0 gives infinity."""
    with np.errstate(divide="ignore"):
        if transfer == "reciprocal":
            return 1.0 / magnitudes
        if transfer == "coth":
            return 1.0 / np.tanh(magnitudes)
        if transfer == "neg_log":
            return np.abs(np.log(magnitudes))
    raise ValueError(f"unknown transfer function {transfer!r}; one of {', '.join(TRANSFERS)}")


def distance_bins(weights: np.ndarray, transfer: str, max_distance: float) -> np.ndarray:
    """The distance bin of every weight, int16 [n]; UNCOUNTED where 1/|w| is not in (1, max_distance].

    weights: float16, float32 or float64 [n]. Bin 0 occurs (neg_log near |w| = 1): such an edge has mass at every radius, but
    0 is never a radius.
    """
    if transfer == "reciprocal":
        exact = weights if weights.dtype == np.float64 else weights.astype(np.float32, copy=False)
        return _reciprocal_bins(np.ascontiguousarray(exact), epsilon(max_distance))
    magnitudes = np.abs(weights.astype(np.float64))
    counted = (magnitudes >= epsilon(max_distance)) & (magnitudes < 1.0)
    steps = distances(np.where(counted, magnitudes, 0.5), transfer) / radius_step(transfer, max_distance)
    # coth exceeds its argument's reciprocal by less than |w|/3: the largest distance still belongs to the last radius.
    bins = np.minimum(np.rint(steps), radius_count(max_distance))
    return np.where(counted, bins, UNCOUNTED).astype(np.int16)


@njit(cache=True, nogil=True, error_model="numpy")
def _reciprocal_bins(weights: np.ndarray, smallest: float) -> np.ndarray:
    bins = np.empty(weights.size, np.int16)
    for i in range(weights.size):
        magnitude = abs(np.float64(weights[i]))
        # 1 < 1/m is taken on the quotient: for m just below 1 it may round to 1.
        distance = 1.0 / magnitude if magnitude >= smallest else 0.0
        bins[i] = np.int16(np.rint(distance)) if distance > 1.0 else np.int16(UNCOUNTED)
    return bins
