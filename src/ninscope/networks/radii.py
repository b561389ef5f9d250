"""The grid of radii that distances are rounded to: whole steps within fixed bounds, or a logarithmic one within the data's own.

A distance is kept as its bin, the number of its radius; radii enter the analysis only through their logarithms, up to a
constant. So a grid is how weights become bins, and the logarithms of the radii.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ninscope.errors import RequestError
from ninscope.networks.transfer import (
    MAX_RADII,
    UNCOUNTED,
    distance_bins,
    distances,
    epsilon,
    radius_count,
    radius_step,
)


@dataclass(frozen=True)
class IntegerRadii:
    """Radii 1, 2, ... steps; an edge counts when 1 < 1/|w| <= max_distance (the bounds of NeuroMFA's code)."""

    transfer: str = "reciprocal"
    max_distance: float = 150.0

    beyond = 1.0  # from this magnitude on no edge counts

    @property
    def count(self) -> int:
        return radius_count(self.max_distance)

    @cached_property
    def logarithms(self) -> np.ndarray:
        """ln r of radii 0..count, float64 [count + 1]; entry 0 stands for radius 0, which holds mass but is no radius."""
        return np.log(np.maximum(np.arange(self.count + 1), 1))

    @property
    def lengths(self) -> np.ndarray:
        """The distance that each of the radii 0..count stands for, float64 [count + 1]."""
        return np.arange(self.count + 1) * radius_step(self.transfer, self.max_distance)

    def fitted_logarithms(self, fit_radii: "FitRadii") -> np.ndarray:
        """ln r, NaN of the radii that enter no fit."""
        return self.logarithms if fit_radii is None else fitted_logarithms(self.logarithms, self.lengths, fit_radii)

    @property
    def smallest_weight(self) -> float:
        return epsilon(self.max_distance)

    @property
    def largest_distance(self) -> float:
        """No counted edge is longer; coth exceeds its argument's reciprocal by less than 1/3."""
        return self.max_distance + 1.0

    def bins(self, weights: np.ndarray) -> np.ndarray:
        """The bin of every weight (float16, 32 or 64 [n]), int16 [n], UNCOUNTED where the edge is out of bounds."""
        return distance_bins(weights, self.transfer, self.max_distance)

    def distances(self, magnitudes: np.ndarray) -> np.ndarray:
        """f(|w|), not rounded, float64."""
        return distances(magnitudes, self.transfer)


@dataclass(frozen=True)
class LogRadii:
    """`count` radii, evenly spaced in ln d from the smallest to the largest distance of a network: every weight is an edge.

    smallest_weight, largest_weight: the magnitudes that bound it. A distance goes to the nearest radius in ln d; which one is
    found from |w|/largest_weight alone, so that multiplying all weights by one number changes nothing (by a power of two: no
    bit). Only for 1/|w|: the other transfer functions know a scale.
    """

    count: int
    smallest_weight: float
    largest_weight: float

    beyond = math.inf

    @cached_property
    def logarithms(self) -> np.ndarray:
        """ln(r/r_1) of radii 0..count, float64 [count + 1]; there is no edge at radius 0."""
        return np.maximum(np.arange(self.count + 1) - 1, 0) * self._step

    @property
    def lengths(self) -> np.ndarray:
        """The distance that each of the radii 1..count stands for, float64 [count + 1]; entry 0 is 0."""
        lengths = np.exp(self.logarithms) / self.largest_weight
        lengths[0] = 0.0
        return lengths

    def fitted_logarithms(self, fit_radii: "FitRadii") -> np.ndarray:
        """ln(r/r_1), NaN of the radii that enter no fit."""
        return self.logarithms if fit_radii is None else fitted_logarithms(self.logarithms, self.lengths, fit_radii)

    @property
    def _step(self) -> float:
        return math.log(self.largest_weight / self.smallest_weight) / (self.count - 1)

    def bins(self, weights: np.ndarray) -> np.ndarray:
        """The bin 1..count of every weight (float16, 32 or 64 [n]), int16 [n]; UNCOUNTED where it is 0."""
        magnitudes = np.abs(weights.astype(np.float64))
        counted = magnitudes > 0
        if self.smallest_weight == self.largest_weight:
            return np.where(counted, 1, UNCOUNTED).astype(np.int16)
        # In bounds whatever is asked: a table holds patterns that no weight of the network has.
        inside = np.clip(magnitudes, self.smallest_weight, self.largest_weight)
        bins = 1 + np.rint(np.log(self.largest_weight / inside) / self._step)
        return np.where(counted, bins, UNCOUNTED).astype(np.int16)


Radii = IntegerRadii | LogRadii

FitRadii = Sequence[float] | None  # the shortest and the longest distance that enters a fit; None: every radius


def fitted_logarithms(logarithms: np.ndarray, lengths: np.ndarray, fit_radii: FitRadii) -> np.ndarray:
    """ln r of every radius, NaN where a radius lies outside `fit_radii` and so enters no fit.

    logarithms: float64 [K + 1]; lengths: float64 [K + 1], the distances that the radii stand for, of which bounds are told. A
    radius on a bound, but for rounding, is inside. Without bounds: the logarithms themselves.
    """
    if fit_radii is None:
        return logarithms
    low, high = fit_radii
    inside = (lengths >= low * (1 - _ROUNDING)) & (lengths <= high * (1 + _ROUNDING))
    return np.where(inside, logarithms, np.nan)


_ROUNDING = 1e-9


def checked_fit_radii(fit_radii: object, grid: IntegerRadii | None, crossed: int = 1) -> FitRadii:
    """Two distances with 0 <= first < second, or None. Raises RequestError.

    grid: the radii, where they do not hang on the weights; at least two of them, up to `crossed` times as far, must lie inside.
    """
    if fit_radii is None:
        return None
    pair = list(fit_radii) if isinstance(fit_radii, Sequence | np.ndarray) and not isinstance(fit_radii, str) else []
    numbers = all(isinstance(end, int | float | np.number) and not isinstance(end, bool) for end in pair)
    if len(pair) != 2 or not numbers or not 0 <= pair[0] < pair[1] < math.inf:
        raise RequestError(f"fit_radii is {fit_radii!r}; two distances [a, b] with 0 <= a < b were expected")
    bounds = float(pair[0]), float(pair[1])
    if grid is not None:
        lengths = np.arange(grid.count * crossed + 1) * grid.lengths[1]
        inside = int((~np.isnan(fitted_logarithms(lengths, lengths, bounds)[1:])).sum())
        if inside < 2:
            raise RequestError(
                f"fit_radii holds {inside} of the radii {lengths[1]:g} to {lengths[-1]:g}, and a slope needs two: widen it"
            )
    return bounds


def log_radii(count: int, magnitudes: np.ndarray) -> LogRadii:
    """The logarithmic grid of a network with these weights, float64 [n], absolute values; zeros are no edges.

    Where they range over more than 300 decades, all that is smaller belongs to the last radius.
    """
    present = magnitudes[magnitudes > 0]
    if present.size == 0:
        return LogRadii(count, 1.0, 1.0)
    largest = float(present.max())
    return LogRadii(count, max(float(present.min()), largest * 1e-300), largest)


def checked_radii(radii: object, transfer: str) -> "str | dict[str, int]":
    """`"integer"`, or `{"log": K}` with 2 <= K <= MAX_RADII. Raises RequestError."""
    if isinstance(radii, str) and radii == "integer":
        return "integer"
    if isinstance(radii, Mapping) and set(radii) == {"log"}:
        count = radii["log"]
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 2 <= count <= MAX_RADII:
            raise RequestError(f"radii log = {count!r}; an integer from 2 to {MAX_RADII} was expected")
        if transfer != "reciprocal":
            raise RequestError(f"logarithmic radii go with transfer reciprocal, not {transfer}, which knows a scale")
        return {"log": int(count)}
    raise RequestError(f'radii is {radii!r}; "integer" or {{ log = K }} was expected')
