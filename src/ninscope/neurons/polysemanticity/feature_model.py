"""The feature model: a random network whose hidden neurons are features (thesis "Polysemanticity under Pruning", 3.2.1)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from ninscope.checks import checked_integer
from ninscope.errors import RequestError
from ninscope.neurons.polysemanticity.experiments import MAX_NEURONS

EXPECTED = 0.5  # value of every input and, by the biases, of every weighted sum
MIN_INPUTS = 2  # weights of a neuron that are not 0
# The search for seed vectors, on which the thesis says no more than Adam. Higher rates shut more ReLUs for good, lower ones take
# longer: at seed 0, N3 ends at losses of 0.209, 0.216 and 0.223 with 0.01, 0.02 and 0.03.
SEED_RATE, SEED_STEPS, SEED_CHECK, SEED_GAIN = 0.02, 2_000, 50, 0.01
BLOCK = 2_048  # samples searched for at a time, which stay in the processor's cache


def hidden_layer_sizes(
    min_neurons: int, max_neurons: int, features: int, generator: np.random.Generator
) -> tuple[int, ...]:
    """Random sizes of a feature model's hidden layers, which sum up to `features` (thesis, Algorithm 1).

    No size is above max_neurons. The last may be below min_neurons, as the thesis says; sizes mostly decline, and may rise. Two
    faults of the printed algorithm are mended, as docs/method.md, errata, tells. Raises RequestError: sizes out of range.
    """
    features = checked_integer("features", features, 1, MAX_NEURONS)
    upper = max_neurons = checked_integer("max_neurons", max_neurons, 1, MAX_NEURONS)
    min_neurons = checked_integer("min_neurons", min_neurons, 1, max_neurons)
    lower = (max_neurons + min_neurons) // 2
    sizes: list[int] = []
    remaining = features
    while remaining >= min_neurons:
        most = min(remaining, upper)
        sizes.append(int(generator.integers(min(lower, most), most, endpoint=True)))
        remaining -= sizes[-1]
        if remaining <= upper:
            upper, lower = lower, (min_neurons + lower) // 2
    for layer, size in enumerate(sizes):
        added = min(max_neurons - size, remaining)
        sizes[layer] += added
        remaining -= added
    return (*sizes, remaining) if remaining else tuple(sizes)


class FeatureModel(nn.Module):
    """A dense network, all of whose hidden neurons are features. Its weights are fixed: buffers weight0, bias0, weight1, ...

    weights: float32 [out, in] of every layer, inputs to outputs. biases: float32 [out]. linear: hidden layers have no activation
    function; otherwise ReLU. The output layer has none. Raises RequestError: layers that do not fit each other.
    """

    def __init__(self, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray], linear: bool) -> None:
        super().__init__()
        _check_layers(weights, biases)
        self.linear, self.layers = linear, len(weights)
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            self.register_buffer(f"weight{layer}", torch.from_numpy(np.array(weight, dtype=np.float32)))
            self.register_buffer(f"bias{layer}", torch.from_numpy(np.array(bias, dtype=np.float32)))

    @property
    def inputs(self) -> int:
        """Width of the input layer, whose values are no features."""
        return int(self.get_buffer("weight0").shape[1])

    def activations(self, inputs: torch.Tensor) -> Iterator[torch.Tensor]:
        """What every layer gives, [batch, neurons]: the hidden ones after the activation function, then the outputs."""
        values = inputs
        for layer in range(self.layers):
            values = torch.addmm(self.get_buffer(f"bias{layer}"), values, self.get_buffer(f"weight{layer}").T)
            if not self.linear and layer < self.layers - 1:
                values = values.relu()
            yield values

    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        """The feature vectors [batch, features]: activations of the hidden layers, side by side, first layer first."""
        return torch.cat(list(self.activations(inputs))[:-1], dim=1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The outputs [batch, outputs]."""
        *_, outputs = self.activations(inputs)
        return outputs


