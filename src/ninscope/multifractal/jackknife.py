"""The spread of the exact value: a delete-one-layer jackknife over node layers (docs/method.md#spread-of-the-exact-value).

An exact analysis takes every weight, so nothing is drawn and nothing can be drawn again. What it can say is how much its numbers
hang on single node layers: each layer is left out once, and the spread of what remains, times the number of layers, is the
variance that the numbers would have if layers were drawn from a population (Quenouille 1956; Tukey 1958; Efron and Stein 1981). It
is not the spread between seeds.
"""

import math
from collections.abc import Sequence
from functools import reduce
from operator import add

import numpy as np

from ninscope.multifractal.partition import PartitionSums

MIN_LAYERS = 2  # of one nothing is left when it is left out
_AT_ONCE = 8  # layers, so that what is computed of them stays in the cache


def left_out_values(
    layers: Sequence[PartitionSums], q: np.ndarray, log_radii: np.ndarray, derivative: str = "exact"
) -> np.ndarray:
    """alpha0 and width of a network without each of its node layers in turn, float64 [layers, 2].

    layers: partition sums of each node layer. q: float64 [len(q)]; log_radii: float64 [K + 1], ln r up to a constant, NaN of
    radii that enter no fit; derivative: as of `spectrum_of_sums`, whose numbers these are but for rounding. NaN where the rest
    has no spectrum, and for a single layer.
    """
    values = np.full((len(layers), 2), np.nan)
    if len(layers) < MIN_LAYERS:
        return values
    z, m = reduce(add, (layer.z for layer in layers)), reduce(add, (layer.m for layer in layers))
    seen = np.array([layer.seen for layer in layers]) & ~np.isnan(log_radii)
    others_see = seen.sum(axis=0) - seen > 0
    empty = np.array([layer.nodes == 0 for layer in layers])
    if empty.any():  # they change nothing, and are most of a network where few layers count
        values[empty] = _alpha0_and_width(z[None], m[None], np.asarray(seen.any(axis=0)), q, log_radii, derivative)[0]
    alike: dict[bytes, list[int]] = {}  # layers without which the rest has edges at the same radii
    for layer in np.flatnonzero(~empty).tolist():
        alike.setdefault(others_see[layer].tobytes(), []).append(layer)
    for group in alike.values():
        for first in range(0, len(group), _AT_ONCE):
            some = group[first : first + _AT_ONCE]
            rest_z = np.stack([z - layers[layer].z for layer in some])
            rest_m = np.stack([m - layers[layer].m for layer in some])
            values[some] = _alpha0_and_width(rest_z, rest_m, others_see[group[0]], q, log_radii, derivative)
    return values


def _alpha0_and_width(
    z: np.ndarray, m: np.ndarray, seen: np.ndarray, q: np.ndarray, log_radii: np.ndarray, derivative: str
) -> np.ndarray:
    """float64 [networks, 2] of z, m: float64 [networks, K + 1, len(q)], all of which have edges at the radii `seen`."""
    radii = np.flatnonzero(seen)
    if radii.size < 2:
        return np.full((len(z), 2), np.nan)
    x = log_radii[radii] - log_radii[radii].mean()
    weights = (x / (x * x).sum())[None, :, None]
    z, m = z[:, radii], m[:, radii]
    tau = (weights * np.log(z)).sum(axis=1)
    if derivative == "forward":
        alpha = np.diff(tau, axis=1) / np.diff(q)
        f = q[:-1] * alpha - tau[:, :-1]
    else:
        alpha = (weights * (m / z)).sum(axis=1)
        f = q * alpha - tau
    # Of forward differences two f are equal but for rounding: the same one is taken of every network, or the two alpha would look
    # like a spread.
    peak = (f >= f.max(axis=1, keepdims=True) - 1e-11 * np.maximum(np.abs(f).max(axis=1, keepdims=True), 1.0)).argmax(
        axis=1
    )
    alpha0 = np.take_along_axis(alpha, peak[:, None], axis=1)[:, 0]
    width = alpha.max(axis=1) - alpha.min(axis=1)
    width[width <= 1e-11 * np.abs(alpha).max(axis=1)] = 0.0  # as in `spectrum_of_sums`
    return np.stack([alpha0, width], axis=1)


def jackknife_interval(
    value: float, left_out: np.ndarray, confidence: float = 0.95, logarithmic: bool = False
) -> tuple[float, float]:
    """The interval value -+ t * SE of a delete-one jackknife, with t of Student's distribution.

    left_out: float64 [n], the value without each layer. SE^2 = (n - 1)/n * sum (left_out - mean)^2. Its degrees of freedom are
    2n/(kurtosis - 1), at most n - 1, kurtosis being that of left_out (Satterthwaite 1946): where a few layers decide, SE is known
    less well. logarithmic: of ln(value), for
    what is positive and skewed, as a width is. NaN, NaN where a value is missing, or for fewer than two layers.
    """
    count = left_out.size
    if count < MIN_LAYERS or math.isnan(value) or np.isnan(left_out).any():
        return math.nan, math.nan
    if logarithmic:
        if value <= 0 or (left_out <= 0).any():
            return math.nan, math.nan
        low, high = jackknife_interval(math.log(value), np.log(left_out), confidence)
        return math.exp(low), math.exp(high)
    from scipy.special import stdtrit  # with all of its array back ends, a fifth of a second

    spread = left_out - left_out.mean()
    squares = float((spread**2).sum())
    if squares == 0:
        return value, value
    kurtosis = count * float((spread**4).sum()) / squares**2
    freedom = min(count - 1, 2 * count / (kurtosis - 1)) if kurtosis > 1 else count - 1
    half = float(stdtrit(freedom, 0.5 + confidence / 2)) * math.sqrt((count - 1) / count * squares)
    return value - half, value + half


def left_out_emergence(now: np.ndarray, start: np.ndarray) -> np.ndarray:
    """E without each layer, float64 [layers]. now, start: of `left_out_values`, the same layers in the same order.

    A layer is left out of both checkpoints at once, so what it does to both alike drops out.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        values = now[:, 1] / start[:, 1] * np.log(start[:, 0] / now[:, 0])
    return np.where((start[:, 1] > 0) & (start[:, 0] > 0) & (now[:, 0] > 0), values, np.nan)
