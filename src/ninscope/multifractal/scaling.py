"""How far a power law holds: local slopes, the range in which they stay near the fitted one, and other curves of growth.

Formulas are in docs/method.md#fit-quality. A good R^2 of ln N on ln r is no power law: these say what the curve does instead.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ninscope.multifractal.fits import slopes

TOLERANCE = 0.1  # as far of the fitted slope local ones may be
CURVES = ("power law", "exponential", "log-normal")


def local_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slope of y on x at every point, float64 [n]: of the line from the point before to the one after, and of the one next to it
    at both ends.

    x, y: float64 [n], x increasing. NaN for a single point.
    """
    if x.size < 2:
        return np.full(x.size, np.nan)
    before, after = np.maximum(np.arange(x.size) - 1, 0), np.minimum(np.arange(x.size) + 1, x.size - 1)
    return (y[after] - y[before]) / (x[after] - x[before])


def scaling_range(
    x: np.ndarray, local: np.ndarray, slope: float, tolerance: float = TOLERANCE
) -> tuple[int, int] | None:
    """First and last point of the longest run of consecutive points whose local slopes are within `tolerance` of the slope.

    x, local: float64 [n], x increasing; slope: the fitted one. Longest is measured in x; of runs that are equally long the first
    is taken. None where no two neighbours are within.
    """
    near = np.abs(local - slope) <= tolerance * abs(slope)
    best: tuple[int, int] | None = None
    first = 0
    for point in range(x.size + 1):
        if point < x.size and near[point]:
            continue
        last = point - 1
        if last > first and (best is None or x[last] - x[first] > x[best[1]] - x[best[0]]):
            best = first, last
        first = point + 1
    return best


class Scaling(NamedTuple):
    """How a curve scales. slope, r2: fitted; local: float64 [n], local slopes; range: of `scaling_range`."""

    slope: float
    r2: float
    local: np.ndarray
    range: tuple[int, int] | None

    def decades(self, x: np.ndarray) -> float:
        """Length of the range in decades of the radius, x being ln r; NaN where there is none."""
        return math.nan if self.range is None else float(x[self.range[1]] - x[self.range[0]]) / math.log(10)


def scaling_of(x: np.ndarray, y: np.ndarray, fitted: np.ndarray) -> Scaling:
    """x, y: float64 [n], ln r and the logarithm of what grows; fitted: bool [n], which points enter the fit.

    slope, r2 are NaN, and there is no range, where fewer than two points do.
    """
    local = local_slopes(x, y)
    if fitted.sum() < 2:
        return Scaling(math.nan, math.nan, local, None)
    (slope,), (r2,) = slopes(x[fitted], y[fitted, None])
    return Scaling(float(slope), float(r2), local, scaling_range(x, local, float(slope)))


def prediction_band(draws: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) between which one more draw lies with this confidence: mean -+ t s sqrt(1 + 1/n), t of Student's distribution.

    draws: float64 [draws, n], NaN where a draw has no value. NaN where fewer than two have one.
    """
    from scipy.special import stdtrit  # with all of its array back ends, a fifth of a second

    known = ~np.isnan(draws)
    count = known.sum(axis=0)
    enough = np.maximum(count, 2)
    mean = np.where(known, draws, 0.0).sum(axis=0) / enough
    apart = np.where(known, draws - mean, 0.0)
    std = np.sqrt((apart * apart).sum(axis=0) / (enough - 1))
    half = stdtrit(enough - 1, 0.5 + confidence / 2) * std * np.sqrt(1 + 1 / enough)
    return np.where(count < 2, np.nan, mean - half), np.where(count < 2, np.nan, mean + half)


def curve_residuals(radii: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Residual sums of squares of y = ln N under each of CURVES, by least squares in ln N.

    radii: float64 [n], increasing, above 0; y: float64 [n]. power law: y = a + b ln r; exponential: y = a + b r; log-normal:
    y = a + ln Phi((ln r - mu) / sigma), the growth of a mass whose distances are log-normally distributed.
    """
    x = np.log(radii)
    return dict(zip(CURVES, (_straight(x, y), _straight(radii, y), _log_normal(x, y)), strict=True))