def random_feature_model(
    sizes: Sequence[int], linear: bool, threshold: float, generator: np.random.Generator
) -> FeatureModel:
    """A feature model of random weights. sizes: of all layers, inputs to outputs.

    The importance function is uniform on (-1, 1), and what is below the threshold in absolute value is set to 0. A neuron with
    fewer than two other weights is given more, at random places and without the threshold, until it has two (or one, if it has
    one input). Biases are 0.5 - W mu, with mu = 0.5: inputs of 0.5 give 0.5 in all neurons, and so do inputs with that mean if the
    model is linear. With ReLU the mean may be higher.
    """
    weights = [
        _random_weight(outputs, inputs, threshold, generator).astype(np.float32) for inputs, outputs in pairwise(sizes)
    ]
    biases = [EXPECTED - weight.sum(axis=1, dtype=np.float64) * EXPECTED for weight in weights]
    return FeatureModel(weights, [bias.astype(np.float32) for bias in biases], linear)


@dataclass(frozen=True, eq=False)
class SeedVectors:
    """Inputs of a feature model, float32 [samples, inputs], and the loss at which the search for them ended: the mean squared
    error between hidden activations and targets, over all samples and features.
    """

    inputs: torch.Tensor
    loss: float


def seed_vectors(model: FeatureModel, targets: np.ndarray, generator: np.random.Generator) -> SeedVectors:
    """Inputs at which the model's features come near the targets, float32 [samples, features] (thesis, section 3.2.1).

    Adam minimises the mean squared error from a start that is uniform on (0, 1), for all samples of a block at once: a sample's
    error does not depend on other samples, so each has a search of its own. A block ends when 50 steps gain less than 1 % of its
    loss, or after 2,000. The loss says how near they came. Some targets have no seed vector: features of later layers follow from
    those of the first, and a ReLU that is shut for a sample has no gradient there. Raises RequestError: targets of another width.
    """
    width = sum(int(model.get_buffer(f"bias{layer}").shape[0]) for layer in range(model.layers - 1))
    if targets.ndim != 2 or targets.shape[1] != width or not len(targets):
        raise RequestError(f"targets have the shape {list(targets.shape)}; [samples, {width}] was expected")
    inputs = torch.from_numpy(generator.random((len(targets), model.inputs), dtype=np.float32))
    wanted = torch.from_numpy(np.ascontiguousarray(targets, dtype=np.float32))
    loss = sum(_search(model, *block) for block in zip(inputs.split(BLOCK), wanted.split(BLOCK), strict=True))
    return SeedVectors(inputs, loss / len(targets))


def _search(model: FeatureModel, inputs: torch.Tensor, wanted: torch.Tensor) -> float:
    """Move the inputs, in place, to where the features come near the wanted ones; the sum of the samples' losses there."""
    inputs.requires_grad_()
    adam = torch.optim.Adam([inputs], lr=SEED_RATE, fused=True)
    before = math.inf
    for step in range(SEED_STEPS + 1):
        loss = (model.features(inputs) - wanted).square().mean(dim=1).sum()
        if step % SEED_CHECK == 0:
            now = loss.item()
            if not now < before * (1 - SEED_GAIN):  # NaN ends it, too
                break
            before = now
        inputs.grad = None
        loss.backward()
        adam.step()
    return now


def _random_weight(outputs: int, inputs: int, threshold: float, generator: np.random.Generator) -> np.ndarray:
    """A weight matrix, float64 [outputs, inputs]."""
    weight = generator.uniform(-1, 1, (outputs, inputs))
    weight[np.abs(weight) < threshold] = 0
    for neuron in weight:
        while (missing := min(MIN_INPUTS, inputs) - np.count_nonzero(neuron)) > 0:
            places = generator.choice(np.flatnonzero(neuron == 0), missing, replace=False)
            neuron[places] = generator.uniform(-1, 1, missing)
    return weight


def _check_layers(weights: Sequence[np.ndarray], biases: Sequence[np.ndarray]) -> None:
    fit = len(weights) == len(biases) >= 2 and all(weight.ndim == 2 for weight in weights)
    if (
        not fit
        or any(below.shape[0] != above.shape[1] for below, above in pairwise(weights))
        or any(bias.shape != weight.shape[:1] for weight, bias in zip(weights, biases, strict=True))
    ):
        raise RequestError(
            f"a feature model's weights have the shapes {[list(weight.shape) for weight in weights]} and its biases "
            f"{[list(bias.shape) for bias in biases]}; at least two layers were expected, [out, in] and [out], each as wide as "
            "the one before it gives"
        )
