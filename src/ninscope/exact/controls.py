"""Controls of E: readings of a checkpoint that tell what its numbers are made of (docs/method.md#controls).

- *growth*: the baseline's own weights, each matrix brought to the root mean square (rms) that it has now. What E they have is
  growth of norms and nothing else.
- *fixed*: the weights of now, each matrix brought to the rms of the baseline. What E they have is not growth of norms.
- *unit*: the weights of now, each matrix brought to rms 0.1, so that the bounds of a distance lie at 10 and at 1/15 of the rms at
  every step. It needs no baseline.
- *shuffled*: the unit reading after the weights of each matrix are permuted at random.

A matrix is what joins two node layers, so q, k and v are apart.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np

from ninscope.exact.blocks import matrix_name
from ninscope.exact.rescaled import Factors, RescaledLayer, rescaled_layers
from ninscope.multifractal.jackknife import jackknife_interval, left_out_values
from ninscope.multifractal.nulls import generator_of, shuffled_counts
from ninscope.multifractal.partition import PartitionSums, partition_sums
from ninscope.multifractal.spectrum import spectrum_of_sums
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.networks.radii import Radii
from ninscope.parameters import Parameters

UNIT, SHUFFLED, FIXED, GROWTH = "unit", "shuffled", "fixed", "growth"
UNIT_RMS = 0.1
SHUFFLED_NODES = 256  # of each node layer: draws of more would cost more than the rest of the controls

RootMeanSquares = Mapping[str, float]  # by the matrix's name
# Counts a network with its matrices multiplied by factors, as `rescaled_layers` does.
Rescaling = Callable[[NeuronNetwork, Parameters, Radii, Sequence[Factors]], Iterator[RescaledLayer]]


@dataclass(frozen=True)
class ControlReading:
    """One reading of a whole network.

    alpha0, width: NaN where it has no spectrum, of which `message` says why. left_out: by the name of each node layer that counts,
    both without it, for a jackknife. nodes_counted, layers_counted: how many count.
    """

    alpha0: float
    width: float
    left_out: Mapping[str, tuple[float, float]]
    nodes_counted: int
    message: str = ""

    @property
    def layers_counted(self) -> int:
        return len(self.left_out)

    @property
    def counted_layers(self) -> frozenset[str]:
        return frozenset(self.left_out)


@dataclass(frozen=True)
class Start:
    """A baseline: its network, the root mean squares of its matrices, and what messages call it."""

    network: NeuronNetwork
    rms: RootMeanSquares
    name: str


def control_readings(
    network: NeuronNetwork,
    rms: RootMeanSquares,
    parameters: Parameters,
    start: Start | None = None,
    seed: int = 0,
    rescaled: Rescaling = rescaled_layers,
) -> tuple[dict[str, ControlReading], str]:
    """(every reading of a checkpoint by its name, one clause on what is not as it should be, or empty).

    rms: of its matrices. start: its baseline, where growth is to be told from the rest; there is no "fixed" and no "growth"
    without one, nor where it has other matrices. parameters, seed, rescaled: as in `unit_readings`. Raises CheckpointError.
    """
    if start is None:
        return unit_readings(network, rms, parameters, seed=seed, rescaled=rescaled), ""
    if not matrices_alike(network, start.network):
        clause = f"no growth: {start.name} has other matrices"
        return unit_readings(network, rms, parameters, seed=seed, rescaled=rescaled), clause
    readings = unit_readings(network, rms, parameters, start.rms, seed, rescaled)
    readings[GROWTH] = growth_reading(start.network, start.rms, rms, parameters, rescaled)
    return readings, _zeros(rms, start)


def _zeros(rms: RootMeanSquares, start: Start) -> str:
    """One clause on matrices that no factor brings to the norm of the other checkpoint."""
    now, before = ([name for name, value in of.items() if value == 0] for of in (rms, start.rms))
    clauses = [
        f"{names[0]} holds nothing but zeros{at}" for names, at in ((now, ""), (before, f" at {start.name}")) if names
    ]
    return "; ".join(clauses)


def unit_readings(
    network: NeuronNetwork,
    rms: RootMeanSquares,
    parameters: Parameters,
    start_rms: RootMeanSquares | None = None,
    seed: int = 0,
    rescaled: Rescaling = rescaled_layers,
) -> dict[str, ControlReading]:
    """The readings "unit" and "shuffled" of a checkpoint, and with the rms of its baseline's matrices "fixed": one pass.

    parameters: of an exact analysis on integer radii. seed: of what is shuffled. rescaled: who counts. Raises CheckpointError.
    """
    factors = [_ratios(UNIT_RMS, rms)]
    if start_rms is not None:
        factors.append({name: _ratio(start_rms[name], own) for name, own in rms.items()})
    radii = parameters.integer_radii
    layers = list(rescaled(network, parameters, radii, factors))
    readings = {UNIT: {layer.layer: layer.sums[0] for layer in layers}}
    readings[SHUFFLED] = {layer.layer: _shuffled(layer, network, radii, parameters, seed) for layer in layers}
    if start_rms is not None:
        readings[FIXED] = {layer.layer: layer.sums[1] for layer in layers}
    return {name: _reading(sums, parameters, radii) for name, sums in readings.items()}


def growth_reading(
    start: NeuronNetwork,
    start_rms: RootMeanSquares,
    rms: RootMeanSquares,
    parameters: Parameters,
    rescaled: Rescaling = rescaled_layers,
) -> ControlReading:
    """The reading "growth": the baseline's network, its matrices brought to the rms of now. Raises CheckpointError."""
    factors = {name: _ratio(rms[name], own) for name, own in start_rms.items()}
    radii = parameters.integer_radii
    layers = rescaled(start, parameters, radii, [factors])
    return _reading({layer.layer: layer.sums[0] for layer in layers}, parameters, radii)


