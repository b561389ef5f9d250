"""The oracle for stored matrices of any order: plain loops over a tensor's own axes. Imports nothing from ninscope."""

import itertools
import math

import numpy as np


def edges(array: np.ndarray, order: str, groups: int = 1, kernels: str = "norm") -> list[list[tuple[int, float]]]:
    """For every input neuron its edges (output neuron, weight), by output neuron and then by tap.

    order: linear [out, in], transposed [in, out], convolution [out, in / groups, ...], transposed_convolution
    [in, out / groups, ...], as the layers of PyTorch and GPT-2's Conv1D keep them.
    """
    turned = order.startswith("transposed")
    first, second = array.shape[:2]
    nodes = first if turned else second * groups
    found: list[list[tuple[int, float]]] = [[] for _ in range(nodes)]
    for one, other in itertools.product(range(first), range(second)):
        group = one // (first // groups)
        beyond = group * second + other
        node, target = (one, beyond) if turned else (beyond, one)
        taps = [float(value) for value in np.ravel(array[one, other])]
        if kernels == "norm" and len(taps) > 1:
            norm = math.sqrt(math.fsum(value * value for value in taps))
            taps = [norm if array.dtype == np.float64 else float(np.float32(norm))]
        found[node] += [(target, value) for value in taps]
    return [sorted(of_node, key=lambda edge: edge[0]) for of_node in found]
