"""Naive twin of the multifractal analysis: the formulas of NeuroMFA as loops, dicts and explicit sums.

It imports nothing from the package under test and shares no shortcut with it: no histograms over weight
bits, no recurrence over q, no block sums. Slow on purpose; for networks of at most some thousand nodes.

Source: "Exploring Neuron Interactions and Emergence in LLMs" (NeuroMFA), sections 4.1-4.3, algorithms 1, 2
and 5, equations 1-12 and 26. Two points are the authors' code rather than their text: edges are bounded by
distance, and a node counts itself among the neurons it reaches.

Shapes, used throughout: distances of a node `(edges,) float64`; radii `(radii,) float64`; q `(orders,)
float64`; partition sums `(radii, orders) float64`. Rounding is to whole numbers, halves to the even one
(1.5 -> 2, 2.5 -> 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np


def distances_of(weights: np.ndarray, transfer: str = "reciprocal") -> np.ndarray:
    """Edge distances f(|w|) `(edges,) float64` of weights of any shape and dtype, zeros being no edges.

    Transfer functions of Eq. 1 and section 5.4: `reciprocal` 1/|w|, `coth` coth|w|, `neg_log` |ln|w||.
    Nothing is bounded here. The bounds of `counted_distances` are those of `reciprocal`; with the other two,
    first choose the weights 1/max_distance <= |w| < 1.
    """
    distances = []
    for weight in np.asarray(weights).ravel():
        size = abs(float(weight))
        if size == 0.0:
            continue
        if transfer == "reciprocal":
            distances.append(1.0 / size)
        elif transfer == "coth":
            distances.append(1.0 / math.tanh(size))
        elif transfer == "neg_log":
            distances.append(abs(math.log(size)))
        else:
            raise ValueError(f"unknown transfer function {transfer!r}: use reciprocal, coth or neg_log")
    return np.array(distances, dtype=np.float64)


def counted_distances(
    distances_per_node: Sequence[np.ndarray], max_distance: float = 150.0, min_degree: int = 10
) -> list[np.ndarray]:
    """Distances of the nodes that count, each array cut to the edges that count (the authors' bounds).

    An edge counts when 1 < d <= max_distance, d not yet rounded; a node counts when more than `min_degree`
    of its edges do. So an edge of 1.2 counts, at radius 1; one of 0.9 or 150.2 does not. Node order is kept.
    """
    counted = []
    for distances in distances_per_node:
        kept = [float(d) for d in distances if 1.0 < d <= max_distance]
        if len(kept) > min_degree:
            counted.append(np.array(kept, dtype=np.float64))
    return counted


def partition_function(counted: Sequence[np.ndarray], q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Radii `(radii,)`, Z and M `(radii, orders)` of nodes given by their counted distances (Algorithm 5).

    N_i(r) = 1 + number of edges of node i with round(d) <= r; p_i(r) = N_i(r) / N_i(largest radius), Eq. 4;
    Z_q(r) = sum over nodes of p^q, Eq. 5; M_q(r) = sum over nodes of p^q ln p = dZ/dq. Radii are the
    distinct rounded distances of all nodes together, ascending, so a node is evaluated also at radii where
    only other nodes have edges.
    """
    q = np.asarray(q, dtype=np.float64)
    edges_at_radius = []  # one dict per node: rounded distance -> number of edges there
    all_radii = set()
    for distances in counted:
        edges_at = {}
        for distance in distances:
            radius = round(float(distance))
            edges_at[radius] = edges_at.get(radius, 0) + 1
        edges_at_radius.append(edges_at)
        all_radii.update(edges_at)
    radii = sorted(all_radii)

    z = np.zeros((len(radii), len(q)))
    m = np.zeros((len(radii), len(q)))
    for edges_at in edges_at_radius:
        reached_at_end = 1 + sum(edges_at.values())
        reached = 1  # the node itself
        for row, radius in enumerate(radii):
            reached += edges_at.get(radius, 0)
            p = reached / reached_at_end
            power = p**q
            z[row] += power
            m[row] += power * math.log(p)
    return np.array(radii, dtype=np.float64), z, m


def least_squares(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and R^2 of the straight line fitted to y over x, both `(points,)`, from centred sums (Eq. 26).

    With fewer than two distinct x both are nan. R^2 is nan for constant y: there is nothing to explain.
    """
    x = [float(value) for value in x]
    y = [float(value) for value in y]
    if len(set(x)) < 2:
        return math.nan, math.nan
    x_mean = sum(x) / len(x)
    y_mean = sum(y) / len(y)
    sum_xx = sum((a - x_mean) ** 2 for a in x)
    sum_yy = sum((b - y_mean) ** 2 for b in y)
    sum_xy = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    slope = sum_xy / sum_xx
    if len(set(y)) < 2:
        return slope, math.nan
    return slope, sum_xy**2 / (sum_xx * sum_yy)


def spectrum(
    distances_per_node: Sequence[np.ndarray],
    q: np.ndarray,
    max_distance: float = 150.0,
    min_degree: int = 10,
    derivative: str = "exact",
) -> dict:
    """Multifractal spectrum of a network given as one distance array a node (Algorithms 1 and 2, Eq. 6-11).

    tau `(orders,)`: slope of ln Z_q(r) on ln(r/d), d the largest radius. alpha = d tau/dq, f = q alpha - tau:
    - `exact`: alpha and f `(orders,)`; alpha is the slope of M/Z = d(ln Z)/dq on ln(r/d);
    - `forward`: alpha and f `(orders - 1,)`; alpha[i] = (tau[i+1] - tau[i]) / (q[i+1] - q[i]), f[i] takes
      q[i] and tau[i].
    alpha0: alpha at the first largest f (with `forward` the two intervals beside q = 0 tie, so rounding noise
    decides between them). width: max alpha - min alpha. r2 `(orders,)`: R^2 of ln Z over ln(r/d), meaningless
    at q = 0, where Z is the node count at every radius. nodes, edges: how many count. With fewer than two
    radii every float is nan.
    """
    q = np.asarray(q, dtype=np.float64)
    counted = counted_distances(distances_per_node, max_distance, min_degree)
    radii, z, m = partition_function(counted, q)
    log_scale = [math.log(radius / radii[-1]) for radius in radii]

    tau = np.zeros(len(q))
    r2 = np.zeros(len(q))
    slope_of_m_over_z = np.zeros(len(q))
    for column in range(len(q)):
        log_z = [math.log(value) for value in z[:, column]]
        tau[column], r2[column] = least_squares(log_scale, log_z)
        slope_of_m_over_z[column], _ = least_squares(log_scale, m[:, column] / z[:, column])

    if derivative == "exact":
        alpha = slope_of_m_over_z
    elif derivative == "forward":
        steps = range(len(q) - 1)
        alpha = np.array([(tau[i + 1] - tau[i]) / (q[i + 1] - q[i]) for i in steps])
    else:
        raise ValueError(f"unknown derivative {derivative!r}: use exact or forward")

    f = np.array([q[i] * alpha[i] - tau[i] for i in range(len(alpha))])
    return {
        "tau": tau,
        "alpha": alpha,
        "f": f,
        "alpha0": float(alpha[int(np.argmax(f))]),
        "width": float(max(alpha) - min(alpha)),
        "r2": r2,
        "nodes": len(counted),
        "edges": sum(len(distances) for distances in counted),
    }


def node_dimension(
    distances_of_one_node: np.ndarray, max_distance: float = 200.0, min_degree: int = 10
) -> tuple[float, float]:
    """Fractal dimension of one node and the R^2 of its fit (Eq. 26): slope of ln N(r) on ln r.

    r runs over the node's own distinct rounded distances; N(r) = 1 + number of edges with round(d) <= r.
    Edges are bounded by 0 < d <= max_distance before rounding, and a node of `min_degree` such edges or fewer
    has dimension 0 and no fit (R^2 nan). Edges with d <= 0.5 round to radius 0: as ln 0 does not exist, that
    radius is no point of the fit, but its edges count in the degree and in N at every larger radius. With
    fewer than two radii left both results are nan.
    """
    bounded = [float(d) for d in distances_of_one_node if 0.0 < d <= max_distance]
    if len(bounded) <= min_degree:
        return 0.0, math.nan
    rounded = [round(d) for d in bounded]
    log_radius, log_reached = [], []
    for radius in sorted(set(rounded)):
        if radius == 0:
            continue
        reached = 1 + sum(1 for other in rounded if other <= radius)
        log_radius.append(math.log(radius))
        log_reached.append(math.log(reached))
    return least_squares(log_radius, log_reached)


def emergence(alpha0_now: float, width_now: float, alpha0_start: float, width_start: float) -> float:
    """Degree of emergence E = w(t) / w(0) * ln(alpha0(0) / alpha0(t)), Eq. 12."""
    return width_now / width_start * math.log(alpha0_start / alpha0_now)


def gpt_neox_edges(
    tensors: dict[str, np.ndarray],
    layers: int,
    hidden: int,
    heads: int,
    neurons: Callable[[int, str], Sequence[int]],
) -> list[list[np.ndarray]]:
    """Outgoing weights of every sampled neuron of a GPT-NeoX network, the paper's chain wiring (section 4.1).

    `tensors` holds whole matrices W[out, in]: query_key_value `(3 hidden, hidden)`, attention.dense
    `(hidden, hidden)`, dense_h_to_4h `(4 hidden, hidden)`, dense_4h_to_h `(hidden, 4 hidden)`.
    `neurons(block, name)` gives the sampled indices of node layer x, q, k, v, c, a or m of a block, and
    `neurons(layers, "x")` those of the last node layer.

    Returns 4 * layers lists, in the order block 0 x, c, a, m, block 1 x, ...; q, k and v have no edges of
    their own. Each holds one array a source neuron, `(targets,) float64`, zeros included: x has its q, then
    k, then v targets together; c -> a, a -> m, m -> x of the next block. Rows of query_key_value are laid
    out [head, (q|k|v), head_dim].
    """
    head_dim = hidden // heads
    edges = []
    for block in range(layers):
        prefix = f"gpt_neox.layers.{block}"
        fused = tensors[f"{prefix}.attention.query_key_value.weight"]
        from_x = []
        for source in neurons(block, "x"):
            weights = []
            for part, name in enumerate(["q", "k", "v"]):
                for target in neurons(block, name):
                    head, within = target // head_dim, target % head_dim
                    row = head * 3 * head_dim + part * head_dim + within
                    weights.append(float(fused[row, source]))
            from_x.append(np.array(weights, dtype=np.float64))
        edges.append(from_x)

        plain = [
            (f"{prefix}.attention.dense.weight", neurons(block, "c"), neurons(block, "a")),
            (f"{prefix}.mlp.dense_h_to_4h.weight", neurons(block, "a"), neurons(block, "m")),
            (f"{prefix}.mlp.dense_4h_to_h.weight", neurons(block, "m"), neurons(block + 1, "x")),
        ]
        for name, sources, targets in plain:
            matrix = tensors[name]
            from_layer = []
            for source in sources:
                weights = [float(matrix[target, source]) for target in targets]
                from_layer.append(np.array(weights, dtype=np.float64))
            edges.append(from_layer)
    return edges
