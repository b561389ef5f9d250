"""Partition sums: everything a spectrum needs from a set of nodes, and additive over sets of nodes.

Z[r, q] = sum_i p_i(r)^q and M[r, q] = sum_i p_i(r)^q ln p_i(r), p_i(r) = N_i(r) / N_i(d), over counted nodes (NeuroMFA,
Definition 4.3 and Algorithm 5; N counts the node itself, without which q < 0 diverges). N_i(d) is the node's own
total, whatever other nodes hold, and every radius of the grid is summed, whether any node of the set has an edge there or
not: so sums over blocks, tensors, shards and workers add up to the sums over all their nodes.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit

from ninscope.multifractal.logarithms import logarithms


@dataclass(frozen=True)
class PartitionSums:
    """Additive sums over counted nodes on the grid of radii 0..K (radius 0 holds mass but is never a radius).

    z, m: float64 [K + 1, len(q)]; seen: bool [K + 1], whether a counted node has an edge at that radius; nodes, edges: how
    many are counted.
    """

    z: np.ndarray
    m: np.ndarray
    seen: np.ndarray
    nodes: int
    edges: int

    def __add__(self, other: "PartitionSums") -> "PartitionSums":
        return PartitionSums(
            self.z + other.z,
            self.m + other.m,
            self.seen | other.seen,
            self.nodes + other.nodes,
            self.edges + other.edges,
        )


def partition_sums(
    histogram: np.ndarray, min_degree: int, q: np.ndarray, degrees: np.ndarray | None = None
) -> PartitionSums:
    """Sum over the nodes with more than `min_degree` edges.

    histogram: int32 [nodes, K + 1], as box_histogram gives it; q: float64 [len(q)], any finite values; degrees: int64 [nodes],
    the histogram's row sums, where they are known.

    Not one power per node, radius and q: nodes whose ln p lies in the same cell, of width 1/max|q| around c, are summed as
    moments S_m = sum x^m, x = ln p - c, and sum p^q = e^(q c) sum_m q^m/m! S_m. With |q x| <= 1/2 the 16 terms leave out less
    than 1e-16 of the sum; the cost of a node does not depend on how many q there are, nor on how they are spaced.
    """
    q = np.asarray(q, dtype=np.float64)
    if degrees is None:
        degrees = histogram.sum(axis=1, dtype=np.int64)
    most = int(degrees.max(initial=0))
    logarithm = logarithms(most + 1)
    cell_width = 1.0 / max(float(np.abs(q).max(initial=0.0)), 0.1)
    cells = int(logarithm[most] / cell_width) + 2  # one to spare for rounding
    moments = np.zeros((histogram.shape[1], cells, _TERMS))
    seen = np.zeros(histogram.shape[1], np.bool_)
    nodes, edges = _sum_moments(histogram, degrees, min_degree, logarithm, cell_width, moments, seen)
    seen[0] = False
    enough = -(-cells // _SCALES) * _SCALES  # so that layers with other degrees share a table
    z, m = _sums_of_moments(moments, cell_width, _series(q.tobytes()), _scales(q.tobytes(), cell_width, enough))
    return PartitionSums(z, m, seen, nodes, edges)


_TERMS = 16
_SCALES = 16


@lru_cache(maxsize=8)
def _series(q: bytes) -> np.ndarray:
    """q^k / k!, float64 [_TERMS, q], of the bytes of float64 q."""
    orders = np.frombuffer(q)
    series = np.ones((_TERMS, orders.size))
    for k in range(1, _TERMS):
        series[k] = series[k - 1] * orders / k
    series.flags.writeable = False
    return series


@lru_cache(maxsize=4)
def _scales(q: bytes, cell_width: float, cells: int) -> np.ndarray:
    """e^(q c) of every cell's centre c, float64 [cells, q], by the C library: numpy's exponential may differ in the last bit."""
    orders = np.frombuffer(q).tolist()
    centres = [-(cell + 0.5) * cell_width for cell in range(cells)]
    scales = np.array([[math.exp(order * centre) for order in orders] for centre in centres])
    scales.flags.writeable = False
    return scales


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_moments(
    histogram: np.ndarray,
    degrees: np.ndarray,
    min_degree: int,
    logarithm: np.ndarray,
    cell_width: float,
    moments: np.ndarray,
    seen: np.ndarray,
) -> tuple[int, int]:
    """Add every counted node, at every radius, to the moments [radii, cells, _TERMS] of the cell its ln p lies in."""
    nodes, radii = histogram.shape
    per_width = 1.0 / cell_width
    cells = np.empty(radii, np.int64)
    offsets = np.empty(radii)
    counted_nodes = 0
    counted_edges = 0
    for i in range(nodes):
        if degrees[i] <= min_degree:
            continue
        counted_nodes += 1
        counted_edges += degrees[i]
        row = histogram[i]
        whole = logarithm[degrees[i]]
        inside = 0  # the table starts at N = 1, so N = 1 + inside is entry `inside`
        # Loops of their own, for vector instructions in all but the one in which a radius has to wait for the one before.
        for r in range(radii):
            seen[r] |= row[r] > 0
        for r in range(radii):
            inside += row[r]
            offsets[r] = whole - logarithm[inside]  # -ln p
        for r in range(radii):
            depth = offsets[r]
            cells[r] = int(depth * per_width)
            offsets[r] = (cells[r] + 0.5) * cell_width - depth
        for r in range(radii):
            x = offsets[r]
            square = x * x
            fourth = square * square
            eighth = fourth * fourth
            cell = moments[r, cells[r]]
            cell[0] += 1.0
            cell[1] += x
            cell[2] += square
            cell[3] += square * x
            cell[4] += fourth
            cell[5] += fourth * x
            cell[6] += fourth * square
            cell[7] += fourth * square * x
            cell[8] += eighth
            cell[9] += eighth * x
            cell[10] += eighth * square
            cell[11] += eighth * (square * x)
            cell[12] += eighth * fourth
            cell[13] += eighth * (fourth * x)
            cell[14] += eighth * (fourth * square)
            cell[15] += eighth * (fourth * square * x)
    return counted_nodes, counted_edges


@njit(cache=True, nogil=True, error_model="numpy")
def _sums_of_moments(
    moments: np.ndarray, cell_width: float, series: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Z and M, float64 [radii, q], from moments: M is the derivative of Z by q, which shifts the moments by one."""
    radii, cells, terms = moments.shape
    orders = series.shape[1]
    z = np.zeros((radii, orders))
    m = np.zeros((radii, orders))
    value = np.empty(orders)
    slope = np.empty(orders)
    for cell in range(cells):
        centre = -(cell + 0.5) * cell_width
        for r in range(radii):
            if moments[r, cell, 0] == 0.0:
                continue
            value[:] = 0.0
            slope[:] = 0.0
            # From the small terms up, and all q side by side, in vector instructions.
            for k in range(terms - 2, -1, -1):
                moment, next_moment = moments[r, cell, k], moments[r, cell, k + 1]
                for j in range(orders):
                    value[j] += series[k, j] * moment
                    slope[j] += series[k, j] * next_moment
            for j in range(orders):
                z[r, j] += scale[cell, j] * value[j]
                m[r, j] += scale[cell, j] * (centre * value[j] + slope[j])
    return z, m
