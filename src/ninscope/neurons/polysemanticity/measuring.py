"""Everything that is measured of one network of the laboratory: the features of its neurons, its structure, phi and its loss.

What is the same for every network of one set of toy data, how the inputs depend on the features, is computed once (`Probe`). So
`Probe` follows gradients through a perceptron by itself, in numpy: `feature_gradients`, which takes any model, would run the
encoder again for every network, and takes 2 (N4) to 9 (N1) times as long. The numbers are the same but for rounding.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ninscope.neurons.polysemanticity.measures import (
    STEPS,
    degree_of_polysemanticity,
    monosemanticity,
    normalised_entropy,
    total_feature_dimensionality,
)
from ninscope.neurons.polysemanticity.perceptron import Perceptron
from ninscope.neurons.polysemanticity.perceptron_phi import phi_of_activations
from ninscope.neurons.polysemanticity.structure import PreparedStart, Weights, network_measures
from ninscope.neurons.polysemanticity.table_names import ALL_LAYERS
from ninscope.neurons.polysemanticity.toy_data import ToyData
from ninscope.neurons.torch_threads import threads
from ninscope.wording import joined_clauses

SAMPLES = 50  # held-out samples at which derivatives are taken
_MOST_VALUES = 1 << 22  # activations of one layer that are held at a time
_STRUCTURE = (
    "alpha0", "width", "emergence", "emergence_growth", "emergence_fixed", "alpha0_unit", "width_unit", "structure",
)  # fmt: skip


@dataclass(frozen=True)
class LayerMeasures:
    """What one hidden layer was measured to be, or with layer "all" all of them together.

    values: numbers by columns of the table `polysemanticity` (MEASURED; docs/tables.md); what does not exist is absent or NaN.
    message: what is to be known of them, or empty.
    """

    layer: str
    values: Mapping[str, float]
    message: str = ""


@dataclass(frozen=True)
class LayerResponses:
    """How the neurons of a layer answer to single features. float64 [neurons, features] each.

    gradients: partial derivatives by the features: exact in a linear network, else integrated along each feature's own axis from
    0 to 1. activations: where one feature is 1 and all others are 0.
    """

    gradients: np.ndarray
    activations: np.ndarray


class Probe:
    """Measures networks that read the inputs of one set of toy data.

    steps: of integrated gradients, right Riemann sum; a linear network needs one.
    """

    def __init__(self, data: ToyData, steps: int = STEPS):
        self.data = data
        self.steps = 1 if data.experiment.linear else steps
        self._inputs, self._slopes = _encoded_axes(data, self.steps)
        held_out = data.features[data.test[: 1 if data.experiment.linear else SAMPLES]]
        inputs, slopes = _encoded(data, np.repeat(held_out, data.experiment.features, axis=0))
        self._sample_inputs = inputs[:: data.experiment.features]
        self._sample_slopes = slopes.reshape(len(held_out), data.experiment.features, -1)

    def responses(self, network: Perceptron) -> list[LayerResponses]:
        """Of every hidden layer, inputs first, for the features of the toy data: through the encoder, then the network."""
        features = self.data.experiment.features
        sums = [np.zeros((features, neurons)) for neurons in network.hidden_sizes]
        last = list(sums)
        at_once = max(1, _MOST_VALUES // (features * max(network.sizes)))
        for first in range(0, self.steps, at_once):
            rows = slice(first * features, min(first + at_once, self.steps) * features)
            layers = _forward(network, self._inputs[rows], self._slopes[rows])
            for number, (values, slopes) in enumerate(layers):
                sums[number] += slopes.reshape(-1, features, slopes.shape[1]).sum(axis=0)
                last[number] = values[-features:]
        return [
            LayerResponses(total.T / self.steps, activations.T) for total, activations in zip(sums, last, strict=True)
        ]

    def sizes_at_samples(self, network: Perceptron) -> list[np.ndarray]:
        """Mean absolute partial derivatives by the features at held-out samples (thesis, section 3.3.2, first option).

        float64 [neurons, features] of every hidden layer, at the first SAMPLES held-out samples. Along one feature's own axis, as
        in `responses`, a neuron that needs several features is silent. Here it is seen among the features of real samples.
        """
        samples, features, _ = self._sample_slopes.shape
        sums = [np.zeros((features, neurons)) for neurons in network.hidden_sizes]
        at_once = max(1, _MOST_VALUES // (features * max(network.sizes)))
        for first in range(0, samples, at_once):
            rows = slice(first, first + at_once)
            layers = _forward(network, self._sample_inputs[rows, None], self._sample_slopes[rows])
            for total, (_, slopes) in zip(sums, layers, strict=True):
                total += np.abs(slopes, out=slopes).sum(axis=0)
        return [total.T / samples for total in sums]

    def measure(self, network: Perceptron, start: Weights | PreparedStart | None = None) -> list[LayerMeasures]:
        """All hidden layers together, then each of them, "1" being that which reads the inputs.

        Losses are mean squared errors, nothing dropped: loss of the samples that are held out, train_loss of the others. phi is of
        the held-out samples, with the others as history.

        start: the same network before training, for E (`network_measures`). Raises RequestError, CheckpointError as that.
        """
        layers = self.responses(network)
        names = [ALL_LAYERS, *(str(number) for number in range(1, len(layers) + 1))]
        together = LayerResponses(
            np.concatenate([layer.gradients for layer in layers]),
            np.concatenate([layer.activations for layer in layers]),
        )
        found = network_measures(network.weights, start)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is said of its layer
            training, held_out = (
                network.hidden(self.data.inputs[chosen]) for chosen in (self.data.train, self.data.test)
            )
        phi = phi_of_activations(training, held_out)
        at_samples = self.sizes_at_samples(network)
        inactive = [~np.any(activations, axis=0) for activations in held_out]
        of_network = {name: getattr(found, name) for name in _STRUCTURE}
        of_network["loss"] = _mean_squared_error(network, held_out[-1], self.data.outputs[self.data.test])
        of_network["train_loss"] = _mean_squared_error(network, training[-1], self.data.outputs[self.data.train])
        measured = []
        for name, responses, sizes, silent in zip(
            names,
            [together, *layers],
            [np.concatenate(at_samples), *at_samples],
            [np.concatenate(inactive), *inactive],
            strict=True,
        ):
            values = {"phi_mean": phi[name].phi_mean, "phi_p99": phi[name].phi_p99, "inactive": float(silent.sum())}
            values["P_samples"] = _mean(degree_of_polysemanticity(sizes))
            values |= of_network if name == ALL_LAYERS else {}
            about = (found.message, found.warning) if name == ALL_LAYERS else ()
            measured.append(_of_layer(name, responses, values, joined_clauses(phi[name].message, *about)))
        return measured


def _encoded_axes(data: ToyData, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """`_encoded` at i/steps of every feature's axis, i = 1 ... steps, all features of the first step first."""
    axes = np.eye(data.experiment.features)
    return _encoded(data, np.concatenate([axes * (number / steps) for number in range(1, steps + 1)]))


