"""Structured global magnitude pruning: the neurons of least importance go, as many as asked, and what cannot be is refused."""

import sys

import naive_perceptrons as naive
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
tp = pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")

from ninscope.errors import CheckpointError, RequestError  # noqa: E402
from ninscope.neurons.polysemanticity.perceptron import Perceptron, initial_perceptron  # noqa: E402
from ninscope.neurons.polysemanticity.pruning import largest_neuron_ratio, neuron_importance, neuron_ratio_for, prune  # noqa: E402

# As many inputs as neurons below, about: then no layer is used up early.
SIZES = [(9, 10, 10, 2), (5, 40, 3), (8, 9, 8, 9, 2), (1, 12, 2)]


def first_of(network, count):
    return naive.kept_neurons(network.weights, count)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.3, 0.6])
def test_those_of_least_mean_absolute_input_weight_go_and_the_rest_computes_as_before(rng, sizes, ratio, linear):
    network = initial_perceptron(sizes, linear, rng)
    neurons = sum(sizes[1:-1])
    count = -int(-ratio * neurons // 1)  # rounded up; no product here is a whole number but for rounding errors
    kept = first_of(network, count)
    pruned = prune(network, ratio)
    assert [places.tolist() for places in pruned.kept] == kept
    assert all(places.dtype == np.int64 for places in pruned.kept)
    assert pruned.network.hidden_sizes == tuple(map(len, kept))
    assert pruned.network.sizes[0] == sizes[0]
    assert pruned.network.sizes[-1] == sizes[-1]
    assert pruned.network.linear == linear
    assert pruned.neuron_ratio == pytest.approx(count / neurons)
    left = sum(parameter.numel() for parameter in pruned.network.module().parameters())
    before = sum(parameter.numel() for parameter in network.module().parameters())
    assert pruned.pruning_ratio == pytest.approx(1 - left / before)
    inputs = rng.normal(size=(20, sizes[0])).astype(np.float32)
    expected = naive.outputs_with_silent(network.weights, network.biases, linear, kept, inputs)
    np.testing.assert_allclose(pruned.network.outputs(inputs), expected, atol=1e-5)


def test_what_stays_is_bit_for_bit_what_it_was(rng):
    network = initial_perceptron((9, 10, 10, 2), False, rng)
    pruned = prune(network, 0.4)
    first, second = pruned.kept
    for own, expected in zip(
        (*pruned.network.weights, *pruned.network.biases),
        (
            network.weights[0][first],
            network.weights[1][second][:, first],
            network.weights[2][:, second],
            network.biases[0][first],
            network.biases[1][second],
            network.biases[2],
        ),
        strict=True,
    ):
        assert own.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("ratio", "count"), [(0.55, 88), (0.1, 16), (0.101, 17), (0.7, 112), (1e-9, 0), (0.001, 1)])
def test_a_ratio_is_of_neurons_and_rounded_up_but_for_rounding_errors(rng, ratio, count):
    """0.55 of 160 is 88.00000000000001 in floating point, of which torch-pruning alone makes 89."""
    network = initial_perceptron((3, 160, 1), True, rng)
    assert prune(network, ratio).network.sizes == (3, 160 - count, 1)


def test_ties_go_by_layer_and_place():
    """torch-pruning alone removes all that tie with the last."""
    weight = np.ones((4, 4), np.float32)
    network = Perceptron(
        (weight, -weight, weight[:1]), (np.arange(4, dtype=np.float32),) * 2 + (np.zeros(1, np.float32),), True
    )
    pruned = prune(network, 3 / 8)
    assert [places.tolist() for places in pruned.kept] == [[3], [0, 1, 2, 3]]
    assert pruned.network.biases[0].tolist() == [3.0]


@pytest.mark.parametrize("hidden", [(12, 1), (1, 12), (1, 12, 1)], ids=str)
def test_a_layer_of_one_neuron_stays_and_counts_as_ranked(rng, hidden):
    """torch-pruning alone ranks without it."""
    network = initial_perceptron((4, *hidden, 2), True, rng)
    # Its neuron is ranked above all others.
    weights = [weight * np.float32(100 if len(weight) == 1 else 1) for weight in network.weights]
    network = Perceptron(tuple(weights), network.biases, True)
    for count in range(12):
        pruned = prune(network, count / sum(hidden))
        assert [places.tolist() for places in pruned.kept] == first_of(network, count)
    with pytest.raises(RequestError, match="would remove all 12 neurons"):
        prune(network, 12 / sum(hidden))


def test_importance_is_the_mean_absolute_input_weight():
    weights = (np.array([[1, -3], [0, 0], [-0.5, 0.5]], np.float32), np.ones((1, 3), np.float32))
    network = Perceptron(weights, (np.full(3, 9, np.float32), np.zeros(1, np.float32)), True)
    assert [values.tolist() for values in neuron_importance(network)] == [[2.0, 0.0, 0.5]]
    assert prune(network, 0.3).kept[0].tolist() == [0, 2]


