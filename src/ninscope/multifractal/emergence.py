"""Degree of emergence of a checkpoint against the start of its training (NeuroMFA, Definition 4.7)."""

import math
from typing import Protocol

import numpy as np

from ninscope.errors import RequestError


class HasSpectrum(Protocol):
    alpha0: float
    width: float


def emergence(now: HasSpectrum, start: HasSpectrum | None) -> float:
    """E = w(t)/w(0) * ln(alpha0(0)/alpha0(t)), from the sample means where the spectra are sampled.

    NaN where it is undefined: there is no start, a spectrum is missing, the start has width 0, or an alpha0 is not positive
    (`why_undefined` says which).
    """
    if why_undefined(now, start):
        return math.nan
    return emergence_of(now.alpha0, now.width, start.alpha0, start.width)


def emergence_of(alpha0: float, width: float, start_alpha0: float, start_width: float) -> float:
    """E from its four numbers; NaN where it is undefined."""
    if not (start_width > 0 and start_alpha0 > 0 and alpha0 > 0):
        return math.nan
    return width / start_width * math.log(start_alpha0 / alpha0)


def why_undefined(now: HasSpectrum, start: HasSpectrum | None, baseline_step: int = 0) -> str:
    """Why E does not exist for these two, in one clause; empty where it does."""
    if start is None:
        return f"no E: there is no usable step{baseline_step} to compare with"
    if math.isnan(start.alpha0):
        return f"no E: step{baseline_step} has no spectrum"
    if math.isnan(now.alpha0):
        return "no E: this checkpoint has no spectrum"
    if start.width == 0:
        return f"no E: the spectrum of step{baseline_step} has width 0 (every node alike)"
    if start.alpha0 <= 0 or now.alpha0 <= 0:
        return "no E: alpha0 is not positive"
    return ""


def emergence_interval(
    now: np.ndarray, start: np.ndarray, replicates: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of E over samples.

    now, start: float64 [samples, 2], the samples' (alpha0, width). Sample s holds the same neurons at both checkpoints, so
    samples are redrawn in pairs, and what a choice of neurons does to both checkpoints alike drops out. NaN, NaN for fewer
    than two samples or where a replicate is undefined.

    Raises RequestError when the two have different numbers of samples.
    """
    if now.shape != start.shape:
        raise RequestError(f"{len(now)} samples now and {len(start)} at the start: measure both with the same samples")
    count = len(now)
    if count < 2:
        return math.nan, math.nan
    raw = np.random.PCG64(np.random.SeedSequence([seed, count])).random_raw(replicates * count)
    drawn = (raw % np.uint64(count)).astype(np.int64).reshape(replicates, count)
    alpha_now, width_now = now[drawn].mean(axis=1).T
    alpha_start, width_start = start[drawn].mean(axis=1).T
    with np.errstate(divide="ignore", invalid="ignore"):
        values = width_now / width_start * np.log(alpha_start / alpha_now)
    if not np.isfinite(values).all():
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
