"""The observed model of the laboratory: a multilayer perceptron, held as arrays (Polysemanticity under pruning, section 3.4).

A neuron is one unit of a hidden layer; its activation is what leaves the activation function. Arrays, not a module, are what is
trained, pruned, stored and measured, so that a network has one form everywhere. torch is imported where a module is asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ninscope.errors import RequestError

if TYPE_CHECKING:
    import torch

Inputs = TypeVar("Inputs")  # a numpy array or a tensor, [batch, inputs]; activations are of the same kind


@dataclass(frozen=True, eq=False)
class Perceptron:
    """weights: float32 [out, in], one a layer, inputs first. biases: float32 [out]. linear: no activation function; else ReLU.

    The arrays are copied and cannot be written to. Raises RequestError: not float32, or shapes that do not fit each other.
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    linear: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(_frozen(weight) for weight in self.weights))
        object.__setattr__(self, "biases", tuple(_frozen(bias) for bias in self.biases))
        if not self.weights or len(self.weights) != len(self.biases):
            raise RequestError(
                f"a perceptron has {len(self.weights)} weight matrices and {len(self.biases)} biases; one of each was expected "
                "for every layer, and at least one layer"
            )
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), 1):
            self._check_layer(number, weight, bias)

    def _check_layer(self, number: int, weight: np.ndarray, bias: np.ndarray) -> None:
        if weight.dtype != np.float32 or bias.dtype != np.float32:
            raise RequestError(f"layer {number} holds {weight.dtype} and {bias.dtype}; float32 was expected")
        inputs = self.weights[number - 2].shape[0] if number > 1 else weight.shape[-1] if weight.ndim else 0
        if weight.ndim != 2 or not weight.size or weight.shape[1] != inputs or bias.shape != weight.shape[:1]:
            raise RequestError(
                f"layer {number} has weights of shape {weight.shape} and biases of shape {bias.shape}; [neurons, inputs] and "
                f"[neurons] were expected{f', of {inputs} inputs' if number > 1 else ''}"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of units, from the inputs to the outputs."""
        return (self.weights[0].shape[1], *(weight.shape[0] for weight in self.weights))

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        return self.sizes[1:-1]

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return parameters_of(self.sizes)

    @property
    def finite(self) -> bool:
        return all(bool(np.isfinite(array).all()) for array in (*self.weights, *self.biases))

    def hidden(self, inputs: Inputs) -> tuple[Inputs, ...]:
        """Activations of the hidden layers, [batch, neurons] each, from inputs [batch, inputs]; tensors where that is one."""
        return self._layers(inputs)[:-1]

    def outputs(self, inputs: Inputs) -> Inputs:
        """[batch, outputs] from inputs [batch, inputs]; a tensor where these are a tensor."""
        return self._layers(inputs)[-1]

    def _layers(self, inputs: Any) -> tuple[Any, ...]:
        weights, biases = self._alike(inputs)
        activations, values = [], inputs
        for number, (weight, bias) in enumerate(zip(weights, biases, strict=True), 1):
            values = values @ weight.T + bias
            if not self.linear and number < len(weights):
                # Not clip, whose derivative at 0 is 1 in torch.
                values = np.maximum(values, 0) if isinstance(values, np.ndarray) else values.relu()
            activations.append(values)
        return tuple(activations)

    def _alike(self, inputs: Any) -> tuple[Sequence[Any], Sequence[Any]]:
        """Weights and biases as arrays where the inputs are an array, else as tensors of their type, on their device."""
        if isinstance(inputs, np.ndarray):
            return self.weights, self.biases
        import torch

        as_tensors = [[torch.tensor(array) for array in arrays] for arrays in (self.weights, self.biases)]
        weights, biases = ([tensor.to(inputs) for tensor in tensors] for tensors in as_tensors)
        return weights, biases

    def module(self, dropout: float = 0.0) -> torch.nn.Sequential:
        """A copy as Linear, ReLU (none where linear), Dropout (none at rate 0), ..., Linear: nothing follows the output layer."""
        import torch
        from torch import nn

        layers: list[nn.Module] = []
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), 1):
            # nn.Linear alone would draw from torch's global generator.
            layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], device="cpu", dtype=torch.float32)
            with torch.no_grad():
                layer.weight.copy_(torch.tensor(weight))
                layer.bias.copy_(torch.tensor(bias))
            layers.append(layer)
            if number < len(self.weights):
                layers += [] if self.linear else [nn.ReLU()]
                layers += [nn.Dropout(dropout)] if dropout else []
        return nn.Sequential(*layers)

    @classmethod
    def of_module(cls, module: torch.nn.Sequential) -> Perceptron:
        """The perceptron that `module` made this of. Raises RequestError: a module of another make."""
        from torch import nn

        layers = [layer for layer in module if isinstance(layer, nn.Linear)]
        others = [layer for layer in module if not isinstance(layer, nn.Linear | nn.Dropout)]
        relus = sum(isinstance(layer, nn.ReLU) for layer in others)
        if len(others) != relus or relus not in {0, len(layers) - 1} or any(layer.bias is None for layer in layers):
            raise RequestError(
                f"{module} is no perceptron: Linear layers with biases were expected, with ReLU between all or none"
            )
        arrays = [(_array(layer.weight), _array(layer.bias)) for layer in layers]
        return cls(tuple(weight for weight, _ in arrays), tuple(bias for _, bias in arrays), linear=not relus)

    def is_same(self, other: Perceptron) -> bool:
        """Whether both are of one kind and one shape, and all their parameters are equal."""
        if (self.linear, self.sizes) != (other.linear, other.sizes):
            return False
        pairs = zip((*self.weights, *self.biases), (*other.weights, *other.biases), strict=True)
        return all(np.array_equal(own, others) for own, others in pairs)


def initial_perceptron(sizes: Sequence[int], linear: bool, generator: np.random.Generator) -> Perceptron:
    """A new perceptron, its parameters drawn as torch's nn.Linear draws them: uniform within 1 / sqrt(inputs of the layer).

    sizes: numbers of units, from the inputs to the outputs. Raises RequestError: fewer than two, or not positive whole numbers.
    """
    whole = all(isinstance(size, int | np.integer) and not isinstance(size, bool) and size > 0 for size in sizes)
    if len(sizes) < 2 or not whole:
        raise RequestError(
            f"sizes are {tuple(sizes)!r}; positive whole numbers of units were expected, from the inputs to the outputs"
        )
    weights, biases = [], []
    for inputs, units in itertools.pairwise(sizes):
        bound = 1 / math.sqrt(inputs)
        weights.append(generator.uniform(-bound, bound, (units, inputs)).astype(np.float32))
        biases.append(generator.uniform(-bound, bound, units).astype(np.float32))
    return Perceptron(tuple(weights), tuple(biases), linear)


def weights_among(weights: Sequence[np.ndarray], kept: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The weights [out, in] among all inputs, the kept neurons of every hidden layer, in their new order, and all outputs.

    kept: int64, one array a hidden layer, the numbers of its neurons that stay.
    """
    places = [np.arange(weights[0].shape[1]), *kept, np.arange(weights[-1].shape[0])]
    pairs = itertools.pairwise(places)
    return tuple(
        np.ascontiguousarray(weight[np.ix_(above, below)])
        for weight, (below, above) in zip(weights, pairs, strict=True)
    )


def parameters_of(sizes: Sequence[int]) -> int:
    """Number of weights and biases of a perceptron of these sizes, from the inputs to the outputs."""
    return sum(units * (inputs + 1) for inputs, units in itertools.pairwise(sizes))


def _frozen(array: np.ndarray) -> np.ndarray:
    copy = np.array(array, order="C")
    copy.setflags(write=False)
    return copy


def _array(parameter: Any) -> np.ndarray:
    return parameter.detach().cpu().numpy()
