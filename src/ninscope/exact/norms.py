"""Euclidean norms of every column and row of a network's matrices, which null models that keep them need: one pass over the
weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ninscope.architectures.layout import WeightBlock
from ninscope.checkpoints.matrix import WeightTile
from ninscope.checkpoints.tensors import as_float
from ninscope.checkpoints.verification import Verification
from ninscope.errors import CheckpointError
from ninscope.exact.bands import Band, BandReader, bands_of, outgoing
from ninscope.exact.blocks import matrix_name
from ninscope.networks.neuron_network import NeuronNetwork

_ROWS = 64  # that are held in float64 at a time


@dataclass(frozen=True)
class MatrixNorms:
    """columns: float64 [nodes], the norm of each node's weights in this matrix; rows: float64 [targets]. node_groups,
    target_groups: int64, the group of each, all 0 but in grouped convolutions, where weights join a node to the targets of its
    group alone.
    """

    columns: np.ndarray
    rows: np.ndarray
    node_groups: np.ndarray
    target_groups: np.ndarray

    def groups(self) -> "list[tuple[np.ndarray, np.ndarray]]":
        """(numbers of the nodes, numbers of the targets) of each group, int64."""
        return [
            (np.flatnonzero(self.node_groups == group), np.flatnonzero(self.target_groups == group))
            for group in np.unique(self.node_groups).tolist()
        ]


def groups_of(network: NeuronNetwork, block: WeightBlock) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [nodes], int64 [targets]): the group of every node and target of a block."""
    matrix = network.matrices[block.tensor]
    targets, nodes = matrix.size
    groups = matrix.layout.groups
    rows = block.rows.rows(np.arange(network.sizes[block.target]))
    return np.arange(nodes) // (nodes // groups), rows // (targets // groups)


def matrix_norms(network: NeuronNetwork) -> dict[str, MatrixNorms]:
    """The norms of every matrix, by its name (`matrix_name`).

    Sums are taken in float64 in one order, so they are the same bits each time. Raises CheckpointError: nonfinite; unsupported,
    where squares are beyond float64.
    """
    squares = {
        matrix_name(block.source, block.target): (
            np.zeros(network.sizes[block.source]),
            np.zeros(network.sizes[block.target]),
        )
        for block in network.blocks
    }
    verification = Verification(network.tensors)
    _, bands = bands_of(outgoing(network))
    reader = BandReader(bands)
    for band in bands:
        _add(band, reader, squares)
    verification.finish()
    found = {}
    for block in network.blocks:
        name = matrix_name(block.source, block.target)
        columns, rows = (np.sqrt(sums) for sums in squares[name])
        if not np.isfinite(rows).all():
            raise CheckpointError(
                "unsupported", f"weights of {name} are too large for a norm; ask for other null models"
            )
        found[name] = MatrixNorms(columns, rows, *groups_of(network, block))
    return found


def _add(band: Band, reader: BandReader, squares: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    matrix, raw = band.part.matrix, reader.raw(band)
    for tile in matrix.tiles(raw, band.first):
        for target, targets in band.part.leads_to.items():
            of_nodes, of_targets = squares[matrix_name(band.part.layer, target)]
            bits, nodes = tile.chosen(targets, None)
            here = _targets_in(tile, targets)
            axis = 1 if tile.nodes_first else 0
            for first in range(0, len(bits), _ROWS * tile.taps):
                some = slice(first, first + _ROWS * tile.taps)
                with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found in the sums
                    square = _floats(bits[some], matrix.dtype) ** 2
                    along, across = square.sum(axis=axis), square.sum(axis=1 - axis)
                if tile.nodes_first:
                    of_nodes[nodes][some] += along
                    of_targets[here] += across.reshape(-1, tile.taps).sum(axis=1)
                else:
                    of_nodes[nodes] += along
                    of_targets[here][some.start // tile.taps : some.stop // tile.taps] += across.reshape(
                        -1, tile.taps
                    ).sum(axis=1)
            if not np.isfinite(of_nodes[nodes]).all():
                matrix.check_stored(raw, band.first)


def _targets_in(tile: WeightTile, targets: np.ndarray) -> slice:
    """Which of some sorted targets of the matrix are in the tile: they follow each other."""
    width = tile.bits.shape[1 if tile.nodes_first else 0] // tile.taps
    return slice(*(int(at) for at in np.searchsorted(targets, (tile.first_target, tile.first_target + width))))


def _floats(bits: np.ndarray, dtype: str) -> np.ndarray:
    bits = np.ascontiguousarray(bits)
    return as_float(bits if dtype == "BF16" else bits.view(f"f{bits.itemsize}"), dtype).astype(np.float64)
