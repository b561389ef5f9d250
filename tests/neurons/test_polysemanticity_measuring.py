"""What is measured of one network of the laboratory: against captum, closed forms and networks that are dead."""

import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from ninscope.neurons.polysemanticity import feature_gradients, neurons_of  # noqa: E402
from ninscope.neurons.polysemanticity.experiments import Experiment  # noqa: E402
from ninscope.neurons.polysemanticity.measuring import Probe  # noqa: E402
from ninscope.neurons.polysemanticity.perceptron import Perceptron, initial_perceptron  # noqa: E402
from ninscope.neurons.polysemanticity.table_names import MEASURED  # noqa: E402
from ninscope.neurons.polysemanticity.toy_data import ToyData, make_toy_data  # noqa: E402


def toy(linear: bool) -> ToyData:
    experiment = Experiment("measured", linear, 5, (3, 2), 4, 1, (0.3, 0.5), (4, 9, 6, 1), samples_per_output=10)
    with pytest.MonkeyPatch.context() as patch:  # any encoder will do, and this takes a tenth of the time
        patch.setattr("ninscope.neurons.polysemanticity.autoencoder.MIN_UPDATES", 100)
        patch.setattr("ninscope.neurons.polysemanticity.autoencoder.MIN_EPOCHS", 2)
        patch.setattr("ninscope.neurons.polysemanticity.feature_model.SEED_STEPS", 50)
        return make_toy_data(experiment, 3)


@pytest.fixture(scope="module")
def linear() -> ToyData:
    return toy(linear=True)


@pytest.fixture(scope="module")
def curved() -> ToyData:
    return toy(linear=False)


def network_for(data: ToyData, rng) -> Perceptron:
    return initial_perceptron(data.experiment.observed, data.experiment.linear, rng)


def test_linear_networks_have_the_exact_derivatives_of_all_matrices_multiplied(linear, rng):
    network = network_for(linear, rng)
    axes = torch.eye(5)
    encoder = (
        (linear.encoder(axes) - linear.encoder(torch.zeros(1, 5))).detach().numpy().astype(np.float64)
    )  # [features, inputs]
    first = network.weights[0].astype(np.float64) @ encoder.T
    expected = [first, network.weights[1] @ first]
    for layer, gradients in zip(Probe(linear).responses(network), expected, strict=True):
        np.testing.assert_allclose(layer.gradients, gradients, rtol=1e-5, atol=1e-7)


def test_other_networks_agree_with_captum(curved, rng):
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    network = network_for(curved, rng)
    module = network.module().double()
    whole = torch.nn.Sequential(curved.encoder.double(), *module)
    ends = [layer for layer in module if isinstance(layer, torch.nn.ReLU)]
    axes = torch.eye(5, dtype=torch.float64)
    for layer, responses in zip(ends, Probe(curved).responses(network), strict=True):
        captum = attr.NeuronIntegratedGradients(whole, layer)
        for neuron in range(len(responses.gradients)):
            found = captum.attribute(axes, neuron, n_steps=50, method="riemann_right")
            np.testing.assert_allclose(responses.gradients[neuron], found.diagonal().detach(), atol=1e-5)
        with torch.no_grad():
            activations = whole[: list(whole).index(layer) + 1](axes).T
        np.testing.assert_allclose(responses.activations, activations, rtol=1e-6, atol=1e-9)


def test_gradients_are_those_of_any_model_but_for_rounding(curved, rng):
    network = network_for(curved, rng)
    module, encoder = network.module().double(), curved.encoder.double()
    found = np.concatenate([layer.gradients for layer in Probe(curved).responses(network)])
    np.testing.assert_allclose(found, feature_gradients(neurons_of(module, encode=encoder), 5), atol=1e-14)


def test_every_column_of_the_table_is_measured_and_nothing_else_is(curved, rng):
    network = network_for(curved, rng)
    whole, *_ = Probe(curved).measure(network, initial_perceptron(network.sizes, network.linear, rng).weights)
    assert sorted(whole.values) == sorted(MEASURED)


def test_few_values_at_once_change_no_number(curved, rng, monkeypatch):
    network = network_for(curved, rng)
    whole = Probe(curved).responses(network)
    monkeypatch.setattr("ninscope.neurons.polysemanticity.measuring._MOST_VALUES", 200)
    for one, other in zip(whole, Probe(curved).responses(network), strict=True):
        np.testing.assert_allclose(one.gradients, other.gradients, rtol=1e-12)
        np.testing.assert_array_equal(one.activations, other.activations)


