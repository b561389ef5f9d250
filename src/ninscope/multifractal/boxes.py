"""Box growing: how many edges of each node fall at each radius (paper A, 4.2 and Algorithm 5, lines 3-11)."""

import numpy as np
from numba import njit

from ninscope.networks.bin_table import BinTable


def box_histogram(indptr: np.ndarray, bins: np.ndarray, radius_count: int) -> np.ndarray:
    """Edges per node and distance bin.

    indptr: int [nodes + 1], one row a node; bins: int16 [edges], values 0..radius_count, negative where an edge is not
    counted. Returns int32 [nodes, radius_count + 1]; its running sum over axis 1, plus 1, is N_i(r).
    """
    if (len(indptr) and indptr[-1] != bins.size) or bins.max(initial=-1) > radius_count:
        raise ValueError("rows or bins reach beyond the arrays: compiled code would leave them")
    return _histogram(np.asarray(indptr, dtype=np.int64), bins, radius_count)


@njit(cache=True, nogil=True)
def _histogram(indptr, bins, radius_count):
    nodes = indptr.size - 1
    counts = np.zeros((nodes, radius_count + 1), np.int32)
    for i in range(nodes):
        for edge in range(indptr[i], indptr[i + 1]):
            if bins[edge] >= 0:
                counts[i, bins[edge]] += 1
    return counts


_TILE = 256  # columns whose counts stay in the second-level cache while rows pass by


def column_histogram(bits: np.ndarray, table: BinTable, counts: np.ndarray) -> None:
    """Add a band of weights to its source nodes' counts: each column of a weight matrix [out, in] is one node.

    bits: stored weights as unsigned integers [rows, columns]; counts: int32 [columns, table.width], changed in place: edges
    per node and bin, then how many do not count, then how many are not finite.
    """
    if counts.shape != (bits.shape[1], table.width) or bits.dtype != table.magnitude.dtype:
        raise ValueError(
            f"counts {counts.shape} of {bits.dtype} weights {bits.shape}: compiled code would leave the array"
        )
    if table.shift == 0:
        _count_by_table(bits, table.magnitude, table.table, counts)
    else:
        shift = table.magnitude.dtype.type(table.shift)  # one type: unsigned and signed integers together become floats
        _count_by_runs(bits, table.magnitude, shift, table.table, table.starts, table.bins, counts)


@njit(cache=True, nogil=True)
def _count_by_table(bits, magnitude, table, counts):
    rows, columns = bits.shape
    for start in range(0, columns, _TILE):
        stop = min(start + _TILE, columns)
        tile = counts[start:stop]
        for r in range(rows):
            row = bits[r, start:stop]
            for c in range(row.size):
                tile[c, table[row[c] & magnitude]] += 1


@njit(cache=True, nogil=True)
def _count_by_runs(bits, magnitude, shift, table, starts, bins, counts):
    rows, columns = bits.shape
    for start in range(0, columns, _TILE):
        stop = min(start + _TILE, columns)
        tile = counts[start:stop]
        for r in range(rows):
            row = bits[r, start:stop]
            for c in range(row.size):
                pattern = row[c] & magnitude
                run = table[pattern >> shift]
                # Seldom more than one run further, and which is random: adding the comparison saves a mispredicted branch.
                run += pattern >= starts[run + 1]
                while pattern >= starts[run + 1]:
                    run += 1
                tile[c, bins[run]] += 1
