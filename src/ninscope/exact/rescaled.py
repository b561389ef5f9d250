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
from ninscope.exact.counting import Tally
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
    parts = outgoing(network)
    bands, _ = bands_of(parts)
    reader = BandReader(bands)
    by_layer = {layer: list(group) for layer, group in groupby(bands, key=lambda band: band.part.layer)}
    for layer, own in by_layer.items():
        yield _rescaled_layer(layer, own, reader, parameters, radii, readings)


def _rescaled_layer(
    layer: str,
    bands: Sequence[Band],
    reader: BandReader,
    parameters: Parameters,
    radii: Radii,
    readings: Sequence[Factors],
) -> RescaledLayer:
    counts = np.zeros((len(readings), bands[0].part.matrix.size[1], radii.count + 1), np.int32)
    totals = {}
    for _, of_matrix in groupby(bands, key=lambda band: id(band.part)):
        for name, counted, table in _counted(list(of_matrix), reader, radii, readings):
            totals[name] = unfold(counted, table, counts)
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
        for tile in part.matrix.tiles(raw, band.first):
            for target, tally in tallies.items():
                bits, counted = tile.chosen(rows[target], None)
                if bits.size and not tally.add(bits, tables[target], counted, tile.nodes_first):
                    part.matrix.check_stored(raw, band.first)
    for target, tally in tallies.items():
        yield matrix_name(part.layer, target), tally.every_bin, tables[target]


def _table(part: Outgoing, target: str, radii: Radii, readings: Sequence[Factors]) -> JointTable:
    name = matrix_name(part.layer, target)
    return joint_table(part.matrix.dtype, radii, [factors[name] for factors in readings])
