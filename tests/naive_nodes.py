"""Naive twin of what is said of single nodes and node layers, and of the spectrum on logarithmic radii.

Like `naive`, which reads weights and fits lines for it, it imports nothing from the package under test: loops, dicts and
explicit sums, one edge at a time.

Source: "Exploring Neuron Interactions and Emergence in LLMs" (NeuroMFA), 4.2, 5.1 and equations 4-11 and 26.

An edge is a pair (distance, number of its radius); a node is the list of its counted edges; a grid is a dict from the number
of a radius to ln r, without number 0, which holds mass but is no radius.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from naive import distances_of, least_squares

Edge = tuple[float, int]


def integer_grid(max_distance: float = 150.0) -> dict[int, float]:
    """ln r of radii 1, 2, ... up to max_distance rounded, in steps (a factor common to all radii changes no slope)."""
    return {number: math.log(number) for number in range(1, round(max_distance) + 1)}


def bounded_edges(weights: Sequence[float], transfer: str = "reciprocal", max_distance: float = 150.0) -> list[Edge]:
    """The edges of a node with 1 < 1/|w| <= max_distance, whatever the transfer function, at whole numbers of steps.

    A step is 1; for neg_log the number of radii that divides 0..ln(max_distance) evenly. The few coth that round to more than
    the last radius belong to it.
    """
    last = round(max_distance)
    step = math.log(max_distance) / last if transfer == "neg_log" else 1.0
    edges = []
    for weight in weights:
        size = abs(float(weight))
        if size == 0.0 or not 1.0 < 1.0 / size <= max_distance:
            continue
        distance = float(distances_of(np.array([size]), transfer)[0])
        edges.append((distance, min(round(distance / step), last)))
    return edges


def logarithmic_grid(network: Sequence[Sequence[float]], count: int) -> dict[int, float]:
    """ln r of radii 1..count, evenly spaced in ln d from the smallest to the largest distance of all weights but 0.

    With no weight at all, or one magnitude, a single radius.
    """
    sizes = [abs(float(weight)) for weights in network for weight in weights if weight != 0.0]
    if not sizes:
        return {1: 0.0}
    nearest, furthest = -math.log(max(sizes)), -math.log(min(sizes))
    if nearest == furthest:
        return {1: nearest}
    return {number: nearest + (furthest - nearest) * (number - 1) / (count - 1) for number in range(1, count + 1)}


def logarithmic_edges(weights: Sequence[float], grid: Mapping[int, float]) -> list[Edge]:
    """The edges of a node: every weight but 0, each at the radius that is nearest in ln d."""
    edges = []
    for weight in weights:
        size = abs(float(weight))
        if size == 0.0:
            continue
        log_distance = -math.log(size)
        edges.append((1.0 / size, min(grid, key=lambda number: abs(grid[number] - log_distance))))
    return edges


def closest_call(network: Sequence[Sequence[float]], grid: Mapping[int, float]) -> float:
    """How near, in ln d, any distance comes to the middle between two radii, where rounding decides; inf for one radius."""
    middles = [(grid[number] + grid[number + 1]) / 2 for number in range(1, len(grid))]
    logs = {-math.log(abs(float(weight))) for weights in network for weight in weights if weight != 0.0}
    return min((abs(middle - log) for middle in middles for log in logs), default=math.inf)


def average_degree(node: Sequence[Edge]) -> float:
    """Average weighted degree: the mean distance of a node's edges, nan without any (5.1)."""
    return math.fsum(distance for distance, _ in node) / len(node) if node else math.nan


def node_fit(node: Sequence[Edge], grid: Mapping[int, float], min_degree: int) -> tuple[float, float]:
    """Node fractal dimension and R^2 (Eq. 26): slope of ln N(r) on ln r over the node's own radii, N counting the node.

    0 and nan for min_degree edges or fewer; nan both where there are not two radii.
    """
    if len(node) <= min_degree:
        return 0.0, math.nan
    radii = sorted({number for _, number in node if number in grid})
    reached = [1 + sum(1 for _, other in node if other <= number) for number in radii]
    return least_squares([grid[number] for number in radii], [math.log(n) for n in reached])