def test_losses_are_mean_squared_errors_of_the_samples_in_and_out_of_training(linear, rng):
    network = network_for(linear, rng)
    values = Probe(linear).measure(network)[0].values
    module = network.module().double()
    for name, chosen in (("loss", linear.test), ("train_loss", linear.train)):
        errors = module(torch.from_numpy(linear.inputs[chosen]).double()).detach().numpy() - linear.outputs[chosen]
        assert values[name] == pytest.approx((errors**2).mean(), rel=1e-5)


def test_a_dead_network_has_P_0_and_says_so(curved, rng):
    network = network_for(curved, rng)
    dead = Perceptron(network.weights, tuple(np.full_like(bias, -100) for bias in network.biases), linear=False)
    whole, *layers = Probe(curved).measure(dead)
    for measures in (whole, *layers):
        assert measures.values["P"] == measures.values["D"] == 0
        assert measures.values["dead"] == measures.values["inactive"] == measures.values["neurons"]
        assert (measures.values["P_samples"], math.isnan(measures.values["P_live"])) == (0, True)
    assert whole.message.startswith("every neuron is dead, so P is 0; ")
    assert layers[0].message.startswith("every neuron of the layer is dead, so P is 0; ")
    assert math.isnan(whole.values["phi_mean"])


def test_a_dead_layer_is_told_in_its_own_row_alone(curved, rng):
    network = network_for(curved, rng)
    biases = (network.biases[0], np.full_like(network.biases[1], -100), network.biases[2])
    whole, first, second = Probe(curved).measure(Perceptron(network.weights, biases, linear=False))
    assert (first.values["P"] > 0, second.values["P"]) == (True, 0)
    assert whole.values["P"] == pytest.approx(first.values["P"] * 9 / 15)
    assert "every neuron" not in whole.message
    assert "every neuron of the layer is dead" in second.message


@pytest.mark.parametrize("kind", ["linear", "curved"])
def test_derivatives_at_samples_are_those_of_autograd_and_their_P_is_of_mean_sizes(kind, rng, request, monkeypatch):
    data = request.getfixturevalue(kind)
    monkeypatch.setattr("ninscope.neurons.polysemanticity.measuring.SAMPLES", 7)
    network = network_for(data, rng)
    module, encoder = network.module().double(), data.encoder.double()
    ends = [1, 2] if data.experiment.linear else [2, 4]  # modules up to each hidden layer's activation
    points = torch.from_numpy(data.features[data.test[:7]]).double()
    probe = Probe(data)
    measured = probe.measure(network)[1:]
    for end, found, layer in zip(ends, probe.sizes_at_samples(network), measured, strict=True):
        part = torch.nn.Sequential(encoder, *list(module)[:end])
        jacobians = [torch.autograd.functional.jacobian(part, point).abs().numpy() for point in points]
        expected = np.mean(jacobians, axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)
        degrees = [sum(row) / max(row) if max(row) else 0.0 for row in expected.tolist()]
        assert layer.values["P_samples"] == pytest.approx(sum(degrees) / len(degrees))


def test_P_of_live_neurons_leaves_the_dead_out_and_inactive_neurons_are_those_that_no_sample_wakes(curved, rng):
    """Neuron 0 of the first layer is off on every axis and on at one held-out sample; neuron 1 is off everywhere."""
    inputs = curved.inputs.copy()
    inputs[curved.test[0]] = 100.0
    network = network_for(curved, rng)
    weights, biases = [array.copy() for array in network.weights], [array.copy() for array in network.biases]
    weights[0][0], biases[0][0] = 1.0, -200.0
    biases[0][1] = -100
    data = replace(curved, inputs=inputs)
    whole, first, _ = Probe(data).measure(Perceptron(tuple(weights), tuple(biases), linear=False))
    assert first.values["inactive"] < first.values["dead"]
    live = first.values["neurons"] - first.values["dead"]
    assert first.values["P_live"] * live == pytest.approx(first.values["P"] * first.values["neurons"])
    assert whole.values["inactive"] >= first.values["inactive"] >= 1
