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


class MeanSpectrum:
    """alpha0 and width as means over the samples that have a spectrum."""

    def __init__(self, alpha0: Sequence[float] | np.ndarray, width: Sequence[float] | np.ndarray) -> None:
        self.alpha0, self.width = known_mean(alpha0), known_mean(width)


def without_spectrum(messages: Sequence[str], what: str) -> str:
    """One clause on those that say why they have none ("2 of 10 samples: ..."), with the first reason; empty where none does."""
    reasons = [message for message in messages if message]
    return f"{len(reasons)} of {len(messages)} {what}: {reasons[0]}" if reasons else ""


def _known(values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    return array[~np.isnan(array)]
