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
def _histogram(indptr: np.ndarray, bins: np.ndarray, radius_count: int) -> np.ndarray:
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
_TILE_COUNTS = 80000  # the same where a column has more bins than usual: counts that stay there


def column_histogram(bits: np.ndarray, table: BinTable, counts: np.ndarray, distances: np.ndarray | None) -> None:
    """Add a band of weights to its source nodes' counts and distances: each column of a weight matrix [out, in] is one node.

    bits: stored weights as unsigned integers [rows, columns]. Changed in place: counts, int32 [columns, table.width], edges
    per node and bin, then how many do not count, then how many are not finite; distances, int64 [columns], the sum of the
    counted edges' distances in units of 2**-distance_shift(table.radii): whole numbers, so bands may come in any order. On a
    logarithmic grid, which bounds no distance, distances stay as they are; None: they are not summed.
    """
    bits = _checked(bits, bits.shape[1], table, counts, distances)
    if table.shift == 0:
        if distances is None:
            _count_columns_alone(bits, table.magnitude, table.table, counts, max(_TILE_COUNTS // table.width, 16))
        else:
            _count_columns(bits, table.magnitude, table.packed, counts, distances.view(np.uint64))
        return
    step = max(_CACHED // max(bits.shape[1], 1), 1)
    for first in range(0, len(bits), step):
        rows = bits[first : first + step]
        _count_columns_by_runs(rows, table.magnitude, _shift(table), table.table, table.starts, table.bins, counts)
        if distances is not None:
            _add_distances(rows, table, distances, axis=0)


def row_histogram(bits: np.ndarray, table: BinTable, counts: np.ndarray, distances: np.ndarray | None) -> None:
    """As `column_histogram` for a matrix that is stored as [in, out]: each row is one node.

    bits: stored weights as unsigned integers [rows, columns]; counts: int32 [rows, table.width]; distances: int64 [rows], or
    None. Both are changed in place. The matrix is not turned over, and a node's counts stay in the first-level cache.
    """
    bits = _checked(bits, bits.shape[0], table, counts, distances)
    if table.shift == 0:
        if distances is None:
            _count_rows_alone(bits, table.magnitude, table.table, counts)
        else:
            _count_rows(bits, table.magnitude, table.packed, counts, distances.view(np.uint64))
        return
    step = max(_CACHED // max(bits.shape[1], 1), 1)
    for first in range(0, len(bits), step):
        nodes = slice(first, first + step)
        _count_rows_by_runs(
            bits[nodes], table.magnitude, _shift(table), table.table, table.starts, table.bins, counts[nodes]
        )
        if distances is not None:
            _add_distances(bits[nodes], table, distances[nodes], axis=1)


def count_magnitudes(magnitudes: np.ndarray, table: BinTable, counts: np.ndarray, nodes_first: bool) -> None:
    """Add weights that are stored nowhere to their nodes' counts.

    magnitudes: float64 [nodes, edges], or [edges, nodes] where not nodes_first, at least 0; table: of F64; counts: int32 [nodes,
    table.width], changed in place.
    """
    bits = magnitudes.view(np.uint64)
    nodes = bits.shape[0 if nodes_first else 1]
    bits = _checked(bits, nodes, table, counts, None)
    count = _count_rows_by_runs if nodes_first else _count_columns_by_runs
    count(bits, table.magnitude, _shift(table), table.table, table.starts, table.bins, counts)


def _checked(
    bits: np.ndarray, nodes: int, table: BinTable, counts: np.ndarray, distances: np.ndarray | None
) -> np.ndarray:
    """The weights as one type of array for the compiler, wherever they come from. Raises ValueError."""
    unfit = counts.shape != (nodes, table.width) or (distances is not None and distances.shape != (nodes,))
    if unfit or bits.dtype != table.magnitude.dtype:
        raise ValueError(
            f"counts {counts.shape} of {bits.dtype} weights {bits.shape}: compiled code would leave the array"
        )
    bits = np.ascontiguousarray(bits).view()
    bits.flags.writeable = False
    return bits


def _shift(table: BinTable) -> np.unsignedinteger:
    return table.magnitude.dtype.type(table.shift)  # one type: unsigned and signed integers together become floats


def _add_distances(bits: np.ndarray, table: BinTable, distances: np.ndarray, axis: int) -> None:
    """Sums over the axis of the edges of weights F32 or F64. distances: int64, one entry a node, added to."""
    radii = table.radii
    if not isinstance(radii, IntegerRadii):
        return
    weights = bits.view(f"f{bits.itemsize}")
    scale = math.ldexp(1.0, distance_shift(radii))
    if radii.transfer == "reciprocal":
        add = _add_reciprocals_of_columns if axis == 0 else _add_reciprocals_of_rows
        with np.errstate(all="ignore"):  # as compiled code does: what is not counted may be 0, or no number
            add(weights, radii.smallest_weight, scale, distances)
        return
    for first in range(0, len(weights), _SUMMED):
        rows = weights[first : first + _SUMMED]
        counted = radii.bins(rows.reshape(-1)).reshape(rows.shape) != UNCOUNTED
        lengths = radii.distances(np.where(counted, np.abs(rows.astype(np.float64)), 0.5))
        whole = np.where(counted, np.rint(lengths * scale), 0.0)
        if axis == 0:
            distances += whole.sum(axis=0).astype(np.int64)
        else:
            distances[first : first + _SUMMED] += whole.astype(np.int64).sum(axis=1)


# Of an entry of BinTable.packed the upper bits are the bin, the lower ones the distance.
_SHIFT = np.uint64(42)
_DISTANCE = np.uint64((1 << 42) - 1)


@njit(cache=True, nogil=True)
def _count_columns(
    bits: np.ndarray, magnitude: np.unsignedinteger, packed: np.ndarray, counts: np.ndarray, distances: np.ndarray
) -> None:
    rows, columns = bits.shape
    even = rows - rows % 2
    for start in range(0, columns, _TILE):
        stop = min(start + _TILE, columns)
        tile = counts[start:stop]
        total = distances[start:stop]
        # Two rows at a time: their distances, each below 2**38, are added to a node's sum at once.
        for r in range(0, even, 2):
            upper, lower = bits[r, start:stop], bits[r + 1, start:stop]
            for c in range(upper.size):
                first, second = packed[upper[c] & magnitude], packed[lower[c] & magnitude]
                tile[c, first >> _SHIFT] += 1
                tile[c, second >> _SHIFT] += 1
                total[c] += (first & _DISTANCE) + (second & _DISTANCE)
        for r in range(even, rows):
            row = bits[r, start:stop]
            for c in range(row.size):
                entry = packed[row[c] & magnitude]
                tile[c, entry >> _SHIFT] += 1
                total[c] += entry & _DISTANCE


@njit(cache=True, nogil=True)
def _count_rows(
    bits: np.ndarray, magnitude: np.unsignedinteger, packed: np.ndarray, counts: np.ndarray, distances: np.ndarray
) -> None:
    rows, columns = bits.shape
    for r in range(rows):
        row = bits[r]
        node = counts[r]
        total = np.uint64(0)
        for c in range(columns):
            entry = packed[row[c] & magnitude]
            node[entry >> _SHIFT] += 1
            total += entry & _DISTANCE
        distances[r] += total


@njit(cache=True, nogil=True)
def _count_columns_alone(
    bits: np.ndarray, magnitude: np.unsignedinteger, table: np.ndarray, counts: np.ndarray, width: int
) -> None:
    rows, columns = bits.shape
    for start in range(0, columns, width):
        stop = min(start + width, columns)
        tile = counts[start:stop]
        for r in range(rows):
            row = bits[r, start:stop]
            for c in range(row.size):
                tile[c, table[row[c] & magnitude]] += 1


@njit(cache=True, nogil=True)
def _count_rows_alone(bits: np.ndarray, magnitude: np.unsignedinteger, table: np.ndarray, counts: np.ndarray) -> None:
    rows, columns = bits.shape
    for r in range(rows):
        row = bits[r]
        node = counts[r]
        for c in range(columns):
            node[table[row[c] & magnitude]] += 1


@njit(cache=True, nogil=True)
def _count_columns_by_runs(
    bits: np.ndarray,
    magnitude: np.unsignedinteger,
    shift: np.unsignedinteger,
    table: np.ndarray,
    starts: np.ndarray,
    bins: np.ndarray,
    counts: np.ndarray,
) -> None:
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


@njit(cache=True, nogil=True)
def _count_rows_by_runs(
    bits: np.ndarray,
    magnitude: np.unsignedinteger,
    shift: np.unsignedinteger,
    table: np.ndarray,
    starts: np.ndarray,
    bins: np.ndarray,
    counts: np.ndarray,
) -> None:
    rows, columns = bits.shape
    for r in range(rows):
        row = bits[r]
        node = counts[r]
        for c in range(columns):
            pattern = row[c] & magnitude
            run = table[pattern >> shift]
            run += pattern >= starts[run + 1]
            while pattern >= starts[run + 1]:
                run += 1
            node[bins[run]] += 1


# Whole numbers below 2**38 each (distance_shift), so that this many add up below 2**53, exactly, as floats: which, unlike
# integers, compile to vector instructions here.
_SUMMED = 1 << 12


@njit(cache=True, nogil=True, error_model="numpy")
def _add_reciprocals_of_columns(weights: np.ndarray, smallest: float, scale: float, distances: np.ndarray) -> None:
    rows, columns = weights.shape
    sums = np.empty(_TILE)
    for start in range(0, columns, _TILE):
        stop = min(start + _TILE, columns)
        for first in range(0, rows, _SUMMED):
            sums[:] = 0.0
            for r in range(first, min(first + _SUMMED, rows)):
                row = weights[r, start:stop]
                for c in range(row.size):
                    magnitude = np.float64(abs(row[c]))
                    distance = 1.0 / magnitude
                    sums[c] += np.rint(distance * scale) if (magnitude >= smallest) & (distance > 1.0) else 0.0
            for c in range(stop - start):
                distances[start + c] += np.int64(sums[c])


@njit(cache=True, nogil=True, error_model="numpy")
def _add_reciprocals_of_rows(weights: np.ndarray, smallest: float, scale: float, distances: np.ndarray) -> None:
    rows, columns = weights.shape
    sums = np.empty(_TILE)  # side by side, as one after the other each sum would wait for the one before
    for r in range(rows):
        for first in range(0, columns, _TILE * _SUMMED):
            sums[:] = 0.0
            last = min(first + _TILE * _SUMMED, columns)
            for start in range(first, last, _TILE):
                edges = weights[r, start : min(start + _TILE, last)]
                for c in range(edges.size):
                    magnitude = np.float64(abs(edges[c]))
                    distance = 1.0 / magnitude
                    sums[c] += np.rint(distance * scale) if (magnitude >= smallest) & (distance > 1.0) else 0.0
            for c in range(_TILE):
                distances[r] += np.int64(sums[c])
