"""Kernels of shortest paths through layers: edges to a dense block, the min-plus product of two, its estimate from a few terms."""

import numpy as np
from numba import njit

_TILE = 512  # targets whose distances stay in the first-level cache while passing nodes go by
_DEPTH = 128  # passing nodes whose distances to these targets stay in the second-level cache while rows go by


def dense_block(indptr: np.ndarray, columns: np.ndarray, distances: np.ndarray, width: int) -> np.ndarray:
    """Rows of edges as a matrix, float64 [rows, width], infinity where there is no edge, the shortest where there are several.

    indptr: int64 [rows + 1]; columns: int64 [edges], 0..width - 1; distances: float64 [edges], infinity for edges that do not
    count.
    """
    inside = columns.size == distances.size == indptr[-1] and columns.min(initial=0) >= 0
    if not inside or columns.max(initial=-1) >= width:
        raise ValueError(
            f"columns reach beyond {width}, or rows beyond {columns.size} edges: compiled code would leave them"
        )
    block = np.full((indptr.size - 1, width), np.inf)
    _fill(indptr, columns, distances, block)
    return block


@njit(cache=True, nogil=True)
def _fill(indptr: np.ndarray, columns: np.ndarray, distances: np.ndarray, block: np.ndarray) -> None:
    for i in range(indptr.size - 1):
        for edge in range(indptr[i], indptr[i + 1]):
            block[i, columns[edge]] = min(block[i, columns[edge]], distances[edge])


