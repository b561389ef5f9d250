"""Curves of growth of a whole network and of single neurons, beside those of Gaussian weights (docs/method.md#fit-quality)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import groupby
from operator import add

import numpy as np

from ninscope.checkpoints.verification import Verification
from ninscope.exact.bands import BandReader, bands_of, outgoing
from ninscope.exact.blocks import BlockTally, merged
from ninscope.exact.counting import LayerCounts, Tally, count_band, radii_of
from ninscope.exact.null_models import drawn_sums, matrices_of
from ninscope.multifractal.partition import PartitionSums, partition_sums
from ninscope.multifractal.scaling import curve_residuals, information, prediction_band, scaling_of
from ninscope.networks.bin_table import bin_table
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.networks.radii import Radii
from ninscope.networks.sampling import sampled_neurons
from ninscope.parameters import Parameters

MASS, PARTITION, NEURON = "mass", "z", "neuron"


@dataclass(frozen=True)
class GrowthCurve:
    """One curve over the radii that the network has, or of a neuron those that it has.

    quantity: "mass" (mean of ln N over the nodes that count), "z" (ln Z at `q`) or "neuron" (ln N of one). radii, values, local:
    float64 [n], distances, the curve and its local slopes; null_low, null_high: float64 [n], between which a
    local slope of Gaussian weights lies at that radius in 95 of 100 cases (`prediction_band`), NaN where fewer than two draws have
    it. slope, r2: fitted. range_low, range_high, decades: where local slopes are within 10 % of the fitted one, NaN where nowhere;
    null_decades: the longest such range of a draw. criteria: of mass alone, as `information` gives them.
    """

    quantity: str
    q: float
    neuron: str
    radii: np.ndarray
    values: np.ndarray
    local: np.ndarray
    null_low: np.ndarray
    null_high: np.ndarray
    slope: float
    r2: float
    range_low: float
    range_high: float
    decades: float
    null_decades: float = math.nan
    criteria: Mapping[str, float] = field(default_factory=dict)

    @property
    def outside_null(self) -> float:
        """Share of the radii with a local slope outside the band, about 0.05 for Gaussian weights; NaN without a band."""
        known = ~np.isnan(self.null_low)
        if not known.any():
            return math.nan
        local = self.local[known]
        return float(((local < self.null_low[known]) | (local > self.null_high[known])).mean())


@dataclass(frozen=True)
class GrowthCurves:
    """Of one network. message: why there are none, or empty; unverified: as in ExactAnalysis."""

    curves: tuple[GrowthCurve, ...]
    message: str = ""
    unverified: str = ""


def growth_curves(
    network: NeuronNetwork,
    parameters: Parameters,
    q: Sequence[float] = (-3.0, 3.0),
    draws: int = 5,
    neurons: int = 6,
    seed: int = 0,
) -> GrowthCurves:
    """Growth of a whole network with radius: in the mean, in ln Z at each of q, and of a few neurons of layers far apart.

    parameters: of an exact analysis of single layers. q: increasing; 0, where ln Z does not grow, gives no curve. draws: of
    Gaussian weights, those of the null model "gaussian" with this seed. neurons: each of another layer as far as there are
    enough, chosen by the seed: the same at every checkpoint. One pass over the weights, on logarithmic radii two. Raises
    CheckpointError.
    """
    orders = np.unique([*q, 0.0])
    parameters = replace(parameters, q=orders, derivative="exact")
    ranges = Verification(
        () if parameters.log_count is None else network.tensors
    )  # each time what is read must be right
    radii = radii_of(network, parameters)
    ranges.finish()
    verification = Verification(network.tensors)
    wanted = _chosen(network, neurons, seed)
    sums, logs = [], 0.0
    rows: dict[str, np.ndarray] = {}
    tallies: dict[str, BlockTally] = {}
    for layer, counts in _layers(network, radii):
        degrees = counts.histogram.sum(axis=1, dtype=np.int64)
        histogram = np.ascontiguousarray(counts.histogram)
        sums.append(partition_sums(histogram, parameters.min_degree, orders, degrees))
        logs += float(np.log1p(degrees[degrees > parameters.min_degree]).sum())
        rows |= {f"{layer}[{neuron}]": histogram[neuron].copy() for neuron in wanted.get(layer, ())}
        tallies |= counts.matrices
    note = verification.finish()
    total = reduce(add, sums)
    if total.nodes == 0 or total.seen.sum() < 2:
        return GrowthCurves((), "no two radii with counted edges: there is no curve", note)
    log_radii = parameters.log_radii(radii)
    matrices = matrices_of(tallies, network)
    nulls = [drawn_sums("gaussian", matrices, radii, parameters, seed, draw) for draw in range(draws)]
    drawn = [_of_network(null, 0.0, orders, radii, log_radii) for null in nulls if null.seen.sum() > 1]
    own = _of_network(total, logs / total.nodes, orders, radii, log_radii)
    curves = [_beside(curve, [null[number] for null in drawn]) for number, curve in enumerate(own)]
    curves += [_of_neuron(name, row, radii, log_radii) for name, row in rows.items()]
    return GrowthCurves(tuple(curve for curve in curves if curve.radii.size), "", note)


def _chosen(network: NeuronNetwork, count: int, seed: int) -> dict[str, list[int]]:
    """Numbers of neurons by their layer: layers evenly far apart, and more of one only where there are not enough."""
    layers = network.source_layers
    places = np.round(np.linspace(0, len(layers) - 1, count)).astype(int).tolist() if count else []
    chosen = {}
    for place in dict.fromkeys(places):
        layer = layers[place]
        chosen[layer.name] = sampled_neurons(seed, 0, layer.sample_group, layer.size, places.count(place)).tolist()
    return chosen


def _layers(network: NeuronNetwork, radii: Radii) -> Iterator[tuple[str, LayerCounts]]:
    """Counts of every node layer that edges leave, with what null models need of its matrices."""
    bands, _ = bands_of(outgoing(network))
    reader = BandReader(bands)
    for layer, of_layer in groupby(bands, key=lambda band: band.part.layer):
        tally = None
        matrices: dict[str, BlockTally] = {}
        for band in of_layer:
            table = bin_table(band.part.matrix.dtype, radii)
            tally = tally or Tally(band.part.matrix.size[1], table, distances=False)
            matrices = merged(matrices, count_band(band, reader.raw(band), table, [tally], matrices=True))
        assert tally is not None
        yield layer, replace(tally.counts, matrices=matrices)


def _of_network(
    sums: PartitionSums, mean_log_total: float, q: np.ndarray, radii: Radii, log_radii: np.ndarray
) -> list[GrowthCurve]:
    """The mass and ln Z of every q but 0. The mean of ln N follows from q = 0, at which M / Z is the mean of ln N(r)/N(d)."""
    bins = np.flatnonzero(sums.seen)
    zero = int(np.abs(q).argmin())
    mass = sums.m[bins, zero] / sums.z[bins, zero] + mean_log_total
    curves = [_curve(MASS, math.nan, "", bins, mass, radii, log_radii)]
    orders = [(number, float(order)) for number, order in enumerate(q) if number != zero]
    return curves + [
        _curve(PARTITION, order, "", bins, np.log(sums.z[bins, number]), radii, log_radii) for number, order in orders
    ]


def _of_neuron(name: str, row: np.ndarray, radii: Radii, log_radii: np.ndarray) -> GrowthCurve:
    """row: int32 [K + 1], edges per distance bin."""
    bins = np.flatnonzero(row[1:]) + 1
    return _curve(NEURON, math.nan, name, bins, np.log(1.0 + row.cumsum()[bins]), radii, log_radii)


def _curve(
    quantity: str, q: float, neuron: str, bins: np.ndarray, values: np.ndarray, radii: Radii, log_radii: np.ndarray
) -> GrowthCurve:
    x, lengths, fitted = radii.logarithms[bins], radii.lengths[bins], ~np.isnan(log_radii[bins])
    scaling = scaling_of(x, values, fitted)
    low, high = (math.nan, math.nan) if scaling.range is None else lengths[list(scaling.range)].tolist()
    nothing = np.full(bins.size, np.nan)
    criteria = {}
    if quantity == MASS and fitted.sum() > 1:
        criteria = information(curve_residuals(lengths[fitted], values[fitted]), int(fitted.sum()))
    return GrowthCurve(
        quantity, q, neuron, lengths, values, scaling.local, nothing, nothing, scaling.slope, scaling.r2, low, high,
        scaling.decades(x), criteria=criteria,
    )  # fmt: skip


def _beside(own: GrowthCurve, drawn: Sequence[GrowthCurve]) -> GrowthCurve:
    """The curve with the band of the same curves of Gaussian weights."""
    slopes = np.full((len(drawn), own.radii.size), np.nan)
    for row, curve in zip(slopes, drawn, strict=True):
        _, here, there = np.intersect1d(own.radii, curve.radii, return_indices=True)
        row[here] = curve.local[there]
    known = [curve.decades for curve in drawn if not math.isnan(curve.decades)]
    low, high = prediction_band(slopes)
    return replace(own, null_low=low, null_high=high, null_decades=max(known, default=math.nan))
