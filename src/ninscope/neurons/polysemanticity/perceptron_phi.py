"""What the activations of a perceptron say of single neurons: the monosemantic scale phi of each hidden layer (MEmeL, 3.1).

phi of a new value is (h - mean)^2 / variance, with the mean and the variance of its neuron over a history: here the training
inputs are history and the held-out inputs are new. It is the scale of `ninscope.neurons.phi`, from the same running statistics.

What is a neuron? MEmeL's authors take every value of a sample for one ("positions"), others every feature over samples and tokens
("features"). A hidden layer gives one value a neuron and sample, so here both are the same.

How to read it: phi is in units of each neuron's own variance. Where new inputs are distributed as history was, a neuron's mean phi
is therefore nearly 1, whatever it means, and that of one that never varies is 0: `phi_mean` tells above all how many neurons are
dead. `phi_p99` tells how far the largest activations stand out, which is what MEmeL takes for monosemantic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ninscope.errors import NonFiniteError, RequestError
from ninscope.neurons.inhibition import EPSILON, NEURONS
from ninscope.neurons.memel.scale import MonosemanticScale
from ninscope.neurons.phi import QUANTILES
from ninscope.neurons.polysemanticity.perceptron import Perceptron
from ninscope.neurons.polysemanticity.table_names import ALL_LAYERS
from ninscope.wording import joined_clauses

_SHARE = QUANTILES["p99"]


@dataclass(frozen=True)
class PhiMeasures:
    """phi of the new activations of one hidden layer, or of all: the mean, and the smallest value that 99 % of them do not exceed.

    NaN where there is no phi, of which `message` says why in one clause.
    """

    phi_mean: float
    phi_p99: float
    message: str = ""


def phi_measures(
    network: Perceptron, history_inputs: np.ndarray, new_inputs: np.ndarray, epsilon: float = EPSILON
) -> dict[str, PhiMeasures]:
    """phi of every hidden layer ("1", "2", ...) and of all their neurons together ("all").

    history_inputs, new_inputs: float32 [samples, inputs]. epsilon: of variance compensation, as in `MonosemanticScale`. A layer
    without phi has NaN and a message, and no part in "all". Raises RequestError: inputs of another shape.
    """
    if not network.hidden_sizes:
        raise RequestError(f"a network of sizes {network.sizes} has no hidden layer, and so no phi")
    history, new = (_hidden(network, inputs) for inputs in (history_inputs, new_inputs))
    return phi_of_activations(history, new, epsilon)


def phi_of_activations(
    history: Sequence[np.ndarray], new: Sequence[np.ndarray], epsilon: float = EPSILON
) -> dict[str, PhiMeasures]:
    """As `phi_measures`, of the hidden layers' activations: float32 [samples, neurons] each. Raises RequestError."""
    if len(history) != len(new) or not history:
        raise RequestError(
            f"history has activations of {len(history)} layers, new ones are of {len(new)}; give the same layers of both, at "
            "least one"
        )
    found = {
        str(number): _layer(str(number), *both, epsilon)
        for number, both in enumerate(zip(history, new, strict=True), 1)
    }
    known = [layer for layer in found.values() if layer.values is not None]
    return {ALL_LAYERS: _together(found, known)} | {name: layer.measures for name, layer in found.items()}


@dataclass(frozen=True)
class _Layer:
    """values: float32 [n], phi of every new activation; None where there is none."""

    measures: PhiMeasures
    values: np.ndarray | None = None
    total: float = math.nan


def _hidden(network: Perceptron, inputs: np.ndarray) -> tuple[np.ndarray, ...]:
    array = np.asarray(inputs, np.float32)
    if array.ndim != 2 or array.shape[1] != network.sizes[0]:
        raise RequestError(
            f"inputs have shape {list(array.shape)}; [samples, {network.sizes[0]}] was expected of this network"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is said of its layer
        return network.hidden(array)


def _layer(name: str, history: np.ndarray, new: np.ndarray, epsilon: float) -> _Layer:
    if history.ndim != 2 or new.ndim != 2 or history.shape[1] != new.shape[1] or not history.shape[1]:
        raise RequestError(
            f"layer {name}: activations have shapes {list(history.shape)} and {list(new.shape)}; [samples, neurons] of the same "
            "neurons were expected"
        )
    # One value a neuron and sample: positions and features are the same, and positions take less time.
    scale = MonosemanticScale(NEURONS[1], epsilon=epsilon, shape=history.shape[1:], layer=f"layer {name}")
    if not np.isfinite(new).all():
        return _without(f"{scale.layer}: activations are not finite (NaN or infinity)")
    try:
        if len(history):
            scale.observe(_tensor(history))
    except NonFiniteError:
        return _without(f"{scale.layer}: activations are not finite (NaN or infinity)")
    if not len(new) or not bool(scale.inverse().any()):
        reason = "no neuron varies over the history, so phi has no unit" if len(new) else "there are no new activations"
        return _without(f"{scale.layer}: {reason}")
    values = scale.phi(_tensor(new)).numpy().reshape(-1)
    # numpy adds up in one order; torch's depends on the number of its threads.
    total = float(np.add.reduce(values, dtype=np.float64))
    if not math.isfinite(total):
        return _without(f"{scale.layer}: phi of a new activation is too large for float32")
    return _Layer(PhiMeasures(total / values.size, _p99([values])), values, total)


def _tensor(activations: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.require(activations, np.float32, ["C", "W"]))


def _without(message: str) -> _Layer:
    return _Layer(PhiMeasures(math.nan, math.nan, message))


def _together(found: dict[str, _Layer], known: Sequence[_Layer]) -> PhiMeasures:
    message = joined_clauses(*(layer.measures.message for layer in found.values()))
    if not known:
        return PhiMeasures(math.nan, math.nan, message)
    values = [layer.values for layer in known if layer.values is not None]
    of_layers = [layer.measures.phi_p99 for layer in known]
    mean = sum(layer.total for layer in known) / sum(some.size for some in values)
    return PhiMeasures(mean, _p99(values, min(of_layers), max(of_layers)), message)


def _p99(values: Sequence[np.ndarray], low: float = 0.0, high: float = math.inf) -> float:
    """The smallest of all values that 99 % do not exceed. low, high: between which it lies, so that few values need sorting."""
    rank = math.ceil(_SHARE * sum(some.size for some in values)) - 1
    rank -= sum(int(np.count_nonzero(some < np.float32(low))) for some in values)
    between = [some[(some >= np.float32(low)) & (some <= np.float32(high))] for some in values]
    return float(np.partition(np.concatenate(between), rank)[rank])