def min_plus(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The min-plus product, float64 [n, m]: min over t of first[i, t] + second[t, j] (NeuroMFA, Algorithm 3, line 5).

    first: float64 [n, p]; second: float64 [p, m]; both without NaN, infinity where there is no path.
    """
    out = np.full(_checked(first, second), np.inf)
    _multiply(np.ascontiguousarray(first), np.ascontiguousarray(second), out)
    return out


def _checked(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[0]:
        raise ValueError(f"{first.shape} and {second.shape} have no product: compiled code would leave the arrays")
    return first.shape[0], second.shape[1]


@njit(cache=True, nogil=True)
def _multiply(first: np.ndarray, second: np.ndarray, out: np.ndarray) -> None:
    rows, passing = first.shape
    width = second.shape[1]
    reached = np.empty(passing, np.int64)
    for start in range(0, width, _TILE):
        stop = min(start + _TILE, width)
        for low in range(0, passing, _DEPTH):
            high = min(low + _DEPTH, passing)
            for i in range(rows):
                row = out[i, start:stop]
                count = 0
                for t in range(low, high):
                    if first[i, t] < np.inf:
                        reached[count] = t
                        count += 1
                # Eight passing nodes at a time: a row that is loaded and stored for each one would cost three times as much.
                k = 0
                while k + 8 <= count:
                    t0, t1, t2, t3 = reached[k], reached[k + 1], reached[k + 2], reached[k + 3]
                    t4, t5, t6, t7 = reached[k + 4], reached[k + 5], reached[k + 6], reached[k + 7]
                    d0, d1, d2, d3 = first[i, t0], first[i, t1], first[i, t2], first[i, t3]
                    d4, d5, d6, d7 = first[i, t4], first[i, t5], first[i, t6], first[i, t7]
                    e0, e1 = second[t0, start:stop], second[t1, start:stop]
                    e2, e3 = second[t2, start:stop], second[t3, start:stop]
                    e4, e5 = second[t4, start:stop], second[t5, start:stop]
                    e6, e7 = second[t6, start:stop], second[t7, start:stop]
                    for j in range(row.size):
                        # Selections, not branches: they compile to vector minima.
                        a, b = d0 + e0[j], d1 + e1[j]
                        a = a if a < b else b
                        b, c = d2 + e2[j], d3 + e3[j]
                        b = b if b < c else c
                        a = a if a < b else b
                        b, c = d4 + e4[j], d5 + e5[j]
                        b = b if b < c else c
                        a = a if a < b else b
                        b, c = d6 + e6[j], d7 + e7[j]
                        b = b if b < c else c
                        a = a if a < b else b
                        row[j] = a if a < row[j] else row[j]
                    k += 8
                while k < count:
                    d, e = first[i, reached[k]], second[reached[k], start:stop]
                    for j in range(row.size):
                        a = d + e[j]
                        row[j] = a if a < row[j] else row[j]
                    k += 1


_DRAWN_AT_ONCE = 1 << 20


def min_plus_estimate(
    first: np.ndarray, second: np.ndarray, budget: int, longest: float, tolerance: float, generator: np.random.PCG64
) -> np.ndarray:
    """The min-plus product from a few passing nodes (NeuroMFA, Algorithm 4), float64 [n, m]: never below `min_plus`.

    For every pair a binary search between 0 and `longest` (a length that no path exceeds) asks whether the shortest path is
    at most `mid`. At every check `budget` of the passing nodes that i reaches are drawn without replacement, and the shortest
    path ever seen answers. Where i reaches no more than `budget` passing nodes, one draw takes all, and the result is that of
    `min_plus`.

    As printed the algorithm cannot run: the right end starts at infinity, so mid is infinity for ever; the history of
    estimates starts at 0, so that no later one is smaller; and the loop has no tolerance, so over real numbers it does not
    end. It returns mid, which is the length of no path, too high where a shorter path was found late. Here the right end
    starts at `longest`, the history at infinity, the search ends at an interval of `tolerance`, and the history is returned,
    the length of a real path. Every check halves the interval whatever its answer, so what the search decides is how many
    draws there are: log2(longest / tolerance), rounded up.
    """
    out = np.full(_checked(first, second), np.inf)
    checks, interval = 1, longest / 2
    while interval > tolerance:
        checks, interval = checks + 1, interval / 2
    first, second = np.ascontiguousarray(first), np.ascontiguousarray(second)
    width = second.shape[1]
    at_once = max(_DRAWN_AT_ONCE // (checks * budget), 1)
    for i in range(out.shape[0]):
        reached = np.flatnonzero(first[i] < np.inf)
        if reached.size <= budget:
            _multiply(first[i : i + 1], second, out[i : i + 1])
            continue
        for start in range(0, width, at_once):
            stop = min(start + at_once, width)
            # Raw output, which numpy keeps stable over versions; 53 bits of each, so that they are positive integers.
            raw = generator.random_raw((stop - start) * checks * budget) >> np.uint64(11)
            draws = raw.astype(np.int64).reshape(stop - start, checks, budget)
            _estimate(first[i], second[:, start:stop], reached, draws, out[i, start:stop])
    return out


@njit(cache=True, nogil=True)
def _estimate(first: np.ndarray, second: np.ndarray, reached: np.ndarray, draws: np.ndarray, out: np.ndarray) -> None:
    targets, checks, budget = draws.shape
    for j in range(targets):
        for check in range(checks):
            for b in range(budget):
                # The first places of an order that is shuffled on: whatever it was, these are a random draw.
                other = b + draws[j, check, b] % (reached.size - b)
                reached[b], reached[other] = reached[other], reached[b]
                out[j] = min(out[j], first[reached[b]] + second[reached[b], j])


def count_distances(distances: np.ndarray, step: float, counts: np.ndarray) -> None:
    """Add each row's distances, in whole steps (half to even), to its counts; those beyond the last to the last.

    distances: float64 [n, m], at least 0, infinity where there is no path; counts: int32 [n, radii], changed in place.
    """
    if distances.shape[0] != counts.shape[0] or counts.shape[1] == 0:
        raise ValueError(f"counts {counts.shape} of distances {distances.shape}: compiled code would leave the array")
    _count(np.ascontiguousarray(distances), step, counts)


@njit(cache=True, nogil=True, error_model="numpy")
def _count(distances: np.ndarray, step: float, counts: np.ndarray) -> None:
    last = counts.shape[1] - 1
    for i in range(distances.shape[0]):
        for j in range(distances.shape[1]):
            if distances[i, j] < np.inf:
                counts[i, int(min(np.rint(distances[i, j] / step), last))] += 1
