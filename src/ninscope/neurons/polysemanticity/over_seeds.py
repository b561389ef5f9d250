"""Means over seeds, with intervals and tests. A seed is one repetition; the networks of its training are none.

Student's t throughout: of a mean of n values s is s / sqrt(n), and its interval is the mean -+ t(n - 1) s / sqrt(n).
"""

from typing import NamedTuple

import numpy as np

_ROUNDING = 1e-9  # of differences between values that are equal


class SeedMean(NamedTuple):
    """The mean of values, one a seed. number: how many seeds have one. low, high: its interval. p_value: of the t test that the
    mean is 0, two-sided. NaN where there is none.
    """

    number: int
    mean: float
    low: float
    high: float
    p_value: float

    @property
    def has_interval(self) -> bool:
        """Whether there are two values or more, and they differ."""
        return bool(np.isfinite(self.low))


def mean_over_seeds(values: np.ndarray, confidence: float = 0.95, tests: int = 1) -> SeedMean:
    """Mean of values, its t interval and the p-value of the t test that it is 0.

    values: float64 [seeds]; NaN is left out. tests: with how many others the interval is to hold together (Bonferroni: each has a
    confidence of 1 - (1 - confidence) / tests). Of fewer than two values, or of values that are equal but for rounding, there is
    no interval and no p-value (NaN).
    """
    from scipy.special import stdtr, stdtrit  # with all of its array back ends, a fifth of a second

    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    count = known.size
    if count == 0:
        return SeedMean(0, np.nan, np.nan, np.nan, np.nan)
    mean = float(known.mean())
    if count == 1 or not np.ptp(known) > _ROUNDING * np.abs(known).max():
        return SeedMean(count, mean, np.nan, np.nan, np.nan)
    error = float(known.std(ddof=1)) / np.sqrt(count)
    half = float(stdtrit(count - 1, 1 - (1 - confidence) / (2 * tests))) * error
    p_value = 2 * float(stdtr(count - 1, -abs(mean) / error))
    return SeedMean(count, mean, mean - half, mean + half, p_value)


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values adjusted for their number by Holm's step-down procedure (1979), float64 [tests]; NaN is no test and stays NaN."""
    p_values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    steps = p_values[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted
