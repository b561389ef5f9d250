"""The grid of radii that distances are rounded to: whole steps within fixed bounds, or a logarithmic one within the data's own.

A distance is kept as its bin, the number of its radius; radii enter the analysis only through their logarithms, up to a
constant. So a grid is how weights become bins, and the logarithms of the radii.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ninscope.errors import RequestError
from ninscope.networks.transfer import MAX_RADII, UNCOUNTED, distance_bins, distances, epsilon, radius_count


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
