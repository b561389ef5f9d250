"""Structured global magnitude pruning of perceptrons (Polysemanticity under pruning, sections 2.3 and 3.5), by torch-pruning.

The neurons of all hidden layers are ranked by the mean absolute value of their input weights, and the lowest are taken out with
their weights in and out and their biases. Inputs and outputs stay. torch-pruning leaves a layer whole of which it should remove
every neuron, and removes more than asked where neurons tie, both without a word; so the ranking is made here, where ties go by
layer and place, and what it removed is compared with what it should have.

Two shares tell how much is gone: neuron_ratio, of the hidden neurons, and pruning_ratio, of the parameters (the thesis' exact
pruning ratio; torch-pruning's own setting of that name is of channels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from ninscope.checks import is_number
from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.polysemanticity.perceptron import Perceptron, parameters_of, weights_among

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, eq=False)
class Pruned:
    """A network without some hidden neurons. kept: int64, one a hidden layer: places of the neurons that stay, in ascending order.

    neuron_ratio: share of the hidden neurons that were removed, the least from the asked one on. pruning_ratio: share of the
    parameters that went with them, the thesis' exact pruning ratio: 1 - parameters / parameters before.
    """

    network: Perceptron
    kept: tuple[np.ndarray, ...]
    neuron_ratio: float
    pruning_ratio: float


def prune(network: Perceptron, neuron_ratio: float) -> Pruned:
    """Remove this share of the hidden neurons, as a whole number rounded up: torch-pruning rounds what stays down.

    Raises RequestError: torch-pruning is not installed, a ratio that is not from 0 to below 1, one that would empty a layer (which
    names the largest possible), or a torch-pruning that removes other neurons than it was asked to. Raises CheckpointError
    (nonfinite): a network that is not finite.
    """
    tp = _torch_pruning()
    ranks = _ranks(network)
    count = _removed(network, neuron_ratio)
    kept = tuple(np.flatnonzero(of_layer >= count) for of_layer in ranks)
    for number, (of_layer, places) in enumerate(zip(ranks, kept, strict=True), 1):
        if not len(places):
            raise RequestError(
                f"neuron_ratio {neuron_ratio:g} would remove all {len(of_layer)} neurons of hidden layer {number}; "
                f"the largest possible is {_rounded_down(largest_neuron_ratio(network))}"
            )
    pruned = _pruned(tp, network, ranks, count)
    _check(pruned, _without(network, kept))
    return Pruned(pruned, kept, count / sum(network.hidden_sizes), 1 - pruned.parameters / network.parameters)


def largest_neuron_ratio(network: Perceptron) -> float:
    """The largest neuron_ratio that `prune` takes: it leaves a neuron in every hidden layer.

    Raises RequestError: no hidden layer. Raises CheckpointError (nonfinite): a network that is not finite.
    """
    most = min(int(of_layer.max()) for of_layer in _ranks(network))
    return most / sum(network.hidden_sizes)


def neuron_ratio_for(network: Perceptron, pruning_ratio: float) -> float:
    """The least neuron_ratio for `prune` by which at least this share of the parameters goes.

    Raises RequestError: no hidden layer, not a number from 0 to below 1, or a share that would empty a layer (names the largest
    possible). Raises CheckpointError (nonfinite): a network that is not finite.
    """
    ranks = _ranks(network)
    _check_ratio("pruning_ratio", pruning_ratio)
    most = min(int(of_layer.max()) for of_layer in ranks)
    for count in range(most + 1):
        kept = [int((of_layer >= count).sum()) for of_layer in ranks]
        reached = 1 - parameters_of([network.sizes[0], *kept, network.sizes[-1]]) / network.parameters
        if reached >= pruning_ratio:
            return count / sum(network.hidden_sizes)
    raise RequestError(
        f"pruning_ratio {pruning_ratio:g} would remove all neurons of a hidden layer; the largest possible is "
        f"{_rounded_down(reached)} of the parameters, which is {_rounded_down(most / sum(network.hidden_sizes))} of the neurons"
    )


def neuron_importance(network: Perceptron) -> tuple[np.ndarray, ...]:
    """float64 [neurons], one a hidden layer: mean absolute input weight of each neuron, by which it is ranked (section 3.5)."""
    return tuple(np.abs(weight).mean(axis=1, dtype=np.float64) for weight in network.weights[:-1])


def _ranks(network: Perceptron) -> tuple[np.ndarray, ...]:
    """int64 [neurons], one a hidden layer: rank of each neuron over all hidden layers, from 0, ties by layer and place."""
    if not network.hidden_sizes:
        raise RequestError(f"a network of sizes {list(network.sizes)} has no hidden layer, hence no neuron to remove")
    if not network.finite:
        raise CheckpointError(
            "nonfinite", "a network with NaN or infinite parameters cannot be pruned; its neurons have no order"
        )
    order = np.argsort(np.concatenate(neuron_importance(network)), kind="stable")
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return tuple(np.split(ranks, np.cumsum(network.hidden_sizes)[:-1]))


def _removed(network: Perceptron, neuron_ratio: float) -> int:
    """How many neurons this share removes."""
    _check_ratio("neuron_ratio", neuron_ratio)
    # 0.55 of 160 neurons is 88.00000000000001 in floating point, and 88 are meant.
    return math.ceil(round(float(neuron_ratio) * sum(network.hidden_sizes), 6))


def _check_ratio(name: str, ratio: object) -> None:
    if not is_number(ratio) or not 0 <= ratio < 1:
        raise RequestError(f"{name} is {ratio!r}; a number from 0 to below 1 was expected")


def _pruned(tp: Any, network: Perceptron, ranks: tuple[np.ndarray, ...], count: int) -> Perceptron:
    """What torch-pruning makes of the network, asked to remove the `count` neurons of the lowest ranks."""
    import torch

    with torch.inference_mode(False), torch.enable_grad():  # it follows a pass's gradients to find what depends on what
        module = network.module()
        layers = [layer for layer in module if isinstance(layer, torch.nn.Linear)]
        # It leaves a layer of one neuron out of its ranking.
        ranked = sum(size for size in network.hidden_sizes if size > 1)
        pruner = tp.pruner.BasePruner(
            module,
            torch.zeros(1, network.sizes[0], dtype=torch.float32),
            importance=_Ranking(dict(zip(layers[:-1], ranks, strict=True))),
            global_pruning=True,
            # It keeps int(ranked * (1 - ratio)), which half a neuron more takes away from rounding errors.
            pruning_ratio=1 - (ranked - count + 0.5) / ranked if count else 0.0,
            ignored_layers=[layers[-1]],
        )
        pruner.step()
    return Perceptron.of_module(module)


class _Ranking:
    """Importance for torch-pruning: of a group of what must go together, the ranks of the neurons of its first layer."""

    def __init__(self, ranks: dict[nn.Module, np.ndarray]) -> None:
        self.ranks = ranks

    def __call__(self, group: Any, **_settings: Any) -> torch.Tensor:
        import torch

        # float64 holds every rank exactly.
        return torch.tensor(self.ranks[group[0].dep.target.module], dtype=torch.float64)


def _without(network: Perceptron, kept: tuple[np.ndarray, ...]) -> Perceptron:
    """The network with only those hidden neurons."""
    *hidden, outputs = network.biases
    biases = (*(bias[neurons] for bias, neurons in zip(hidden, kept, strict=True)), outputs)
    return Perceptron(weights_among(network.weights, kept), biases, network.linear)


def _check(pruned: Perceptron, expected: Perceptron) -> None:
    """Raises RequestError: torch-pruning removed anything else than it was asked to."""
    if pruned.sizes != expected.sizes:
        raise RequestError(
            f"torch-pruning {version('torch-pruning')} left hidden layers of {list(pruned.hidden_sizes)} neurons, where "
            f"{list(expected.hidden_sizes)} should stay; install torch-pruning 1.6.1"
        )
    if not pruned.is_same(expected):
        raise RequestError(
            f"torch-pruning {version('torch-pruning')} removed other neurons than those of least importance; "
            "install torch-pruning 1.6.1"
        )


def _torch_pruning() -> Any:
    try:
        import torch_pruning
    except ImportError:
        raise RequestError("pruning needs torch-pruning: pip install 'ninscope[polysemanticity]'") from None
    return torch_pruning


def _rounded_down(ratio: float) -> str:
    """A ratio in words, which is no more than it, so that it can be asked for."""
    return f"{math.floor(ratio * 10_000) / 10_000:g}"
