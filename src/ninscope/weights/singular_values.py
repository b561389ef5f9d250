"""Statistics of a matrix's singular values: ranks, condition number, spectral alpha (docs/method.md#statistics-of-weights).

The singular values are the roots of the eigenvalues of the smaller of W^T W and W W^T, in float64, in a fraction of the time that
a decomposition of W takes. Squaring halves the digits of the small ones, so where the smallest matters, in the condition number,
it is taken from the triangular factor of W instead.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from ninscope.architectures.layout import WeightBlock
from ninscope.checkpoints.matrix import WeightMatrix, WeightTile
from ninscope.checkpoints.read_ahead import ReadAhead
from ninscope.checkpoints.tensors import as_float
from ninscope.checkpoints.verification import Verification
from ninscope.exact.blocks import matrix_name
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.weights.counting import WHOLE
from ninscope.weights.power_law import spectral_alpha

DIGITS = 10  # of results; the last ones depend on the machine's linear algebra
# Eigenvalues of the product are off by about this much of the largest, so a condition number up to the second is right to 1e-7.
_TRUSTED_CONDITION = 1e4
_EIGENVALUE_ERROR = 1e-15  # of the largest
_TRUSTED_DOUBT = 1e-9  # of the sum of the singular values
_ITERATED = 50  # of fewer singular values a decomposition costs nothing


@dataclass(frozen=True)
class SingularValueStatistics:
    """Of singular values s, largest s1, of a matrix [m, n]; rounded to DIGITS digits. Of a matrix of zeros all are NaN.

    stable_rank: ||W||_F^2 / s1^2. effective_rank: e to the entropy of s / sum s. proportional_effective_rank: over min(m, n).
    condition_number: s1 over the smallest, infinite where that is 0 but for rounding. spectral_alpha: `power_law.spectral_alpha`.
    """

    stable_rank: float = math.nan
    effective_rank: float = math.nan
    proportional_effective_rank: float = math.nan
    condition_number: float = math.nan
    spectral_alpha: float = math.nan


SINGULAR_VALUES = tuple(field.name for field in fields(SingularValueStatistics))


@dataclass(frozen=True)
class NetworkSingularValues:
    """Of every matrix of a network by its name, in the order of the blocks; last, as "all", means over those that have a value.

    unverified: as in `NetworkWeights`.
    """

    statistics: Mapping[str, SingularValueStatistics]
    unverified: str = ""


def network_singular_values(network: NeuronNetwork) -> NetworkSingularValues:
    """Read a network tensor by tensor. Raises CheckpointError."""
    verification = Verification(network.tensors)
    left = Counter(matrix_name(block.source, block.target) for block in network.blocks)
    found = dict.fromkeys(left, SingularValueStatistics())
    parts: dict[str, list[np.ndarray]] = {}
    for matrix, blocks, raw in _tensors(network):
        matrix.check_stored(raw, 0)
        tiles = list(matrix.tiles(raw, 0))
        for block in blocks:
            name = matrix_name(block.source, block.target)
            parts.setdefault(name, []).append(_dense(matrix, tiles, block, network.sizes))
            left[name] -= 1
            if left[name] == 0:  # a matrix may be made of several tensors
                found[name] = singular_value_statistics(np.concatenate(parts.pop(name)))
    return NetworkSingularValues(found | {WHOLE: _means(list(found.values()))}, verification.finish())


def _tensors(network: NeuronNetwork) -> Iterator[tuple[WeightMatrix, list[WeightBlock], list[memoryview]]]:
    """Every tensor with the blocks it holds and its bytes, read when it is asked for."""
    blocks: dict[str, list[WeightBlock]] = {}
    for block in network.blocks:
        blocks.setdefault(block.tensor, []).append(block)
    matrices = [network.matrices[name] for name in blocks]
    reads = ReadAhead([matrix.byte_ranges(0, matrix.slices) for matrix in matrices])
    for number, (matrix, of_matrix) in enumerate(zip(matrices, blocks.values(), strict=True)):
        yield matrix, of_matrix, reads.take(number)


def _dense(
    matrix: WeightMatrix, tiles: Sequence[WeightTile], block: WeightBlock, sizes: Mapping[str, int]
) -> np.ndarray:
    """The weights of a block, float64 [targets * taps, nodes], 0 where groups do not join two neurons."""
    targets = block.rows.rows(np.arange(sizes[block.target]))
    dense = np.zeros((targets.size * matrix.taps, matrix.size[1]))
    for tile in tiles:
        bits, nodes = tile.chosen(targets, None)
        if not bits.size:
            continue
        weights = as_float(bits if matrix.dtype == "BF16" else bits.view(f"<f{bits.itemsize}"), matrix.dtype)
        weights = weights.T if tile.nodes_first else weights
        first = int(np.searchsorted(targets, tile.first_target)) * matrix.taps
        dense[first : first + len(weights), nodes] = weights
    return dense


def singular_value_statistics(weights: np.ndarray) -> SingularValueStatistics:
    """weights: float64 [m, n], finite."""
    scale = float(np.abs(weights).max(initial=0.0))
    if scale == 0:
        return SingularValueStatistics()
    exponent = math.frexp(scale)[1]  # squares of weights of any size stay numbers
    values, smallest = singular_values(np.ldexp(weights, -exponent))
    largest = float(values[-1])
    shares = values[values > 0] / values.sum()
    effective = math.exp(-float((shares * np.log(shares)).sum()))
    vanishes = smallest <= max(weights.shape) * np.finfo(np.float64).eps * largest
    found = (
        float((values**2).sum()) / largest**2,
        effective,
        effective / min(weights.shape),
        math.inf if vanishes else largest / smallest,
        spectral_alpha(np.ldexp(values, exponent) ** 2),
    )
    return SingularValueStatistics(*(float(f"{value:.{DIGITS}g}") for value in found))


def singular_values(weights: np.ndarray) -> tuple[np.ndarray, float]:
    """(singular values, float64 [min(m, n)], ascending; the smallest of them, to as many digits as a decomposition of W gives).

    weights: float64 [m, n], not all 0. By way of the smaller product of W with itself, unless that would cost digits of their sum.
    """
    is_tall = weights.shape[0] >= weights.shape[1]
    eigenvalues = np.linalg.eigvalsh(weights.T @ weights if is_tall else weights @ weights.T)
    largest = float(eigenvalues[-1])
    values = np.sqrt(np.maximum(eigenvalues, 0.0))
    off = _EIGENVALUE_ERROR * largest
    doubt = float((off / np.maximum(values, math.sqrt(off))).sum())
    if doubt > _TRUSTED_DOUBT * float(values.sum()):
        values = np.linalg.svd(weights, compute_uv=False)[::-1]
        return values, float(values[0])
    if largest <= _TRUSTED_CONDITION**2 * float(eigenvalues[0]):
        return values, float(values[0])
    return values, _smallest(weights if is_tall else weights.T)


def _smallest(tall: np.ndarray) -> float:
    """The smallest singular value, by inverse iteration on the triangular factor."""
    from scipy.linalg import qr, solve_triangular
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    triangle = qr(tall, mode="r", check_finite=False)[0][: tall.shape[1]]
    diagonal = np.abs(np.diag(triangle))
    if diagonal.min() <= np.finfo(np.float64).tiny * max(1.0, float(diagonal.max())):
        return 0.0

    def solved(vector: np.ndarray) -> np.ndarray:
        return solve_triangular(triangle, solve_triangular(triangle, vector, trans="T", check_finite=False))

    size = len(triangle)
    if size > _ITERATED:
        try:
            inverse = LinearOperator((size, size), matvec=solved, dtype=np.float64)
            (largest,) = eigsh(inverse, k=1, v0=np.ones(size), tol=1e-12, return_eigenvectors=False)
            return 1.0 / math.sqrt(largest)
        except ArpackError:
            pass  # the decomposition finds it in any case
    return float(np.linalg.svd(triangle, compute_uv=False)[-1])


def _means(found: Sequence[SingularValueStatistics]) -> SingularValueStatistics:
    means = []
    for values in zip(*map(astuple, found), strict=True):
        known = [value for value in values if not math.isnan(value)]
        means.append(math.fsum(known) / len(known) if known else math.nan)
    return SingularValueStatistics(*means)
