"""Means and spreads over samples, of which those without a spectrum (NaN) are left out."""

import math
from collections.abc import Sequence

import numpy as np


def known_mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the values that exist; NaN where none does."""
    known = _known(values)
    return float(known.mean()) if known.size else math.nan


def known_std(values: Sequence[float] | np.ndarray) -> float:
    """Standard deviation of the values that exist, n - 1 in the denominator; NaN for fewer than two."""
    known = _known(values)
    return float(known.std(ddof=1)) if known.size > 1 else math.nan


def _known(values) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    return found[~np.isnan(found)]