PARAMETERS_OF_CURVES = {"power law": 2, "exponential": 2, "log-normal": 3}


def information(residuals: Mapping[str, float], points: int) -> dict[str, float]:
    """Akaike's information criterion of each curve less that of the power law: n ln(RSS / n) + 2 k with k parameters.

    The smallest fits best. Residuals of one curve hang together, so these are no probabilities. NaN with fewer points than one
    more than the log-normal's parameters.
    """
    if points <= max(PARAMETERS_OF_CURVES.values()):
        return dict.fromkeys(residuals, math.nan)
    least = max(max(residuals.values()) * 1e-24, math.ulp(0.0))  # of a curve that is met but for rounding
    values = {
        name: points * math.log(max(rss, least) / points) + 2 * PARAMETERS_OF_CURVES[name]
        for name, rss in residuals.items()
    }
    return {name: value - values["power law"] for name, value in values.items()}


def _straight(x: np.ndarray, y: np.ndarray) -> float:
    (slope,), _ = slopes(x, y[:, None])
    rest = (y - y.mean()) - slope * (x - x.mean())
    return float((rest * rest).sum())


def _log_normal(x: np.ndarray, y: np.ndarray) -> float:
    """The smallest of what Levenberg and Marquardt's descent finds from starts around the data."""
    wide = float(x[-1] - x[0])
    starts = [(place, spread) for place in (0.0, 0.5, 1.0, 2.0) for spread in (0.2, 1.0, 3.0)]
    return min(
        _descended(x, y - y.mean(), float(x[0]) + place * wide, math.log(spread * wide)) for place, spread in starts
    )


_STEPS, _CONVERGED = 200, 1e-13


def _descended(x: np.ndarray, y: np.ndarray, mu: float, log_sigma: float) -> float:
    """Residual sum of squares where a descent in (mu, ln sigma) ends; a has been taken out by centring."""
    rest, sides = _tried(x, y, mu, log_sigma)
    rss, damping = float((rest * rest).sum()), 1e-3
    for _ in range(_STEPS):
        first, second = sides
        a, b, c = float((first * first).sum()), float((first * second).sum()), float((second * second).sum())
        u, v = float((first * rest).sum()), float((second * rest).sum())
        a, c = a * (1 + damping), c * (1 + damping)
        determinant = a * c - b * b
        if not determinant > 0:
            return rss
        step = (c * u - b * v) / determinant, (a * v - b * u) / determinant
        with np.errstate(over="ignore", invalid="ignore"):
            new_rest, new_sides = _tried(x, y, mu + step[0], log_sigma + step[1])
            new = float((new_rest * new_rest).sum())
        if new < rss:
            gained = rss - new
            mu, log_sigma, rest, sides, rss = mu + step[0], log_sigma + step[1], new_rest, new_sides, new
            damping = max(damping / 10, 1e-12)
            if gained <= _CONVERGED * rss:
                return rss
        elif damping > 1e12:
            return rss
        else:
            damping *= 10
    return rss


def _tried(
    x: np.ndarray, y: np.ndarray, mu: float, log_sigma: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """(centred residuals, the centred derivatives of the curve by mu and by ln sigma)"""
    from scipy.special import log_ndtr  # with all of its array back ends, a fifth of a second

    sigma = math.exp(min(max(log_sigma, -700.0), 700.0))
    u = (x - mu) / sigma
    curve = log_ndtr(u)
    hazard = np.exp(-u * u / 2 - curve) / math.sqrt(2 * math.pi)  # of Phi: phi(u) / Phi(u)
    sides = -hazard / sigma, -hazard * u
    return y - (curve - curve.mean()), (sides[0] - sides[0].mean(), sides[1] - sides[1].mean())
