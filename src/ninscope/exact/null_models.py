"""The exact analysis of a checkpoint's null models, from what was tallied of its matrices."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np

from ninscope.exact.blocks import BlockTally, matrix_name
from ninscope.exact.norms import MatrixNorms
from ninscope.multifractal.nulls import (
    bin_probabilities,
    expected_sums,
    gaussian_counts,
    generator_of,
    seen_radii,
    shuffled_counts,
)
from ninscope.multifractal.partition import PartitionSums, partition_sums
from ninscope.multifractal.redrawn import norm_counts
from ninscope.multifractal.spectrum import Spectrum, spectrum_of_sums
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.networks.radii import Radii
from ninscope.parameters import Parameters

Draw = Callable[["MatrixBins", Radii, np.random.PCG64], np.ndarray]


@dataclass(frozen=True)
class Null:
    """A null model. draw: the counts of one matrix, int32 [columns, K + 1]; None where nothing is drawn. keeps: what of the
    network's weights it keeps, for the tables. needs_norms: whether it needs MatrixBins.norms.
    """

    draw: Draw | None
    keeps: str
    needs_norms: bool = False


@dataclass(frozen=True)
class MatrixBins:
    """How the weights of one matrix spread over the distance bins, all that a null model needs of it.

    rows: edges that a node has in it; columns: nodes; std: standard deviation of the weights; totals: int64 [K + 2], weights per
    distance bin, then those that are no edges; taps: where the weights are norms of kernels, the taps of a kernel, and std is
    then that of one tap. norms: of its columns and rows, which null models that keep them need; the exact analysis keeps none
    (`exact.norms.matrix_norms`).
    """

    source: str
    target: str
    rows: int
    columns: int
    std: float
    totals: np.ndarray
    taps: int = 1
    norms: MatrixNorms | None = None

    @property
    def name(self) -> str:
        return matrix_name(self.source, self.target)


def matrices_of(tallies: Mapping[str, BlockTally], network: NeuronNetwork) -> tuple[MatrixBins, ...]:
    """What null models need of each matrix, in the order of the network's blocks. tallies: complete, by the matrix's name."""
    matrices = []
    for block in network.blocks:
        tally = tallies[matrix_name(block.source, block.target)]
        edges, nodes = network.edges_of(block)
        taps = network.taps_of_norms(block)
        matrices.append(MatrixBins(block.source, block.target, edges, nodes, tally.std_of(taps), tally.totals, taps))
    return tuple(matrices)


def with_norms(matrices: Sequence[MatrixBins], norms: Mapping[str, MatrixNorms]) -> tuple[MatrixBins, ...]:
    """The matrices with their norms. norms: by the matrix's name, of all of them."""
    return tuple(replace(matrix, norms=norms[matrix.name]) for matrix in matrices)


def null_spectrum(
    null: str,
    matrices: Sequence[MatrixBins],
    radii: Radii,
    parameters: Parameters,
    seed: int = 0,
    sample: int = 0,
) -> Spectrum:
    """The spectrum of the whole network under a null model, on the radii of the network itself.

    null: one of NULLS. seed, sample: of the random ones. Raises ValueError: an unknown one, or one that keeps norms where the
    matrices have none.
    """
    if null not in NULLS:
        raise ValueError(f"unknown null model {null!r}; one of {', '.join(NULLS)}")
    if NULLS[null].needs_norms and any(matrix.norms is None for matrix in matrices):
        raise ValueError(f"the null model {null} needs the norms of every matrix; add them by with_norms")
    by_source: dict[str, list[MatrixBins]] = {}
    for matrix in matrices:
        by_source.setdefault(matrix.source, []).append(matrix)
    draw = NULLS[null].draw
    if draw is None:
        total = _analytic_sums(list(by_source.values()), radii, parameters)
    else:
        sums = (_drawn_sums(null, draw, group, radii, parameters, seed, sample) for group in by_source.values())
        total = reduce(add, sums)
    return spectrum_of_sums(total, parameters.q, radii.logarithms, parameters.derivative)


def _drawn_sums(
    null: str, draw: Draw, matrices: list[MatrixBins], radii: Radii, parameters: Parameters, seed: int, sample: int
) -> PartitionSums:
    counts = np.zeros((matrices[0].columns, radii.count + 1), np.int32)
    for matrix in matrices:
        counts += draw(matrix, radii, generator_of(seed, sample, null, matrix.name))
    return partition_sums(counts, parameters.min_degree, parameters.q)


def _shuffled(matrix: MatrixBins, radii: Radii, generator: np.random.PCG64) -> np.ndarray:
    return shuffled_counts(matrix.totals, matrix.columns, generator)


def _gaussian(matrix: MatrixBins, radii: Radii, generator: np.random.PCG64) -> np.ndarray:
    return gaussian_counts(bin_probabilities(matrix.std, radii, matrix.taps), matrix.rows, matrix.columns, generator)


def _column_norms(matrix: MatrixBins, radii: Radii, generator: np.random.PCG64) -> np.ndarray:
    assert matrix.norms is not None
    return norm_counts(matrix.norms.columns, matrix.rows, radii, generator, matrix.taps)


def _row_norms(matrix: MatrixBins, radii: Radii, generator: np.random.PCG64) -> np.ndarray:
    assert matrix.norms is not None
    counts = np.zeros((matrix.columns, radii.count + 1), np.int32)
    for nodes, targets in matrix.norms.groups():
        of_pair = matrix.rows // targets.size  # edges from a node to a target: the taps that are kept apart
        drawn = norm_counts(
            matrix.norms.rows[targets], nodes.size * of_pair, radii, generator, matrix.taps, of_columns=False
        )
        counts[nodes] = drawn.reshape(nodes.size, of_pair, -1).sum(axis=1)
    return counts


# Every null model of single layers, in the order in which a run takes them.
NULLS: Mapping[str, Null] = {
    "shuffled": Null(_shuffled, "the weights of each matrix; in random places"),
    "gaussian": Null(_gaussian, "the standard deviation of each matrix"),
    "analytic": Null(None, "the standard deviation of each matrix; every node has the expected counts"),
    "column_norms": Null(_column_norms, "the norm of each source neuron's weights in each matrix", needs_norms=True),
    "row_norms": Null(_row_norms, "the norm of each target neuron's weights in each matrix", needs_norms=True),
}


def _analytic_sums(layers: list[list[MatrixBins]], radii: Radii, parameters: Parameters) -> PartitionSums:
    """Partition sums of the expected counts. Radii are the network's, not a layer's: a rare weight anywhere makes one."""
    sums, everywhere = [], np.zeros(radii.count + 1)
    for matrices in layers:
        nodes = matrices[0].columns
        expected = reduce(
            add, (matrix.rows * bin_probabilities(matrix.std, radii, matrix.taps)[:-1] for matrix in matrices)
        )
        sums.append(expected_sums(expected, nodes, parameters.min_degree, parameters.q))
        everywhere += nodes * expected * (sums[-1].nodes > 0)
    return replace(reduce(add, sums), seen=seen_radii(everywhere))
