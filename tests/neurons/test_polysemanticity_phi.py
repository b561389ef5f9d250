"""phi of a perceptron's hidden layers against loops over the whole history, and what is said of layers without one."""

import math

import numpy as np
import pytest

from ninscope.errors import RequestError

torch = pytest.importorskip("torch", reason="torch is not installed")
from naive_memel import history_of, scales, two_pass  # noqa: E402

from ninscope.neurons.inhibition import NEURONS  # noqa: E402
from ninscope.neurons.phi import phi_of_layers, together  # noqa: E402
from ninscope.neurons.polysemanticity.perceptron import Perceptron, initial_perceptron  # noqa: E402
from ninscope.neurons.polysemanticity.perceptron_phi import PhiMeasures, phi_measures, phi_of_activations  # noqa: E402

SIZES = (5, 12, 7, 2)
LAYERS = ["1", "2"]


@pytest.fixture(params=[False, True], ids=["ReLU", "linear"])
def network(request, rng):
    return initial_perceptron(SIZES, request.param, rng)


def inputs_of(rng, samples):
    return rng.standard_normal((samples, SIZES[0])).astype(np.float32)


def plain(history, new, epsilon=0.01):
    """phi of every new activation. history, new: [samples, neurons]."""
    _, mean, variance = two_pass(history_of([history], feature_dim=1))
    return scales(np.asarray(new, np.float64), mean, variance, epsilon)


def test_phi_is_that_of_the_plain_oracle(rng, network):
    history, new = inputs_of(rng, 90), inputs_of(rng, 41)
    found = phi_measures(network, history, new)
    expected = [plain(*both) for both in zip(network.hidden(history), network.hidden(new), strict=True)]
    assert list(found) == ["all", *LAYERS]
    for name, values in zip(found, [np.concatenate([some.ravel() for some in expected]), *expected], strict=True):
        assert found[name].phi_mean == pytest.approx(values.mean(), rel=1e-5), name
        p99 = np.quantile(values, 0.99, method="inverted_cdf")
        assert (found[name].phi_p99, found[name].message) == (pytest.approx(p99, rel=1e-4), ""), name


@pytest.mark.parametrize("neurons", NEURONS)
def test_features_and_positions_are_the_same_here(rng, network, neurons):
    """And both are what `phi_of_layers` says of the module, whose quantiles are to 2.5e-4 of themselves."""
    history, new = inputs_of(rng, 200), inputs_of(rng, 100)
    module = network.module()
    step = 1 if network.linear else 2  # without ReLU the Linear layer gives the activations
    layers = {name: module[step * int(name) - 1] for name in LAYERS}
    parts = [torch.from_numpy(history)], [torch.from_numpy(new)]
    distributions = phi_of_layers(module, layers, module, *parts, neurons)
    found = phi_measures(network, history, new)
    for name, distribution in {"all": together(distributions.values()), **distributions}.items():
        expected = distribution.summary()
        assert found[name].phi_mean == pytest.approx(expected.mean, rel=1e-5)
        assert found[name].phi_p99 == pytest.approx(expected.p99, rel=3e-4)


def test_a_neuron_that_never_varies_has_phi_0(rng):
    history, new = (np.abs(rng.standard_normal((50, 4))).astype(np.float32) for _ in range(2))
    history[:, 2] = new[:, 2] = 0
    found = phi_of_activations([history], [new], epsilon=0.0)["1"]
    alive = phi_of_activations([history[:, [0, 1, 3]]], [new[:, [0, 1, 3]]], epsilon=0.0)["1"]
    assert found.phi_mean == pytest.approx(0.75 * alive.phi_mean, rel=1e-6)


def test_a_dead_layer_is_said_and_the_others_have_phi(rng):
    network = initial_perceptron(SIZES, False, rng)
    biases = [network.biases[0], np.full(SIZES[2], -100, np.float32), network.biases[2]]
    dead = Perceptron(network.weights, tuple(biases), linear=False)
    history, new = inputs_of(rng, 90), inputs_of(rng, 41)
    found = phi_measures(dead, history, new)
    message = "layer 2: no neuron varies over the history, so phi has no unit"
    assert repr(found["2"]) == repr(PhiMeasures(math.nan, math.nan, message))
    assert found["1"] == phi_measures(network, history, new)["1"]
    assert found["all"] == PhiMeasures(found["1"].phi_mean, found["1"].phi_p99, message)


def test_activations_that_are_not_finite_are_said(rng):
    history, new = (rng.standard_normal((20, 3)).astype(np.float32) for _ in range(2))
    spoilt = history.copy()
    spoilt[3, 1] = np.nan
    found = phi_of_activations([history, spoilt, history], [new, new, np.where(new > 0, np.inf, new)])
    assert found["1"].message == ""
    for name in ("2", "3"):
        assert math.isnan(found[name].phi_mean)
        assert found[name].message == f"layer {name}: activations are not finite (NaN or infinity)"
    assert found["all"].phi_mean == found["1"].phi_mean
    assert found["all"].message == f"{found['2'].message}; {found['3'].message}"


def test_phi_beyond_float32_is_said():
    history, new = np.array([[0.0], [1e-10]], np.float32), np.array([[3e38]], np.float32)
    found = phi_of_activations([history], [new])
    assert found["1"].message == "layer 1: phi of a new activation is too large for float32"
    assert math.isnan(found["all"].phi_p99)


@pytest.mark.parametrize(
    ("samples", "says"),
    [((0, 5), "no neuron varies"), ((1, 5), "no neuron varies"), ((5, 0), "no new activations"), ((2, 1), "")],
)
def test_few_samples(rng, network, samples, says):
    found = phi_measures(network, *(inputs_of(rng, number) for number in samples))
    for measures in found.values():
        assert says in measures.message
        assert math.isnan(measures.phi_mean) == bool(says)


def test_no_bit_depends_on_threads(rng):
    history, new = ([rng.standard_normal((3000, size)).astype(np.float32) for size in (90, 40)] for _ in range(2))
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(phi_of_activations(history, new))
    assert found[0] == found[1]


def test_what_is_given_may_be_read_only_and_stays_as_it_is(rng, network, recwarn):
    given = [[part.copy() for part in network.hidden(inputs_of(rng, 30))] for _ in range(2)]
    before = [[part.copy() for part in parts] for parts in given]
    for parts in given:
        for part in parts:
            part.setflags(write=False)
    phi_of_activations(*given)
    np.testing.assert_equal(given, before)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("history", "new", "says"),
    [
        ([], [], "activations of 0 layers"),
        ([np.ones((3, 2))], [], "of 1 layers, new ones are of 0"),
        ([np.ones((3, 2))], [np.ones((3, 4))], r"layer 1: activations have shapes \[3, 2\] and \[3, 4\]"),
        ([np.ones(3)], [np.ones(3)], r"shapes \[3\] and \[3\]"),
        ([np.ones((3, 0))], [np.ones((3, 0))], r"shapes \[3, 0\]"),
    ],
)
def test_other_shapes_are_refused(history, new, says):
    with pytest.raises(RequestError, match=says):
        phi_of_activations(history, new)


def test_inputs_of_another_width_are_refused(rng, network):
    with pytest.raises(RequestError, match=r"inputs have shape \[4, 6\]; \[samples, 5\] was expected"):
        phi_measures(network, inputs_of(rng, 4), np.ones((4, 6), np.float32))
    with pytest.raises(RequestError, match="has no hidden layer"):
        phi_measures(initial_perceptron((5, 2), False, rng), inputs_of(rng, 4), inputs_of(rng, 4))
