"""Edges of a weight matrix exchanged between its nodes so that every neuron keeps its degree and its strength.

The chain of trades is the curveball of Strona et al. 2014 ("A fast and unbiased procedure to randomize ecological binary
matrices with fixed row and column totals"), which makes many double-edge swaps at once, for weights that fall into classes: two
nodes take part in a trade, and of all targets at which one has a weight of class u and the other of class v, which has which is
drawn anew, as many times each way as before. So a target keeps its very weights, and a node how many it has of each class.
"""

import numpy as np
from numba import njit

MAX_CLASSES = 1024  # pairs of them are counted in one table
MAX_SWEEPS = 512
_LEFT = 0.01  # share of the weights that are to be where they were, but for those that come back
_STEP = 8
_DRAWN_AT_ONCE = 1 << 15


def rewire(values: np.ndarray, classes: np.ndarray, generator: np.random.PCG64, sweeps: int | None = None) -> None:
    """Trade the weights of a matrix between its nodes, in place.

    values: float64 [nodes, targets]; classes: int32 [nodes, targets], 0..MAX_CLASSES - 1, the class of each. Afterwards each
    target has the same values, and each node as many of each class. sweeps: trades of every node (default: `sweeps_for`). Raises
    ValueError: shapes or classes that the kernel has no room for.
    """
    if values.shape != classes.shape or values.ndim != 2 or not values.flags.c_contiguous:
        raise ValueError(f"values {values.shape} and classes {classes.shape} are of two matrices")
    count = int(classes.max(initial=0)) + 1
    if count > MAX_CLASSES or classes.min(initial=0) < 0:
        raise ValueError(
            f"classes go from {classes.min(initial=0)} to {count - 1}; there is room for 0 to {MAX_CLASSES - 1}"
        )
    classes = np.array(classes, np.int32, order="C")
    if sweeps is None:
        sweeps = sweeps_for(np.bincount(classes.reshape(-1), minlength=count), classes.shape[1])
    nodes, targets = values.shape
    table = np.zeros((count, count, 2), np.int32)
    step = max(_DRAWN_AT_ONCE // max(targets, 1), 1)  # pairs of nodes
    for _ in range(sweeps):
        order = np.argsort(generator.random_raw(nodes), kind="stable")
        for first in range(0, nodes // 2, step):
            pairs = order[2 * first : min(2 * (first + step), nodes // 2 * 2)]
            _trade_pairs(values, classes, pairs, generator.random_raw(pairs.size // 2 * targets), table)


def sweeps_for(totals: np.ndarray, targets: int) -> int:
    """How many trades of every node leave one weight of a hundred where it was, at most MAX_SWEEPS.

    totals: int64 [classes], weights of each class in the matrix. Of n other targets at which two nodes have the same two
    classes, on average 2 targets p_u p_v and nearly Poisson's, a weight changes its node with probability (1 - 1/(n + 1)) / 2.
    """
    shares = totals / max(totals.sum(), 1)
    others = 2.0 * targets * np.outer(shares, shares)
    alone = np.ones_like(others)  # mean of 1 / (n + 1)
    np.divide(-np.expm1(-others), others, out=alone, where=others > 0)
    moved = (1.0 - alone) / 2 * shares
    np.fill_diagonal(moved, 0.0)
    rates = moved.sum(axis=1)
    sweeps = _STEP
    while sweeps < MAX_SWEEPS and (shares * np.exp(-rates * sweeps)).sum() > _LEFT:
        sweeps += _STEP
    return sweeps


@njit(cache=True, nogil=True)
def _trade_pairs(
    values: np.ndarray, classes: np.ndarray, pairs: np.ndarray, raw: np.ndarray, table: np.ndarray
) -> None:
    """pairs: int64 [2 n], nodes that trade with each other side by side; raw: uint64 [n targets]."""
    targets = values.shape[1]
    for pair in range(pairs.size // 2):
        one, other = pairs[2 * pair], pairs[2 * pair + 1]
        numbers = raw[pair * targets : (pair + 1) * targets]
        _trade(values[one], values[other], classes[one], classes[other], numbers, table)


@njit(cache=True, nogil=True)
def _trade(
    one: np.ndarray, other: np.ndarray, of_one: np.ndarray, of_other: np.ndarray, raw: np.ndarray, table: np.ndarray
) -> None:
    """table: int32 [classes, classes, 2], zeros, and again afterwards: of two classes, lower first, how many targets are left
    at which the two nodes have them, and at how many of these the first node is to have the lower one.
    """
    for t in range(one.size):
        first, second = of_one[t], of_other[t]
        if first < second:
            table[first, second, 0] += 1
            table[first, second, 1] += 1
        elif first > second:
            table[second, first, 0] += 1
    for t in range(one.size):
        first, second = of_one[t], of_other[t]
        if first == second:
            continue
        lower, higher = min(first, second), max(first, second)
        left, wanted = table[lower, higher, 0], table[lower, higher, 1]
        table[lower, higher, 0] = left - 1
        chosen = np.float64(np.int64(raw[t] >> np.uint64(11))) * 2.0**-53 * left < wanted
        table[lower, higher, 1] = wanted - chosen
        if chosen != (first < second):
            one[t], other[t] = other[t], one[t]
            of_one[t], of_other[t] = second, first
