"""Networks as one array: so many of a few layers each would be hundreds of files."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ninscope.neurons.polysemanticity.perceptron import Perceptron


def as_array(networks: Sequence[Perceptron]) -> np.ndarray:
    """All parameters, float32 [parameters], network by network: the first layer's weights [out, in], its biases, and so on."""
    parts = [
        part.ravel()
        for network in networks
        for pair in zip(network.weights, network.biases, strict=True)
        for part in pair
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def of_array(parameters: np.ndarray, sizes: Sequence[Sequence[int]], linear: bool) -> list[Perceptron]:
    """The networks that `as_array` was given. sizes: of the layers of each, inputs to outputs."""
    networks, start = [], 0
    for layers in sizes:
        weights, biases = [], []
        for inputs, outputs in pairwise(layers):
            weights.append(parameters[start : start + outputs * inputs].reshape(outputs, inputs))
            start += outputs * inputs
            biases.append(parameters[start : start + outputs])
            start += outputs
        networks.append(Perceptron(tuple(weights), tuple(biases), linear))
    return networks