def _encoded(data: ToyData, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, their partial derivatives by a feature) at points: of the first by the first feature, and so on, round and round.

    points: [a multiple of features, features]. float64 [points, inputs] each.
    """
    features = data.experiment.features
    axes = torch.eye(features, dtype=torch.float64).repeat(len(points) // features, 1)
    encoder = copy.deepcopy(data.encoder).double().eval()
    with threads(1), torch.inference_mode(False), torch.no_grad():
        at = torch.from_numpy(np.asarray(points, np.float64))
        inputs, slopes = torch.func.jvp(encoder, (at,), (axes,))[:2]
    return inputs.numpy(), slopes.numpy()


def _forward(network: Perceptron, inputs: np.ndarray, slopes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(activations, their derivatives) of every hidden layer. A ReLU at 0 has the derivative 0.

    inputs: float64 [..., inputs]; slopes: as these, or with more rows where they are 1. float64 [..., neurons] each.
    """
    layers = []
    for weight, bias in zip(network.weights[:-1], network.biases[:-1], strict=True):
        matrix = weight.T.astype(np.float64)
        inputs, slopes = (
            np.tensordot(inputs, matrix, 1) + bias,
            np.tensordot(slopes, matrix, 1),
        )  # faster than stacked @
        if not network.linear:
            active = inputs > 0
            inputs, slopes = inputs * active, slopes * active
        layers.append((inputs, slopes))
    return layers


def _of_layer(name: str, responses: LayerResponses, others: Mapping[str, float], message: str) -> LayerMeasures:
    gradients = responses.gradients
    moved = gradients.any(axis=1)
    dead = int((~moved).sum())
    degrees = degree_of_polysemanticity(gradients)
    values = {
        "neurons": float(len(gradients)),
        "dead": float(dead),
        "P": _mean(degrees),
        "P_live": _mean(degrees[moved]) if moved.any() else math.nan,
        "entropy": _mean(normalised_entropy(gradients)),
        "monosemanticity": _mean(monosemanticity(responses.activations)),
        "D": total_feature_dimensionality(gradients),
    }
    where = "" if name == ALL_LAYERS else " of the layer"
    silent = f"every neuron{where} is dead, so P is 0" if dead == len(gradients) else ""
    return LayerMeasures(name, {**values, **others}, joined_clauses(silent, message))


def _mean(values: np.ndarray) -> float:
    """Summed exactly, so that no order of neurons changes a bit."""
    return math.fsum(values.tolist()) / len(values)


def _mean_squared_error(network: Perceptron, last_hidden: np.ndarray, outputs: np.ndarray) -> float:
    """last_hidden: activations of the last hidden layer. Nothing is dropped."""
    errors = (last_hidden @ network.weights[-1].T + network.biases[-1]).astype(np.float64) - outputs
    return float(np.square(errors).mean())
