"""Box growing: how many edges of each node fall at each radius (NeuroMFA, 4.2 and Algorithm 5, lines 3-11)."""

import math

import numpy as np
from numba import njit

from ninscope.networks.bin_table import BinTable, distance_shift
from ninscope.networks.radii import IntegerRadii
from ninscope.networks.transfer import UNCOUNTED


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


# Weights that a second look still finds in a cache; fewer would mean to go over all counts more often.
_CACHED = 1 << 19
_TILE = 256  # columns whose counts stay in the second-level cache while rows pass by


def column_histogram(bits: np.ndarray, table: BinTable, counts: np.ndarray, distances: np.ndarray) -> None:
    """Add a band of weights to its source nodes' counts and distances: each column of a weight matrix [out, in] is one node.

    bits: stored weights as unsigned integers [rows, columns]. Changed in place: counts, int32 [columns, table.width], edges
    per node and bin, then how many do not count, then how many are not finite; distances, int64 [columns], the sum of the
    counted edges' distances in units of 2**-distance_shift(table.radii): whole numbers, so bands may come in any order. On a
    logarithmic grid, which bounds no distance, distances stay as they are.
    """
    if (
        counts.shape != (bits.shape[1], table.width)
        or distances.shape != (bits.shape[1],)
        or bits.dtype != table.magnitude.dtype
    ):
        raise ValueError(
            f"counts {counts.shape} of {bits.dtype} weights {bits.shape}: compiled code would leave the array"
        )
    bits = np.ascontiguousarray(bits).view()
    bits.flags.writeable = False  # one type of array for the compiler, wherever the weights come from
    if table.shift == 0:
        _count_by_table(bits, table.magnitude, table.table, table.distances, counts, distances)
    else:
        shift = table.magnitude.dtype.type(table.shift)  # one type: unsigned and signed integers together become floats
        step = max(_CACHED // max(bits.shape[1], 1), 1)
        for first in range(0, len(bits), step):
            some = bits[first : first + step]
            _count_by_runs(some, table.magnitude, shift, table.table, table.starts, table.bins, counts)
            if isinstance(table.radii, IntegerRadii):
                _add_distances(some.view(f"f{bits.itemsize}"), table.radii, distances)


def _add_distances(weights: np.ndarray, radii: IntegerRadii, distances: np.ndarray) -> None:
    scale = math.ldexp(1.0, distance_shift(radii))
    if radii.transfer == "reciprocal":
        with np.errstate(all="ignore"):  # as compiled code does: what is not counted may be 0, or no number
            _sum_reciprocals(weights, radii.smallest_weight, scale, distances)
        return
    for first in range(0, len(weights), _SUMMED_ROWS):
        some = weights[first : first + _SUMMED_ROWS]
        counted = radii.bins(some.reshape(-1)).reshape(some.shape) != UNCOUNTED
        lengths = radii.distances(np.where(counted, np.abs(some.astype(np.float64)), 0.5))
        distances += np.where(counted, np.rint(lengths * scale), 0.0).sum(axis=0).astype(np.int64)


@njit(cache=True, nogil=True)
def _count_by_table(bits, magnitude, table, lengths, counts, distances):
    rows, columns = bits.shape
    for start in range(0, columns, _TILE):
        stop = min(start + _TILE, columns)
        tile = counts[start:stop]
        total = distances[start:stop]
        for r in range(rows):
            row = bits[r, start:stop]
            for c in range(row.size):
                pattern = row[c] & magnitude
                tile[c, table[pattern]] += 1
                total[c] += lengths[pattern]


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


# Whole numbers below 2**38 each (distance_shift), so that this many add up below 2**53, exactly, as floats: which, unlike
# integers, compile to vector instructions here.
_SUMMED_ROWS = 1 << 12


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_reciprocals(weights, smallest, scale, distances):
    rows, columns = weights.shape
    sums = np.empty(_TILE)
    for start in range(0, columns, _TILE):
        stop = min(start + _TILE, columns)
        for first in range(0, rows, _SUMMED_ROWS):
            sums[:] = 0.0
            for r in range(first, min(first + _SUMMED_ROWS, rows)):
                row = weights[r, start:stop]
                for c in range(row.size):
                    magnitude = np.float64(abs(row[c]))
                    distance = 1.0 / magnitude
                    sums[c] += np.rint(distance * scale) if (magnitude >= smallest) & (distance > 1.0) else 0.0
            for c in range(stop - start):
                distances[start + c] += np.int64(sums[c])
