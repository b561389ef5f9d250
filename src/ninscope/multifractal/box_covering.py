"""Classical box covering of small undirected graphs: generalised dimensions D_q (NeuroMFA, A.1.2; Song, Havlin and Makse).

A box of size l is a set of nodes whose pairwise distances are below l. Covering the graph with as few as can be found, for
every size, gives N_B(l) ~ l^(-d_B), and with mu the share of nodes in a box, Z_q(l) = sum mu^q ~ (l/L)^tau(q), where L is the
largest size; D_q = tau(q)/(q - 1), and D_1 is the slope of sum mu ln mu. D_0 is the box dimension d_B. To find the fewest boxes
is NP-hard; the algorithms of Song et al. (J. Stat. Mech. P03006, 2007) come near it, the nearer the more orders of nodes are
tried: greedy colouring of the graph that joins nodes at distance l or more, and compact box burning. Given one order they
make the same boxes, for a node gets the first box whose nodes are all near enough either way; burning is the quicker.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, shortest_path

from ninscope.checks import MAX_SEED, checked_integer
from ninscope.errors import RequestError
from ninscope.multifractal.fits import slopes
from ninscope.multifractal.spectrum import checked_q
from ninscope.shown import Shown, without_empty

MAX_NODES = 5_000  # all pairs' distances: 200 MB, and seconds for each 10 orders
MAX_TRIALS = 10_000
MAX_SIZES = 10_000
LEAST_SIZES = 4
LEAST_R2 = 0.95  # of ln N_B on ln l; a power law over a decade of sizes has more
COMBINE = ("minimal", "mean")
_SIZES = 24
_NARROW = 4  # sizes from 2 to half the diameter span at least this factor


@dataclass(frozen=True, repr=False)
class BoxCovering(Shown):
    """What covering a graph with boxes says of it.

    q, tau, dimensions, alpha, f, r2: float64 [len(q)]: mass exponent, D_q, singularity strength and spectrum, and R^2 of
    ln Z_q on ln l, NaN at q = 1, where Z is 1. sizes: float64 [sizes], those fitted; boxes: float64 [sizes], N_B, the fewest of
    all orders or their mean. box_dimension: d_B, the slope of ln N_B on -ln l; r2_boxes: its R^2; r2_exponential: R^2 of ln N_B
    on l itself, which is larger where boxes fall exponentially, as in a small world. nodes; diameter: the largest distance.
    """

    q: np.ndarray
    tau: np.ndarray
    dimensions: np.ndarray
    alpha: np.ndarray
    f: np.ndarray
    r2: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    box_dimension: float
    r2_boxes: float
    r2_exponential: float
    nodes: int
    diameter: float

    def facts(self) -> dict[str, object]:
        """What a terminal or a notebook shows of it."""
        told = {
            "box dimension": self.box_dimension,
            "r2": self.r2_boxes,
            "nodes": self.nodes,
            "diameter": self.diameter,
        }
        return told | without_empty(warning=self.warning)

    @property
    def warning(self) -> str:
        """One clause that says why no dimension should be read from this; empty where a power law holds."""
        if self.sizes.size < LEAST_SIZES:
            return f"only {self.sizes.size} box sizes (diameter {self.diameter:g}): too few to tell a power law"
        if self.r2_exponential > self.r2_boxes:
            return (
                "boxes fall exponentially with their size rather than as a power (r2 "
                f"{self.r2_exponential:.3f} against {self.r2_boxes:.3f}): no finite dimension, as in a small world"
            )
        if self.r2_boxes < LEAST_R2:
            return f"a power law does not hold well (r2 of boxes against size {self.r2_boxes:.3f}, below {LEAST_R2})"
        return ""


def box_covering(
    graph: Any,
    q: Sequence[float] | None = None,
    distance: str | None = None,
    sizes: Sequence[float] | None = None,
    combine: str = "minimal",
    trials: int = 10,
    seed: int = 0,
) -> BoxCovering:
    """Cover an undirected graph with boxes of many sizes, and fit its generalised dimensions.

    graph: a networkx or igraph graph, connected, of at most MAX_NODES nodes. q: increasing, default -3..3 by 0.1. distance: the
    edge attribute that holds lengths (above 0; of parallel edges the shortest counts); None: every edge is 1 long. sizes: of
    boxes, increasing, above 0; default: at most 24, evenly spaced in their logarithm, from 2 to half the diameter where edges
    are 1 long (whole numbers; all up to the diameter where that is below 16), else from twice the median of each node's
    nearest distance. Smaller boxes hold single nodes, larger ones are a handful: neither follows a power law. A graph that is
    self-similar at certain scales only is best asked at these. trials: random orders of the nodes; combine: "minimal" takes of
    each size the covering with the fewest boxes, "mean" averages Z_q over all. seed: decides the orders; same seed, same result.

    Sums of q < 0 are ruled by the smallest boxes, those that were left over, and hardly converge.

    Raises RequestError: no such graph (directed, empty, one node, not connected, too large), an edge without a length, a
    parameter out of range.
    """
    moments = checked_q(q)
    if combine not in COMBINE:
        raise RequestError(f"combine is {combine!r}; one of {', '.join(COMBINE)}")
    checked_integer("trials", trials, 1, MAX_TRIALS)
    checked_integer("seed", seed, 0, MAX_SEED)
    lengths = _distances(graph, distance)
    diameter = float(lengths.max())
    fitted = _checked_sizes(sizes) if sizes is not None else _sizes(lengths, diameter, distance is None)
    nodes = len(lengths)
    z, m = np.zeros((fitted.size, moments.size)), np.zeros((fitted.size, moments.size))
    entropy, boxes = np.zeros(fitted.size), np.zeros(fitted.size)
    orders = _orders(nodes, trials, seed)
    for number, size in enumerate(fitted):
        coverings = [np.bincount(_cover(lengths, order, size)) for order in orders]
        if combine == "minimal":
            coverings = [min(coverings, key=len)]
        for counts in coverings:
            mu = counts / nodes
            power = mu[:, None] ** moments
            z[number] += power.sum(axis=0) / len(coverings)
            m[number] += (power * np.log(mu)[:, None]).sum(axis=0) / len(coverings)
            entropy[number] += (mu * np.log(mu)).sum() / len(coverings)
            boxes[number] += counts.size / len(coverings)
    return _fitted(moments, z, m, entropy, fitted, boxes, nodes, diameter)


def _fitted(
    q: np.ndarray,
    z: np.ndarray,
    m: np.ndarray,
    entropy: np.ndarray,
    sizes: np.ndarray,
    boxes: np.ndarray,
    nodes: int,
    diameter: float,
) -> BoxCovering:
    """z, m: sum of mu^q and of mu^q ln mu, float64 [sizes, q]; entropy: sum of mu ln mu, float64 [sizes]; boxes as BoxCovering."""
    if sizes.size < 2:
        raise RequestError(
            f"{sizes.size} box size up to the diameter {diameter:g}: nothing to fit; take a larger graph"
        )
    x = np.log(sizes / sizes[-1])
    tau, r2 = slopes(x, np.log(z))
    alpha, _ = slopes(x, m / z)
    (entropy_slope, boxes_slope), (_, r2_boxes) = slopes(x, np.stack([entropy, np.log(boxes)], axis=1))
    _, (r2_exponential,) = slopes(sizes, np.log(boxes)[:, None])
    dimensions = np.full(q.size, entropy_slope)
    other = np.abs(q - 1) > 1e-9
    dimensions[other] = tau[other] / (q[other] - 1)
    return BoxCovering(
        q, tau, dimensions, alpha, q * alpha - tau, r2, sizes, boxes, float(-boxes_slope), float(r2_boxes),
        float(r2_exponential), nodes, diameter,
    )  # fmt: skip


def _orders(nodes: int, trials: int, seed: int) -> list[np.ndarray]:
    """Random orders of the nodes from raw output, which numpy keeps stable over versions."""
    generator = np.random.PCG64(np.random.SeedSequence([seed, 0xB0C5]))
    return [np.argsort(generator.random_raw(nodes), kind="stable") for _ in range(trials)]


def _sizes(lengths: np.ndarray, diameter: float, hops: bool) -> np.ndarray:
    if hops:
        # In a narrow range a power law and an exponential look alike; then all sizes tell more.
        wide = diameter >= 4 * _NARROW
        return np.unique(np.rint(np.geomspace(2, diameter / 2, _SIZES))) if wide else np.arange(1.0, diameter + 1)
    nearest = np.where(lengths > 0, lengths, np.inf).min(axis=1)
    low, high = 2 * float(np.median(nearest)), diameter / 2
    # Without such a range, from single nodes up; a box holds what is nearer than its size, so the smallest is just above.
    low, high = (low, high) if low < high else (float(nearest.min()) * (1 + 1e-9), diameter)
    return np.geomspace(low, high, _SIZES) if low < high else np.array([diameter])


def _checked_sizes(sizes: object) -> np.ndarray:
    try:
        values = np.asarray(sizes, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.zeros(0)
    plain = values.ndim == 1 and 2 <= values.size <= MAX_SIZES and np.isfinite(values).all()
    if not plain or not (np.diff(values) > 0).all() or values[0] <= 0:
        raise RequestError(f"sizes must be 2 to {MAX_SIZES} finite box sizes above 0 in increasing order")
    return values


def _edges(graph: Any, distance: str | None) -> tuple[int, np.ndarray, list[Any]]:
    """(nodes, edges int64 [edges, 2], their lengths or None where there is none) of a networkx or igraph graph."""
    if hasattr(graph, "number_of_nodes") and hasattr(graph, "edges"):
        count, directed = graph.number_of_nodes(), graph.is_directed()
        if count <= MAX_NODES and not directed:
            number = {node: index for index, node in enumerate(graph.nodes)}
            pairs = [(number[a], number[b]) for a, b in graph.edges()]
            lengths = [data.get(distance) for _, _, data in graph.edges(data=True)] if distance else [1.0] * len(pairs)
    elif hasattr(graph, "vcount") and hasattr(graph, "es"):
        count, directed = graph.vcount(), graph.is_directed()
        if count <= MAX_NODES and not directed:
            pairs = graph.get_edgelist()
            known = distance is None or distance in graph.es.attributes()
            lengths = (graph.es[distance] if distance else [1.0] * len(pairs)) if known else [None] * len(pairs)
    else:
        raise RequestError(f"box_covering takes a networkx or an igraph graph, not {type(graph).__name__}")
    if directed:
        raise RequestError(
            "the graph is directed; box covering is of undirected ones: to_undirected() or as_undirected()"
        )
    if count > MAX_NODES:
        raise RequestError(
            f"the graph has {count} nodes, more than {MAX_NODES}, whose distances are all needed; take a part"
        )
    if count < 2:
        raise RequestError(f"the graph has {count} node{'' if count == 1 else 's'}; box covering needs 2 or more")
    return count, np.array(pairs, dtype=np.int64).reshape(-1, 2), lengths


def _distances(graph: Any, distance: str | None) -> np.ndarray:
    """The distances of all pairs of nodes, float64 [nodes, nodes]. Raises RequestError."""
    count, pairs, lengths = _edges(graph, distance)
    for pair, length in zip(pairs.tolist(), lengths, strict=True):
        if isinstance(length, bool) or not isinstance(length, int | float | np.number) or not 0 < length < math.inf:
            raise RequestError(
                f"the edge of nodes {pair[0]} and {pair[1]} has {distance} {length!r}; a length above 0 is needed"
            )
    values = np.array(lengths, dtype=np.float64)
    joining = pairs[:, 0] != pairs[:, 1]
    low, high, values = pairs[joining].min(axis=1), pairs[joining].max(axis=1), values[joining]
    order = np.lexsort((values, high, low))
    low, high, values = low[order], high[order], values[order]
    first = np.ones(low.size, bool)  # of parallel edges the shortest; scipy would add them up
    first[1:] = (np.diff(low) != 0) | (np.diff(high) != 0)
    matrix = csr_matrix((values[first], (low[first], high[first])), shape=(count, count))
    parts, label = connected_components(matrix, directed=False)
    if parts > 1:
        largest = int(np.bincount(label).max())
        raise RequestError(f"the graph falls into {parts} parts, the largest of {largest} nodes; take that one")
    return shortest_path(matrix, method="D", directed=False)


@njit(cache=True, nogil=True)
def _cover(distances: np.ndarray, order: np.ndarray, size: float) -> np.ndarray:
    """The box of each node, int64 [nodes], by compact box burning: each box is filled, in this order, until no node fits in."""
    nodes = order.size
    box = np.full(nodes, -1)
    members = np.empty(nodes, np.int64)
    waiting = order.copy()
    left = nodes
    number = 0
    while left:
        inside = 0
        still = 0
        for index in range(left):
            i = waiting[index]
            fits = True
            for k in range(inside):
                if distances[i, members[k]] >= size:
                    fits = False
                    break
            if fits:
                box[i] = number
                members[inside] = i
                inside += 1
            else:
                waiting[still] = i
                still += 1
        left = still
        number += 1
    return box
