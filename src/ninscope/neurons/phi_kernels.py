"""One pass over activations: their monosemantic scales, counted by value, and summed by neuron."""

import numpy as np
from numba import njit

Array = np.ndarray  # of the shape and dtype that the docstring of the kernel gives

# Tokens whose float32 sums are added up before they go into float64.
_FLUSH = 16
_WITHOUT_SIGN = np.int32(0x7FFFFFFF)


@njit(nogil=True, cache=True)
def count_phi(
    values: Array, mean: Array, inverse: Array, dropped: int, first: int, last: int, counts: Array, sums: Array,
    largest: Array, smallest: Array,
) -> None:  # fmt: skip
    """Count phi = (h - mean)^2 * inverse of samples first..last-1.

    values: float32 [samples, tokens, neurons], C order. mean, inverse: float32 [neurons]. counts: integers, raised by one at
    the bits of each phi without the sign's and the last `dropped` of them. Written, of these samples: sums, float64 [samples,
    neurons], of phi over tokens; largest, float32 [samples]; either is not finite where some phi is not. smallest: float32
    [samples], the smallest phi above 0, or infinity.
    """
    tokens, neurons = values.shape[1], values.shape[2]
    phi, some = np.zeros(neurons, np.float32), np.zeros(neurons, np.float32)
    best, least = np.zeros(neurons, np.float32), np.zeros(neurons, np.float32)
    bits = phi.view(np.int32)
    for sample in range(first, last):
        best[:] = 0
        least[:] = np.inf
        for token in range(tokens):
            _add_token(values[sample, token], mean, inverse, phi, some, best, least)
            for i in range(neurons):
                counts[(bits[i] & _WITHOUT_SIGN) >> dropped] += 1
            if token % _FLUSH == _FLUSH - 1 or token == tokens - 1:
                for i in range(neurons):
                    sums[sample, i] += some[i]
                    some[i] = 0
        smallest[sample] = np.inf
        for i in range(neurons):
            largest[sample] = best[i] if best[i] > largest[sample] else largest[sample]
            smallest[sample] = least[i] if least[i] < smallest[sample] else smallest[sample]


@njit(nogil=True, cache=True)
def _add_token(token: Array, mean: Array, inverse: Array, phi: Array, some: Array, best: Array, least: Array) -> None:
    for i in range(token.size):
        off = token[i] - mean[i]
        phi[i] = off * off * inverse[i]
        some[i] += phi[i]
        best[i] = phi[i] if phi[i] > best[i] else best[i]
        least[i] = phi[i] if (phi[i] > 0) & (phi[i] < least[i]) else least[i]
