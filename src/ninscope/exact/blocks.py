"""What null models need of each weight matrix: how its weights spread over the bins, and their standard deviation.

A matrix is what connects two node layers, so GPT-NeoX's fused query_key_value is three of them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ninscope.checkpoints.tensors import as_float
from ninscope.errors import CheckpointError
from ninscope.multifractal.boxes import column_histogram
from ninscope.networks.bin_table import BinTable

_LANES = 64
_ROWS = 64
_LARGEST = 1e150


def matrix_name(source: str, target: str) -> str:
    """The name of a matrix, in messages and for its random numbers."""
    return f"{source} -> {target}"


@dataclass(frozen=True)
class BlockTally:
    """Some rows of one matrix, as its tensor stores them; tallies of other rows add in any order, since `std` sums exactly.

    columns: weights of a row; totals: int64 [K + 2], weights per distance bin, then those that are no edges; row_moments:
    float64 [rows, 2], mean and variance of each row.
    """

    source: str
    target: str
    columns: int
    totals: np.ndarray
    row_moments: np.ndarray

    def __add__(self, other: "BlockTally") -> "BlockTally":
        rows = np.concatenate([self.row_moments, other.row_moments])
        return BlockTally(self.source, self.target, self.columns, self.totals + other.totals, rows)

    @property
    def name(self) -> str:
        return matrix_name(self.source, self.target)

    @property
    def rows(self) -> int:
        return len(self.row_moments)

    @property
    def std(self) -> float:
        """Standard deviation of the weights, n in the denominator; 0 for weights that are all equal."""
        means, variances = self.row_moments.T
        mean = math.fsum(means) / self.rows
        std = math.sqrt((math.fsum(variances) + math.fsum((means - mean) ** 2)) / self.rows)
        return std if std > 1e-14 * abs(mean) else 0.0  # means differ from weights that are all alike by rounding

    def std_of(self, taps: int) -> float:
        """`std`, or where the weights are norms of kernels of so many taps the root mean square of one tap."""
        if taps == 1:
            return self.std
        means, variances = self.row_moments.T
        return math.sqrt((math.fsum(variances) + math.fsum(means**2)) / self.rows / taps)


def merged(first: Mapping[str, BlockTally], second: Mapping[str, BlockTally]) -> dict[str, BlockTally]:
    """Tallies by the matrix's name, added where both have one."""
    tallies = dict(first)
    for name, tally in second.items():
        tallies[name] = tallies[name] + tally if name in tallies else tally
    return tallies


def block_tally(source: str, target: str, bits: np.ndarray, dtype: str, table: BinTable) -> BlockTally:
    """bits: whole rows of one matrix, as stored, unsigned integers [rows, columns], all finite.

    Raises CheckpointError (unsupported) where the weights' variance is beyond float64.
    """
    values = as_float(bits if dtype == "BF16" else bits.view(f"f{bits.itemsize}"), dtype)
    largest = float(np.abs(values).max(initial=0))
    if largest > _LARGEST:
        raise CheckpointError(
            "unsupported",
            f"weights of {matrix_name(source, target)} reach {largest:g}, too large for a variance; ask for no [nulls]",
        )
    row_moments = np.empty((len(values), 2))
    for first in range(0, len(values), _ROWS):  # a few rows in float64 at a time
        some = values[first : first + _ROWS]
        row_moments[first : first + _ROWS, 0] = some.mean(axis=1, dtype=np.float64)
        row_moments[first : first + _ROWS, 1] = some.var(axis=1, dtype=np.float64)
    # Every weight alike counts for the matrix; a few counters side by side are faster than one.
    flat = bits.reshape(-1)
    counts, unused = np.zeros((_LANES, table.width), np.int32), np.zeros(_LANES, np.int64)
    even = flat.size - flat.size % _LANES
    column_histogram(flat[:even].reshape(-1, _LANES), table, counts, unused)
    column_histogram(flat[even:].reshape(1, -1), table, counts[: flat.size - even], unused[: flat.size - even])
    totals = counts[:, : table.radius_count + 2].sum(axis=0, dtype=np.int64)
    return BlockTally(source, target, bits.shape[1], totals, row_moments)
