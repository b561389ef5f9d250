"""The exact analysis of a checkpoint's null models, from what was tallied of its matrices."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np

from ninscope.exact.blocks import BlockTally, matrix_name
from ninscope.multifractal.nulls import (
    bin_probabilities,
    expected_sums,
    gaussian_counts,
    generator_of,
    seen_radii,
    shuffled_counts,
)
from ninscope.multifractal.partition import PartitionSums, partition_sums
from ninscope.multifractal.spectrum import Spectrum, spectrum_of_sums
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.networks.radii import Radii
from ninscope.parameters import Parameters

Draw = Callable[["MatrixBins", Radii, np.random.PCG64], np.ndarray]


@dataclass(frozen=True)
class MatrixBins:
    """How the weights of one matrix spread over the distance bins, all that a null model needs of it.

    rows: edges that a node has in it; columns: nodes; std: standard deviation of the weights; totals: int64 [K + 2], weights per
    distance bin, then those that are no edges; taps: where the weights are norms of kernels, the taps of a kernel, and std is
    then that of one tap.
    """

    source: str
    target: str
    rows: int
    columns: int
    std: float
    totals: np.ndarray
    taps: int = 1

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


def null_spectrum(
    null: str,
    matrices: Sequence[MatrixBins],
    radii: Radii,
    parameters: Parameters,
    seed: int = 0,
    sample: int = 0,
) -> Spectrum:
    """The spectrum of the whole network under a null model, on the radii of the network itself.

    null: one of NULLS. seed, sample: of the random ones.
    """
    if null not in NULLS:
        raise ValueError(f"unknown null model {null!r}; one of {', '.join(NULLS)}")
    by_source: dict[str, list[MatrixBins]] = {}
    for matrix in matrices:
        by_source.setdefault(matrix.source, []).append(matrix)
    draw = NULLS[null]
    if draw is None:
        total = _analytic_sums(list(by_source.values()), radii, parameters)
    else:
        sums = (_drawn_sums(null, draw, group, radii, parameters, seed, sample) for group in by_source.values())
        total = reduce(add, sums)
    return spectrum_of_sums(total, parameters.q, parameters.log_radii(radii), parameters.derivative)


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


# Every null model, in the order in which a run takes them, with what draws the counts of one matrix, int32 [columns, K + 1].
# shuffled: the weights of each matrix permuted at random. gaussian: each matrix drawn with mean 0 and its own standard deviation.
# analytic: every node has the counts expected of that Gaussian, which leaves nothing to draw, and no difference within a layer.
NULLS: Mapping[str, Draw | None] = {"shuffled": _shuffled, "gaussian": _gaussian, "analytic": None}


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
