"""Exact readings of one network with its matrices multiplied by factors, any number of such readings in one pass.

Multiplying a matrix moves the weights at which a bin ends, and nothing else: so each weight is looked up once, in a joint bin that
says its bin under every reading (`joint_table`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ninscope.exact.bands import Band, BandReader, Outgoing, bands_of, outgoing
from ninscope.exact.blocks import matrix_name
from ninscope.exact.counting import Tally, check_finite
from ninscope.multifractal.partition import PartitionSums, partition_sums
from ninscope.networks.bin_table import JointTable, joint_table, unfold
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.networks.radii import Radii
from ninscope.parameters import Parameters

Factors = Mapping[str, float]  # by the matrix's name


@dataclass(frozen=True)
class RescaledLayer:
    """One node layer under several readings.

    sums: one entry a reading. totals: by the matrix's name, int64 [readings, K + 2], its weights per distance bin, then those
    that are no edges.
    """

    layer: str
    sums: tuple[PartitionSums, ...]
    totals: Mapping[str, np.ndarray]


def rescaled_layers(
    network: NeuronNetwork, parameters: Parameters, radii: Radii, readings: Sequence[Factors]
) -> Iterator[RescaledLayer]:
    """The node layers that edges leave, in the network's order, under each of the readings.

    readings: for each, the factor of every matrix (`matrix_name`), finite and not below 0. Memory: the counts of one layer.
    Raises CheckpointError.
    """
    bands, _ = bands_of(outgoing(network))
    for layer, counts, totals in rescaled_counts(network, bands, radii, readings):
        yield rescaled_layer(layer, counts, totals, parameters)


def rescaled_counts(
    network: NeuronNetwork, bands: Sequence[Band], radii: Radii, readings: Sequence[Factors]
) -> Iterator[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
    """(layer, counts int32 [readings, nodes, K + 1], totals as of a `RescaledLayer`) of every layer that bands belong to."""
    reader = BandReader(bands)
    for layer, own in groupby(bands, key=lambda band: band.part.layer):
        counts = np.zeros((len(readings), network.sizes[layer], radii.count + 1), np.int32)
        totals = {}
        for _, of_matrix in groupby(own, key=lambda band: id(band.part)):
            for name, counted, table in _counted(list(of_matrix), reader, radii, readings):
                totals[name] = unfold(counted, table, counts)
        yield layer, counts, totals


def rescaled_layer(
    layer: str, counts: np.ndarray, totals: Mapping[str, np.ndarray], parameters: Parameters
) -> RescaledLayer:
    """What all counts of a layer say. counts, totals: as of `rescaled_counts`."""
    sums = tuple(partition_sums(counts_of, parameters.min_degree, parameters.q) for counts_of in counts)
    return RescaledLayer(layer, sums, totals)


def _counted(
    bands: Sequence[Band], reader: BandReader, radii: Radii, readings: Sequence[Factors]
) -> Iterator[tuple[str, np.ndarray, JointTable]]:
    """(name, counts of joint bins int32 [nodes, width], table) of the matrices that one tensor holds."""
    part = bands[0].part
    targets, nodes = part.matrix.size
    tables = {target: _table(part, target, radii, readings) for target in part.leads_to}
    rows = {target: None if chosen.size == targets else chosen for target, chosen in part.leads_to.items()}
    tallies = {target: Tally(nodes, table, distances=False) for target, table in tables.items()}
    for band in bands:
        raw = reader.raw(band)
        for tile in band.tiles(raw):
            for target, tally in tallies.items():
                bits, counted = tile.chosen(rows[target], None)
                if 0 not in bits.shape and not tally.add(bits, tables[target], counted, tile.nodes_first):
                    band.check_stored(raw)
    check_finite(tallies.values(), bands)
    for target, tally in tallies.items():
        yield matrix_name(part.layer, target), tally.every_bin, tables[target]


def _table(part: Outgoing, target: str, radii: Radii, readings: Sequence[Factors]) -> JointTable:
    name = matrix_name(part.layer, target)
    return joint_table(part.matrix.dtype, radii, [factors[name] for factors in readings])
