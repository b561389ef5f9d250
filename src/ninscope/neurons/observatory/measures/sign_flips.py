"""How many weights have changed sign between two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.errors import CheckpointError
from ninscope.exact.blocks import matrix_name
from ninscope.interaction.matrices import block_weights
from ninscope.neurons.observatory.measure import ALL, NONE, PREVIOUS, START, Fact, Found, OwnMeasure
from ninscope.neurons.observatory.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.architectures.layout import WeightBlock
    from ninscope.networks.neuron_network import NeuronNetwork
    from ninscope.neurons.observatory.subject import Subject

# Weights nearer to 0 are left out, as a share of the matrix' root mean square; the first one is the main row's.
EPSILONS = (0.01, 0.0, 0.1)
_VALUES = 1 << 20  # weights that are looked at together


@register
class SignFlips(OwnMeasure):
    """Share of weights that are above 0 in one checkpoint and below 0 in the other, of those that are away from 0 in both.
    Weights alone: no text is read.

    A weight of a matrix is left out where |w| < epsilon rms(W) in either checkpoint, rms(W) = sqrt(mean w^2) of the matrix
    there: near 0 a sign says
    nothing. epsilon is 0.01 in the main row. With epsilon 0 no weight is left out, and the share
    is that of the stage [weight_changes] (sign_flips there).

    Source: Gadhikar and Burkholz, "Masks, Signs, And Learning Rate Rewinding" (2024). Grade: abstract only, which says that
    a method that trains well flips signs early; the formula and its epsilon are ours.

    Pitfalls: 0.5 is what two independent draws have, so between seeds the number says nothing, and none is given. A matrix
    of which most weights are pruned has few to count (count). Permuting neurons flips signs without changing the function.
    """

    name = "sign_flips"
    title = "Sign flips of weights"
    source = (
        "Gadhikar and Burkholz 2024, Masks, Signs, And Learning Rate Rewinding (abstract only; the formula is ours)"
    )
    facts: ClassVar = {
        "sign_flips": "share of weights with another sign, without those below 0.01 of the matrix' root mean square (0 to 1)",
        "sign_flips_epsilon_0": "the same of all weights, as in the stage weight_changes",
        "sign_flips_epsilon_0.1": "the same without those below 0.1 of the matrix' root mean square",
        "sign_flips_left_out": "share of weights that the main row leaves out",
    }
    compared_with = (START, PREVIOUS)
    controls = (NONE,)

    def found(self, subject: Subject, other: Subject | None = None) -> Found:
        assert other is not None
        ours, theirs, grouped = matrices_of(subject), matrices_of(other), _grouped(subject)
        counts: dict[str, list[tuple[int, int]]] = {}
        sizes: dict[str, int] = {}
        for name, read in ours.items():
            weights, before = read(), theirs[name]() if name in theirs else None
            if before is None or before.shape != weights.shape:
                shape = "no such matrix" if before is None else f"shape {list(before.shape)}"
                raise CheckpointError(
                    "unsupported",
                    f"matrix {name} has shape {list(weights.shape)}, and {other.name} has {shape}; compare checkpoints of "
                    "one model",
                )
            if name in grouped:  # which are filled up with 0 between the groups
                joined = (weights != 0) | (before != 0)
                weights, before = weights[joined], before[joined]
            counts[name], sizes[name] = flips(weights, before), weights.size
        counts[ALL] = [(sum(f for f, _ in one), sum(k for _, k in one)) for one in zip(*counts.values(), strict=True)]
        sizes[ALL] = sum(sizes.values())
        return Found(tuple(fact for name in counts for fact in _facts(name, counts[name], sizes[name])))


def matrices_of(subject: Subject) -> dict[str, Callable[[], np.ndarray]]:
    """What reads each matrix of a network, by the name that tables of weights give it ("block0.x -> block0.q"), in their
    order; of a model whose modules were named, what reads each parameter of two dimensions or more."""
    network = subject.places.network
    if network is None:
        return {name: partial(_array, tensor) for name, tensor in subject.matrices()}
    blocks: dict[str, list[WeightBlock]] = {}
    for block in network.blocks:
        blocks.setdefault(matrix_name(block.source, block.target), []).append(block)
    return {name: partial(_read, network, of_matrix) for name, of_matrix in blocks.items()}


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().double().numpy()


def _read(network: NeuronNetwork, blocks: Sequence[WeightBlock]) -> np.ndarray:
    """All weights of a matrix, which may be made of several tensors."""
    parts = [block_weights(network.matrices[one.tensor], one, network.sizes[one.target]) for one in blocks]
    return parts[0] if len(parts) == 1 else np.concatenate([part.reshape(-1) for part in parts])


def _grouped(subject: Subject) -> set[str]:
    """Names of the matrices that are convolutions in groups."""
    network = subject.places.network
    if network is None:
        return set()
    grouped = (one for one in network.blocks if network.matrices[one.tensor].layout.groups > 1)
    return {matrix_name(one.source, one.target) for one in grouped}


def _facts(layer: str, counts: Sequence[tuple[int, int]], size: int) -> list[Fact]:
    names = ("sign_flips", *(f"sign_flips_epsilon_{epsilon:g}" for epsilon in EPSILONS[1:]))
    shares = [
        Fact(name, layer, flipped / kept if kept else math.nan, None, kept)
        for name, (flipped, kept) in zip(names, counts, strict=True)
    ]
    return [*shares, Fact("sign_flips_left_out", layer, 1 - counts[0][1] / size, None, size)]


def flips(weights: np.ndarray, others: np.ndarray) -> list[tuple[int, int]]:
    """For each of EPSILONS (flipped, kept): how many weights have another sign, and how many are not left out.

    weights, others: floats of one shape.
    """
    flat, other_flat = weights.reshape(-1), others.reshape(-1)
    spans = [slice(first, first + _VALUES) for first in range(0, len(flat), _VALUES)]
    rms = [
        math.sqrt(sum(float(np.square(part[span], dtype=np.float64).sum()) for span in spans) / len(flat))
        for part in (flat, other_flat)
    ]
    totals = [(0, 0)] * len(EPSILONS)
    for span in spans:
        a, b = flat[span].astype(np.float64), other_flat[span].astype(np.float64)
        flipped = ((a > 0) & (b < 0)) | ((a < 0) & (b > 0))
        np.abs(a, out=a)
        np.abs(b, out=b)
        for number, epsilon in enumerate(EPSILONS):
            kept = (a >= epsilon * rms[0]) & (b >= epsilon * rms[1])
            some = int((flipped & kept).sum()), int(kept.sum())
            totals[number] = totals[number][0] + some[0], totals[number][1] + some[1]
    return totals
