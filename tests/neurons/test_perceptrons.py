"""Perceptrons as arrays: what they compute, their module and back, how they begin, what is refused."""

import math
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons.polysemanticity.perceptron import Perceptron, initial_perceptron  # noqa: E402

SIZES = (5, 8, 3, 2)


def same(one, other):
    pairs = zip((*one.weights, *one.biases), (*other.weights, *other.biases), strict=True)
    return one.linear == other.linear and all(
        (array.shape, array.tobytes()) == (value.shape, value.tobytes()) for array, value in pairs
    )


@pytest.fixture
def inputs(rng):
    return rng.normal(size=(11, 5)).astype(np.float32)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("linear", [True, False])
def test_the_module_is_the_network_and_comes_back_exactly(rng, inputs, linear, dropout):
    network = initial_perceptron(SIZES, linear, rng)
    before = torch.get_rng_state()
    module = network.module(dropout)
    assert torch.equal(torch.get_rng_state(), before)
    hidden = [nn.Linear, *([] if linear else [nn.ReLU]), *([nn.Dropout] if dropout else [])]
    assert [type(layer) for layer in module] == [*hidden, *hidden, nn.Linear]
    assert all(layer.p == dropout for layer in module if isinstance(layer, nn.Dropout))
    assert all(parameter.requires_grad for parameter in module.parameters())
    with torch.no_grad():
        expected = module.eval()(torch.tensor(inputs)).numpy()
    np.testing.assert_allclose(network.outputs(inputs), expected, atol=1e-6)
    np.testing.assert_array_equal(network.outputs(torch.tensor(inputs)).numpy(), expected)
    assert same(Perceptron.of_module(module), network)


def test_hidden_activations_are_those_after_the_activation_function(rng, inputs):
    for linear in (True, False):
        network = initial_perceptron(SIZES, linear, rng)
        first = inputs.astype(float) @ network.weights[0].T + network.biases[0]
        first = first if linear else np.maximum(first, 0)
        second = first @ network.weights[1].T + network.biases[1]
        second = second if linear else np.maximum(second, 0)
        for of_kind in (inputs, torch.tensor(inputs)):
            hidden = network.hidden(of_kind)
            assert [type(values) for values in hidden] == [type(of_kind)] * 2
            for values, expected in zip(hidden, (first, second), strict=True):
                np.testing.assert_allclose(np.asarray(values), expected, atol=1e-6)
    assert network.hidden(torch.tensor(inputs).double())[0].dtype == torch.float64


def test_relu_has_derivative_0_at_0_as_torchs_own():
    network = Perceptron((np.eye(1, dtype=np.float32),) * 2, (np.zeros(1, np.float32),) * 2, linear=False)
    at = torch.zeros(1, 1, requires_grad=True)
    network.hidden(at)[0].sum().backward()
    assert at.grad.item() == 0


def test_sizes_and_parameters(rng):
    network = initial_perceptron(SIZES, True, rng)
    assert network.sizes == SIZES
    assert network.hidden_sizes == (8, 3)
    assert network.parameters == sum(p.numel() for p in network.module().parameters()) == 8 * 6 + 3 * 9 + 2 * 4


def test_networks_are_the_same_where_kind_shape_and_all_parameters_are(rng):
    network = initial_perceptron((2, 3, 1), False, rng)
    weights, biases = network.weights, network.biases
    assert network.is_same(Perceptron(weights, biases, linear=False))
    assert not network.is_same(Perceptron(weights, biases, linear=True))
    assert not network.is_same(Perceptron(weights, (biases[0], biases[1] + 1), linear=False))
    assert not network.is_same(Perceptron((weights[0] * 2, weights[1]), biases, linear=False))
    assert not network.is_same(initial_perceptron((2, 4, 1), False, rng))


def test_arrays_are_copies_that_cannot_be_written_to():
    weight, bias = np.ones((2, 3), np.float32), np.zeros(2, np.float32)
    network = Perceptron((weight,), (bias,), linear=True)
    weight[:] = 7
    assert (network.weights[0] == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        network.weights[0][0, 0] = 2
    network.module()[0].weight.data.fill_(5)
    assert (network.weights[0] == 1).all()


def test_a_new_network_follows_the_law_of_nn_linear():
    network = initial_perceptron((100, 400, 2), True, np.random.default_rng(3))
    for array, inputs in ((network.weights[0], 100), (network.biases[0], 100), (network.weights[1], 400)):
        torchs = nn.Linear(inputs, 50).weight.detach().abs().max().item()
        bound = 1 / math.sqrt(inputs)
        assert torchs <= bound * (1 + 1e-6)
        assert np.abs(array).max() <= bound * (1 + 1e-6)
        # 400 draws or more: the greatest is within 3 % of the bound but once in 100 000 (.97^400), the variance within 5 sigma.
        assert np.abs(array).max() > 0.97 * bound
        assert abs(array.var() / (bound**2 / 3) - 1) < 5 * math.sqrt(0.8 / array.size)
    again = initial_perceptron((100, 400, 2), True, np.random.default_rng(3))
    assert same(again, network)


def test_nothing_here_imports_torch_before_it_is_used():
    code = (
        "import sys, numpy as np\n"
        "import ninscope.neurons.polysemanticity.pruning as pruning\n"
        "from ninscope.neurons.polysemanticity.perceptron import initial_perceptron\n"
        "network = initial_perceptron((2, 3, 1), True, np.random.default_rng(0))\n"
        "pruning.largest_neuron_ratio(network), network.outputs(np.zeros((1, 2), np.float32))\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("sizes", [(3,), (), (3, 0, 1), (3, 2.5), (3, True), (3, -1)], ids=str)
def test_sizes_that_cannot_be_are_refused(rng, sizes):
    with pytest.raises(RequestError, match="positive whole numbers of units were expected"):
        initial_perceptron(sizes, True, rng)


def test_arrays_that_do_not_fit_are_refused():
    def zeros(*shape, dtype=np.float32):
        return np.zeros(shape, dtype)

    for weights, biases, message in [
        ((), (), "0 weight matrices and 0 biases"),
        ((zeros(2, 3),), (), "1 weight matrices and 0 biases"),
        ((zeros(2, 3, dtype=np.float64),), (zeros(2),), "layer 1 holds float64 and float32; float32 was expected"),
        ((zeros(2, 3), zeros(1, 3)), (zeros(2), zeros(1)), r"layer 2 has weights of shape \(1, 3\).*, of 2 inputs"),
        ((zeros(2, 3),), (zeros(3),), r"layer 1 has weights of shape \(2, 3\) and biases of shape \(3,\)"),
        ((zeros(),), (zeros(),), r"layer 1 has weights of shape \(\)"),
        ((zeros(0, 3),), (zeros(0),), r"layer 1 has weights of shape \(0, 3\)"),
    ]:
        with pytest.raises(RequestError, match=message):
            Perceptron(weights, biases, linear=True)


def test_a_module_of_another_make_is_refused():
    for module in (
        nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)),
        nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 1)),
        nn.Sequential(nn.Linear(2, 2, bias=False)),
    ):
        with pytest.raises(RequestError, match="is no perceptron"):
            Perceptron.of_module(module)