# --- what cannot be -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [*SIZES, (10, 128, 32, 2)], ids=str)
def test_a_ratio_that_would_empty_a_layer_is_refused_with_the_largest_possible(rng, sizes):
    network = initial_perceptron(sizes, True, rng)
    neurons, largest = sum(sizes[1:-1]), largest_neuron_ratio(network)
    count = next(count for count in range(neurons + 1) if not all(first_of(network, count)))
    assert largest == pytest.approx((count - 1) / neurons)
    assert min(prune(network, largest).network.hidden_sizes) == 1
    emptied = 1 + [len(kept) for kept in first_of(network, count)].index(0)
    message = rf"all {sizes[emptied]} neurons of hidden layer {emptied}; the largest possible is ([\d.]+)$"
    if largest + 0.5 / neurons < 1:
        with pytest.raises(RequestError, match=message) as refused:
            prune(network, largest + 0.5 / neurons)
        named = float(str(refused.value).rsplit(" ", 1)[1])
        assert largest - 1e-4 <= named <= largest
        assert min(prune(network, named).network.hidden_sizes) == 1


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan"), float("inf"), "half", None, True])
def test_what_is_no_ratio_is_refused(rng, ratio):
    network = initial_perceptron((3, 5, 1), True, rng)
    with pytest.raises(RequestError, match=r"neuron_ratio is .*; a number from 0 to below 1 was expected"):
        prune(network, ratio)
    with pytest.raises(RequestError, match=r"pruning_ratio is .*; a number from 0 to below 1 was expected"):
        neuron_ratio_for(network, ratio)


def test_networks_without_neurons_or_with_nan_are_refused(rng):
    with pytest.raises(RequestError, match=r"a network of sizes \[3, 1\] has no hidden layer"):
        prune(initial_perceptron((3, 1), True, rng), 0.1)
    network = initial_perceptron((3, 5, 1), True, rng)
    bias = network.biases[1].copy()
    bias[0] = np.inf
    with pytest.raises(CheckpointError, match="with NaN or infinite parameters cannot be pruned") as refused:
        prune(Perceptron(network.weights, (network.biases[0], bias), True), 0.1)
    assert refused.value.status == "nonfinite"


def test_the_absence_of_torch_pruning_names_the_extra(rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    network = initial_perceptron((3, 5, 1), True, rng)
    with pytest.raises(RequestError, match=r"pip install 'ninscope\[polysemanticity\]'"):
        prune(network, 0.3)
    assert largest_neuron_ratio(network) == pytest.approx(0.8)


def test_what_torch_pruning_did_is_checked(rng, monkeypatch):
    network = initial_perceptron((3, 5, 4, 1), True, rng)
    step = tp.pruner.BasePruner.step
    monkeypatch.setattr(tp.pruner.BasePruner, "step", lambda pruner: None)
    with pytest.raises(RequestError, match=r"torch-pruning .* left hidden layers of \[5, 4\] neurons, where \["):
        prune(network, 0.3)

    def other(pruner):
        step(pruner)
        with torch.no_grad():
            pruner.model[0].bias += 1

    monkeypatch.setattr(tp.pruner.BasePruner, "step", other)
    with pytest.raises(RequestError, match=r"torch-pruning .* removed other neurons than those of least importance"):
        prune(network, 0.3)


# --- shares of the parameters -------------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [*SIZES, (10, 128, 32, 2)], ids=str)
def test_the_least_ratio_of_neurons_for_a_share_of_the_parameters(rng, sizes):
    network = initial_perceptron(sizes, False, rng)
    neurons = sum(sizes[1:-1])
    possible = [prune(network, count / neurons) for count in range(round(largest_neuron_ratio(network) * neurons) + 1)]
    for share in (0.0, 0.05, 0.3, 0.6, possible[1].pruning_ratio):
        reached = prune(network, neuron_ratio_for(network, share))
        least = next(pruned for pruned in possible if pruned.pruning_ratio >= share)
        assert reached.network.sizes == least.network.sizes
        assert reached.pruning_ratio >= share
    largest = possible[-1].pruning_ratio
    assert neuron_ratio_for(network, largest) == pytest.approx(largest_neuron_ratio(network))
    with pytest.raises(
        RequestError, match=r"remove all neurons of a hidden layer; the largest possible is ([\d.]+) of the parameters"
    ):
        neuron_ratio_for(network, (1 + largest) / 2)


def test_pruning_leaves_torchs_state_as_it_was_and_asks_nothing_of_it(rng):
    network = initial_perceptron((4, 6, 6, 2), False, rng)
    expected, state = prune(network, 0.3), torch.get_rng_state()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.inference_mode():
            other = prune(network, 0.3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    for one, two in zip(expected.network.weights, other.network.weights, strict=True):
        assert one.tobytes() == two.tobytes()
