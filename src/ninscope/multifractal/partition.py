"""Partition sums: everything a spectrum needs from a set of nodes, and additive over sets of nodes.

Z[r, q] = sum_i p_i(r)^q and M[r, q] = sum_i p_i(r)^q ln p_i(r), p_i(r) = N_i(r) / N_i(d), over counted nodes (NeuroMFA,
Definition 4.3 and Algorithm 5; N counts the node itself, without which q < 0 diverges). N_i(d) is the node's own
total, whatever other nodes hold, and every radius of the grid is summed, whether any node of the set has an edge there or
not: so sums over blocks, tensors, shards and workers add up to the sums over all their nodes.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit


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


def partition_sums(histogram: np.ndarray, min_degree: int, q: np.ndarray) -> PartitionSums:
    """Sum over the nodes with more than `min_degree` edges.

    histogram: int32 [nodes, K + 1], as box_histogram gives it; q: float64 [len(q)], any finite values.

    Not one power per node, radius and q: nodes whose ln p lies in the same cell, of width 1/max|q| around c, are summed as
    moments S_m = sum x^m, x = ln p - c, and sum p^q = e^(q c) sum_m q^m/m! S_m. With |q x| <= 1/2 the 16 terms leave out less
    than 1e-16 of the sum; the cost of a node does not depend on how many q there are, nor on how they are spaced.
    """
    q = np.asarray(q, dtype=np.float64)
    degrees = histogram.sum(axis=1, dtype=np.int64)
    logarithm = np.log(np.arange(1, int(degrees.max(initial=0)) + 2, dtype=np.float64))
    cell_width = 1.0 / max(float(np.abs(q).max(initial=0.0)), 0.1)
    cells = int(logarithm[-1] / cell_width) + 2  # one to spare for rounding
    moments = np.zeros((histogram.shape[1], cells, _TERMS))
    seen = np.zeros(histogram.shape[1], np.bool_)
    nodes, edges = _sum_moments(histogram, degrees, min_degree, logarithm, cell_width, moments, seen)
    z, m = _sums_of_moments(moments, cell_width, q)
    return PartitionSums(z, m, seen, nodes, edges)


_TERMS = 16


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_moments(histogram, degrees, min_degree, logarithm, cell_width, moments, seen):
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
        inside = 0  # the table starts at N = 1, so N = 1 + inside is entry `inside`
        # Two loops, the second without anything that one radius would have to wait for of another.
        for r in range(radii):
            inside += histogram[i, r]
            seen[r] |= histogram[i, r] > 0 and r > 0
            depth = logarithm[degrees[i]] - logarithm[inside]  # -ln p
            cells[r] = int(depth * per_width)
            offsets[r] = (cells[r] + 0.5) * cell_width - depth
        for r in range(radii):
            x = offsets[r]
            square = x * x
            fourth = square * square
            cell = moments[r, cells[r]]
            power = 1.0
            for first in range(0, _TERMS, 8):
                cell[first] += power
                cell[first + 1] += power * x
                cell[first + 2] += power * square
                cell[first + 3] += power * (square * x)
                cell[first + 4] += power * fourth
                cell[first + 5] += power * (fourth * x)
                cell[first + 6] += power * (fourth * square)
                cell[first + 7] += power * (fourth * square * x)
                power *= fourth * fourth
    return counted_nodes, counted_edges


@njit(cache=True, nogil=True, error_model="numpy")
def _sums_of_moments(moments, cell_width, q):
    """Z and M, float64 [radii, q], from moments: M is the derivative of Z by q, which shifts the moments by one."""
    radii, cells, terms = moments.shape
    z = np.zeros((radii, q.size))
    m = np.zeros((radii, q.size))
    series = np.empty((q.size, terms))  # q^k / k!
    for j in range(q.size):
        series[j, 0] = 1.0
        for k in range(1, terms):
            series[j, k] = series[j, k - 1] * q[j] / k
    for cell in range(cells):
        centre = -(cell + 0.5) * cell_width
        scale = np.exp(q * centre)
        for r in range(radii):
            if moments[r, cell, 0] == 0.0:
                continue
            for j in range(q.size):
                value = 0.0
                slope = 0.0
                # From the small terms up.
                for k in range(terms - 2, -1, -1):
                    value += series[j, k] * moments[r, cell, k]
                    slope += series[j, k] * moments[r, cell, k + 1]
                z[r, j] += scale[j] * value
                m[r, j] += scale[j] * (centre * value + slope)
    return z, m
