"""The error that leaving out neurons makes in what a layer writes, for all thresholds at once.

For one position n_i = W[:, i] h_i is what neuron i writes. Neurons are taken in the order of ||n_i||, bin by bin, and the norm of
their sum so far is the error of leaving them out. So every position gives the whole curve over thresholds for the price of one
product with W, and only its sum over positions is kept.
"""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})
def add_errors(values: np.ndarray, bins: np.ndarray, weights: np.ndarray, sums: np.ndarray) -> None:
    """Adds to sums[j] the relative errors of leaving out all neurons of bins 0 to j, over all positions.

    values: float32 [positions, neurons]. bins: int32 of the same shape, from 0, below len(sums). weights: float32 [neurons,
    targets], what a neuron writes at value 1. sums: float64 [bins]. A position at which nothing is written has no error.
    """
    positions, neurons = values.shape
    targets, count = weights.shape[1], len(sums)
    starts = np.empty(count + 1, np.int64)
    order = np.empty(neurons, np.int64)
    written = np.empty(targets, np.float32)
    norms = np.empty(count, np.float64)
    for position in range(positions):
        _order_by_bin(bins[position], starts, order)
        written[:] = 0
        norm = 0.0
        for number in range(count):
            for place in range(starts[number], starts[number + 1]):
                neuron = order[place]
                value = values[position, neuron]
                for target in range(targets):
                    written[target] += value * weights[neuron, target]
            if starts[number + 1] > starts[number]:
                squares = np.float32(0)
                for target in range(targets):
                    squares += written[target] * written[target]
                norm = np.sqrt(np.float64(squares))
            norms[number] = norm
        if norm > 0:
            for number in range(count):
                sums[number] += norms[number] / norm


@njit(cache=True, nogil=True)
def _order_by_bin(bins: np.ndarray, starts: np.ndarray, order: np.ndarray) -> None:
    """Neurons in the order of their bins, and where each bin's begin: starts [bins + 1], order [neurons]."""
    starts[:] = 0
    for number in bins:
        starts[number + 1] += 1
    for number in range(1, len(starts)):
        starts[number] += starts[number - 1]
    for neuron in range(len(bins)):
        order[starts[bins[neuron]]] = neuron
        starts[bins[neuron]] += 1
    for number in range(len(starts) - 1, 0, -1):
        starts[number] = starts[number - 1]
    starts[0] = 0
