"""Matrices that are drawn again from a Gaussian, each neuron keeping the Euclidean norm of its weights
(docs/method.md#null-models).

The weights of a line of a matrix (a column, a neuron's out-going weights, or a row, its in-coming ones) are a vector; its
length is kept and its direction is drawn, every direction alike: g |w| / |g| for independent Gaussian g. Only magnitudes are
drawn, since the analysis knows no signs.

Gaussians are made by Marsaglia and Tsang's ziggurat as Doornik 2005 writes it ("An Improved Ziggurat Method to Generate Normal
Random Samples"), of the numbers of xoshiro256++ (Blackman and Vigna 2021), whose state is raw output of the caller's PCG64.
"""

import math

import numpy as np
from numba import njit

from ninscope.multifractal.boxes import count_magnitudes
from ninscope.networks.bin_table import bin_table
from ninscope.networks.radii import Radii

_DRAWN_AT_ONCE = 1 << 15


def redrawn(
    norms: np.ndarray, length: int, generator: np.random.PCG64, taps: int = 1, keep_norms: bool = True
) -> np.ndarray:
    """Magnitudes of lines of `length` weights with these norms and random directions, float64 [lines, length].

    norms: float64 [lines], at least 0. taps: a weight is the norm of a kernel of so many taps, all of which are drawn, so that a
    line's direction has length * taps parts. keep_norms: False draws every tap with a deviation of norms[line] instead.
    """
    lines = np.empty((norms.size, length))
    state = generator.random_raw(4)
    with np.errstate(over="ignore"):  # unsigned integers wrap around, and as plain Python warn of it
        _draw_lines(state, np.ascontiguousarray(norms, np.float64), taps, keep_norms, _EDGES, _RATIOS, lines)
    return lines


def norm_counts(
    norms: np.ndarray, length: int, radii: Radii, generator: np.random.PCG64, taps: int = 1, of_columns: bool = True
) -> np.ndarray:
    """Edges per node and bin of a matrix whose lines keep their norms and are redrawn, int32 [nodes, K + 1].

    norms: float64 [lines]. of_columns: lines are the columns, of `length` weights each, and so the nodes; else they are the
    rows, and the nodes are their `length` weights.
    """
    table = bin_table("F64", radii)
    counts = np.zeros((norms.size if of_columns else length, table.width), np.int32)
    step = max(_DRAWN_AT_ONCE // max(length, 1), 1)
    for first in range(0, norms.size if length else 0, step):
        drawn = redrawn(norms[first : first + step], length, generator, taps)
        count_magnitudes(drawn, table, counts[first : first + step] if of_columns else counts, nodes_first=of_columns)
    return np.ascontiguousarray(counts[:, : radii.count + 1])


def _ziggurat(layers: int = 128, tail: float = 3.442619855899, area: float = 9.91256303526217e-3) -> np.ndarray:
    """Right edges of layers of equal area under exp(-x^2 / 2), float64 [layers + 1]; the first stands for that of the tail."""
    edges = np.zeros(layers + 1)
    height = math.exp(-tail * tail / 2)
    edges[0], edges[1] = area / height, tail
    for layer in range(2, layers):
        edges[layer] = math.sqrt(-2 * math.log(area / edges[layer - 1] + height))
        height = math.exp(-(edges[layer] ** 2) / 2)
    return edges


_EDGES = _ziggurat()
_RATIOS = _EDGES[1:] / _EDGES[:-1]


@njit(cache=True, nogil=True)
def _fill(state: np.ndarray, raw: np.ndarray) -> None:
    """The next numbers. state: uint64 [4], not all 0; raw: uint64 [n]; both are changed in place."""
    first, second, third, fourth = state[0], state[1], state[2], state[3]
    for i in range(raw.size):
        total = first + fourth
        raw[i] = ((total << np.uint64(23)) | (total >> np.uint64(41))) + first
        shifted = second << np.uint64(17)
        third ^= first
        fourth ^= second
        second ^= third
        first ^= fourth
        third ^= shifted
        fourth = (fourth << np.uint64(45)) | (fourth >> np.uint64(19))
    state[0], state[1], state[2], state[3] = first, second, third, fourth


@njit(cache=True, nogil=True)
def _uniform(raw: np.uint64) -> float:
    """The upper 53 bits as a number within (0, 1)."""
    return (np.float64(np.int64(raw >> np.uint64(11))) + 0.5) * 2.0**-53


@njit(cache=True, nogil=True)
def _rejected(state: np.ndarray, raw: np.uint64, edges: np.ndarray) -> float:
    """|g| where the first number did not decide, as it does 98.8 times of 100; 0 where a new first number must be drawn."""
    more = np.empty(2, np.uint64)
    layer = np.int64(raw & np.uint64(127))
    if layer == 0:
        while True:
            _fill(state, more)
            beyond = -math.log(_uniform(more[0])) / edges[1]
            if -2.0 * math.log(_uniform(more[1])) >= beyond * beyond:
                return edges[1] + beyond
    x = _uniform(raw) * edges[layer]
    low = math.exp(-0.5 * (edges[layer] * edges[layer] - x * x))
    high = math.exp(-0.5 * (edges[layer + 1] * edges[layer + 1] - x * x))
    _fill(state, more)
    return x if high + _uniform(more[0]) * (low - high) < 1.0 else 0.0


@njit(cache=True, nogil=True)
def _half_normals(state: np.ndarray, edges: np.ndarray, ratios: np.ndarray, drawn: np.ndarray) -> None:
    """|g| of independent standard Gaussians g, float64 [n], changed in place."""
    raw = np.empty(drawn.size, np.uint64)
    _fill(state, raw)
    for i in range(drawn.size):
        layer = np.int64(raw[i] & np.uint64(127))
        share = _uniform(raw[i])
        drawn[i] = share * edges[layer] if share < ratios[layer] else 0.0
    again = raw[:1].copy()
    for i in range(drawn.size):
        if drawn[i] == 0.0:
            again[0] = raw[i]
            drawn[i] = _rejected(state, again[0], edges)
            while drawn[i] == 0.0:
                _fill(state, again)
                layer = np.int64(again[0] & np.uint64(127))
                share = _uniform(again[0])
                drawn[i] = share * edges[layer] if share < ratios[layer] else _rejected(state, again[0], edges)


@njit(cache=True, nogil=True)
def _draw_lines(
    state: np.ndarray,
    norms: np.ndarray,
    taps: int,
    keep_norms: bool,
    edges: np.ndarray,
    ratios: np.ndarray,
    lines: np.ndarray,
) -> None:
    parts = np.empty(lines.shape[1] * taps)
    for line in range(lines.shape[0]):
        weights = lines[line]
        _half_normals(state, edges, ratios, parts)
        total = 0.0
        for i in range(parts.size):
            total += parts[i] * parts[i]
        scale = norms[line]
        if keep_norms and total > 0.0:
            scale /= math.sqrt(total)
        for i in range(weights.size):
            if taps == 1:
                weights[i] = scale * parts[i]
            else:
                square = 0.0
                for tap in range(i * taps, (i + 1) * taps):
                    square += parts[tap] * parts[tap]
                weights[i] = scale * math.sqrt(square)
