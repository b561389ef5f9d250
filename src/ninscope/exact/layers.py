"""What the exact analysis keeps of a node layer: its partition sums, and what it says of its nodes one by one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ninscope.exact.blocks import BlockTally
from ninscope.exact.counting import LayerCounts
from ninscope.multifractal.node_dimension import mass_radius_fits
from ninscope.multifractal.partition import PartitionSums, partition_sums
from ninscope.networks.bin_table import distance_shift
from ninscope.networks.radii import IntegerRadii, Radii
from ninscope.parameters import Parameters

_PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class NodeValues:
    """The neurons of one layer, one entry each, in the order of their numbers.

    edges: int64, those that count; degree: float64, average weighted degree, the mean distance of these edges (NeuroMFA, 5.1),
    NaN without any, and on a logarithmic grid: where no distance is too long, a mean is that of the few longest; dimension:
    float64, node fractal dimension (Eq. 26) over the radii of the analysis, 0 for nodes of min_degree edges or fewer, NaN
    where all edges share one radius; r2: float64, of its fit.
    """

    edges: np.ndarray
    degree: np.ndarray
    dimension: np.ndarray
    r2: np.ndarray


@dataclass(frozen=True)
class LayerStatistics:
    """Moments over the nodes of one layer that count, those with more than min_degree edges; NaN where there are none.

    mean, std, kurtosis: of the average weighted degree (std with n in the denominator; kurtosis E[((X - mean)/std)^4], 3 for
    a normal distribution, NaN where all are alike); dimension_mean, dimension_std: of the node fractal dimension;
    r2_mass_mean, r2_mass_std: of R^2 of ln N on ln r; p5 to p95: percentiles of the average weighted degree. On a logarithmic
    grid there is no weighted degree (NodeValues), and all that is said of it is NaN. alpha0_without, width_without: of the whole
    network without this layer (multifractal/jackknife.py), NaN where that was not computed or does not exist.
    """

    layer: str
    nodes: int
    nodes_counted: int
    mean: float
    std: float
    kurtosis: float
    dimension_mean: float
    dimension_std: float
    r2_mass_mean: float
    r2_mass_std: float
    p5: float
    p25: float
    p50: float
    p75: float
    p95: float
    alpha0_without: float = math.nan
    width_without: float = math.nan


@dataclass(frozen=True)
class LayerResult:
    """One node layer: sums that add over layers, and its nodes' values."""

    layer: str
    sums: PartitionSums
    nodes: NodeValues
    matrices: Mapping[str, BlockTally] = field(default_factory=dict)

    def statistics(self, min_degree: int) -> LayerStatistics:
        counted = self.nodes.edges > min_degree
        degree = self.nodes.degree[counted]
        mean, std = _moments(degree)
        kurtosis = float((((degree - mean) / std) ** 4).mean()) if std > 0 else math.nan
        fitted = counted & ~np.isnan(self.nodes.dimension)
        return LayerStatistics(
            self.layer,
            counted.size,
            int(counted.sum()),
            mean,
            std,
            kurtosis,
            *_moments(self.nodes.dimension[fitted]),
            *_moments(self.nodes.r2[~np.isnan(self.nodes.r2)]),
            *_percentiles(degree),
        )


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of float64 [n]: what `mean` and `std` give, to the bit, at half their cost."""
    if values.size == 0:
        return math.nan, math.nan
    if (values == values[0]).all():  # whose mean may differ from them by a rounding error
        return float(values[0]), 0.0
    mean = np.add.reduce(values) / values.size
    apart = values - mean
    return float(mean), math.sqrt(np.add.reduce(apart * apart) / values.size)


def _percentiles(values: np.ndarray) -> list[float]:
    """_PERCENTILES of float64 [n], NaN where n is 0: what `np.percentile` gives, to the bit, at a fifth of its cost."""
    if values.size == 0:
        return [math.nan] * len(_PERCENTILES)
    ordered = np.sort(values)
    rank = (values.size - 1) * (np.array(_PERCENTILES) / 100)
    below = np.floor(rank).astype(np.int64)
    low, high = ordered[below], ordered[np.minimum(below + 1, values.size - 1)]
    part, step = rank - below, high - low
    return np.where(part >= 0.5, high - step * (1 - part), low + step * part).tolist()


def layer_result(layer: str, counts: LayerCounts, radii: Radii, parameters: Parameters) -> LayerResult:
    """Partition sums and node values of one layer from all its counts."""
    histogram = np.ascontiguousarray(counts.histogram)
    edges = histogram.sum(axis=1, dtype=np.int64)
    degree = np.full(edges.size, np.nan)
    if isinstance(radii, IntegerRadii):
        np.divide(counts.distances, edges, out=degree, where=edges > 0)
        degree = np.ldexp(degree, -distance_shift(radii))
    dimension, r2 = mass_radius_fits(histogram, parameters.min_degree, parameters.log_radii(radii), edges)
    sums = partition_sums(histogram, parameters.min_degree, parameters.q, edges)
    return LayerResult(layer, sums, NodeValues(edges, degree, dimension, r2), counts.matrices)