def _ratios(wanted: float, rms: RootMeanSquares) -> Factors:
    return {name: _ratio(wanted, own) for name, own in rms.items()}


def _ratio(wanted: float, own: float) -> float:
    """What brings a matrix to the wanted rms; one of zeros stays as it is."""
    return wanted / own if own > 0 else 1.0


def _shuffled(
    layer: RescaledLayer, network: NeuronNetwork, radii: Radii, parameters: Parameters, seed: int
) -> PartitionSums:
    """Partition sums of some SHUFFLED_NODES nodes of a shuffled layer, times as many as it has more.

    A layer of fewer neurons is shuffled several times over. All nodes of a shuffled layer are alike in distribution, so the sums
    are those of the whole layer but for the draw.
    """
    nodes = network.sizes[layer.layer]
    drawn = min(nodes, SHUFFLED_NODES)
    draws = -(-SHUFFLED_NODES // nodes)
    counts = np.zeros((draws, drawn, radii.count + 1), np.int32)
    for draw in range(draws):
        for name, totals in layer.totals.items():
            generator = generator_of(seed, draw, "shuffled", name)
            counts[draw] += shuffled_counts(totals[0], nodes, generator, drawn)
    sums = partition_sums(counts.reshape(draws * drawn, -1), parameters.min_degree, parameters.q)
    share = nodes / (draws * drawn)
    return replace(
        sums, z=sums.z * share, m=sums.m * share, nodes=round(sums.nodes * share), edges=round(sums.edges * share)
    )


def _reading(layers: Mapping[str, PartitionSums], parameters: Parameters, radii: Radii) -> ControlReading:
    spectrum = spectrum_of_sums(
        reduce(add, layers.values()), parameters.q, parameters.log_radii(radii), parameters.derivative
    )
    counted = {name: sums for name, sums in layers.items() if sums.nodes}
    values = left_out_values(list(counted.values()), parameters.q, parameters.log_radii(radii), parameters.derivative)
    left_out = {name: (alpha0, width) for name, (alpha0, width) in zip(counted, values.tolist(), strict=True)}
    return ControlReading(spectrum.alpha0, spectrum.width, left_out, spectrum.nodes, spectrum.message)


def structure(unit: ControlReading, shuffled: ControlReading, confidence: float) -> tuple[float, float, float]:
    """ln(width of the unit reading / width of its shuffled null), and its interval by leaving out one node layer at a time."""
    if not (unit.width > 0 and shuffled.width > 0):
        return math.nan, math.nan, math.nan
    value = math.log(unit.width / shuffled.width)
    if list(unit.left_out) != list(shuffled.left_out):
        return value, math.nan, math.nan
    after, before = (np.array([width for _, width in of.left_out.values()]) for of in (unit, shuffled))
    with np.errstate(divide="ignore", invalid="ignore"):
        without = np.log(after / before)
    return value, *jackknife_interval(value, np.where(np.isfinite(without), without, np.nan), confidence)


def matrices_alike(network: NeuronNetwork, start: NeuronNetwork) -> bool:
    """Whether two networks have the same matrices, in names and sizes, so that one can be brought to the other's rms."""
    mine, others = (
        {matrix_name(block.source, block.target): each.edges_of(block) for block in each.blocks}
        for each in (network, start)
    )
    return mine == others