def moments(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, standard deviation (n in the denominator) and kurtosis E[((X - mean)/std)^4]; nan where there are none."""
    if not values:
        return math.nan, math.nan, math.nan
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    fourth = math.fsum((value - mean) ** 4 for value in values) / len(values)
    return mean, math.sqrt(variance), fourth / variance**2 if variance > 0 else math.nan


def layer(nodes: Sequence[Sequence[Edge]], grid: Mapping[int, float], min_degree: int) -> dict:
    """Values of every node, each a list in node order, and moments over those with more than min_degree edges.

    A node without two radii has no fit: it is left out of the moments of dimension and R^2, not of those of the degree.
    """
    fits = [node_fit(node, grid, min_degree) for node in nodes]
    counted = [number for number, node in enumerate(nodes) if len(node) > min_degree]
    fitted = [number for number in counted if not math.isnan(fits[number][0])]
    degrees = [average_degree(node) for node in nodes]
    mean, std, kurtosis = moments([degrees[number] for number in counted])
    dimension_mean, dimension_std, _ = moments([fits[number][0] for number in fitted])
    r2_mass_mean, r2_mass_std, _ = moments([fits[number][1] for number in fitted])
    return {
        "edges": [len(node) for node in nodes],
        "degree": degrees,
        "dimension": [dimension for dimension, _ in fits],
        "r2": [r2 for _, r2 in fits],
        "nodes_counted": len(counted),
        "mean": mean,
        "std": std,
        "kurtosis": kurtosis,
        "dimension_mean": dimension_mean,
        "dimension_std": dimension_std,
        "r2_mass_mean": r2_mass_mean,
        "r2_mass_std": r2_mass_std,
    }


def spectrum(nodes: Sequence[Sequence[Edge]], grid: Mapping[int, float], q: Sequence[float], min_degree: int) -> dict:
    """tau, alpha, f `(orders,) float64`, width, nodes and edges of a network (Eq. 4-11, exact derivative by q).

    Radii are those at which a counted node has an edge; p_i(r) = N_i(r)/N_i(last of them). With fewer than two all is nan.
    """
    counted = [node for node in nodes if len(node) > min_degree]
    radii = sorted({number for node in counted for _, number in node if number in grid})
    found = {"nodes": len(counted), "edges": sum(len(node) for node in counted)}
    if len(radii) < 2:
        missing = np.full(len(q), math.nan)
        return found | {"tau": missing, "alpha": missing, "f": missing, "width": math.nan}
    masses = []
    for node in counted:
        at_radius: dict[int, int] = {}
        for _, number in node:
            at_radius[number] = at_radius.get(number, 0) + 1
        reached = [1 + sum(edges for number, edges in at_radius.items() if number <= radius) for radius in radii]
        masses.append([n / reached[-1] for n in reached])
    x = [grid[number] - grid[radii[-1]] for number in radii]
    tau, alpha = np.zeros(len(q)), np.zeros(len(q))
    for column, order in enumerate(q):
        log_z, slope = [], []
        for row in range(len(radii)):
            powers = [mass[row] ** order for mass in masses]
            z = math.fsum(powers)
            m = math.fsum(power * math.log(mass[row]) for power, mass in zip(powers, masses, strict=True))
            log_z.append(math.log(z))
            slope.append(m / z)
        tau[column], _ = least_squares(x, log_z)
        alpha[column], _ = least_squares(x, slope)
    f = np.array([order * a - t for order, a, t in zip(q, alpha, tau, strict=True)])
    return found | {"tau": tau, "alpha": alpha, "f": f, "width": float(max(alpha) - min(alpha))}
