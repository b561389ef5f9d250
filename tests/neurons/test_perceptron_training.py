"""Training of many perceptrons at once: as torch's own loop trains each, whoever else trains, and whatever goes wrong there."""

import itertools

import naive_perceptrons as naive
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons.polysemanticity.perceptron import Perceptron, initial_perceptron  # noqa: E402
from ninscope.neurons.polysemanticity.training import (  # noqa: E402
    MOST_AT_ONCE,
    OVERHEAD,
    TrainingRun,
    _kept,
    _StackTraining,
    stacks_of,
    train_together,
)

HIDDEN = [(12, 6), (7, 6), (12, 1), (1, 5)]


@pytest.fixture
def samples(rng):
    """inputs [150, 4] and outputs [150, 2] of training, then of the test; 150 is no multiple of a batch."""
    inputs = rng.normal(size=(190, 4)).astype(np.float32)
    outputs = np.stack([inputs[:, 0] * inputs[:, 1], inputs.sum(axis=1)], axis=1)
    return inputs[:150], outputs[:150], inputs[150:], outputs[150:]


def networks_of(rng, linear=False, hidden=HIDDEN):
    return [initial_perceptron((4, *sizes, 2), linear, rng) for sizes in hidden]


def contents(trained):
    """Everything that a training gives, as bytes."""
    return [
        (
            [array.tobytes() for array in (*result.network.weights, *result.network.biases)],
            result.train_loss.tobytes(),
            result.test_loss.tobytes(),
            result.diverged_at,
        )
        for result in trained
    ]


def assert_close(network, weights, biases, atol):
    for own, other in zip((*network.weights, *network.biases), (*weights, *biases), strict=True):
        np.testing.assert_allclose(own, other, atol=atol)


# --- as torch's own loop ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("linear", [True, False])
def test_each_network_of_a_stack_trains_as_torchs_loop_trains_it(rng, samples, linear):
    """Unlike sizes, dropouts and orders beside each other, in one stack."""
    networks = networks_of(rng, linear)
    runs = [TrainingRun(1e-2, [0.0, 0.5][number % 2], f"run {number}", number) for number in range(4)]
    assert len(stacks_of(networks, runs)) == 1
    trained = train_together(networks, runs, *samples, epochs=4, batch_size=32)
    for network, run, result in zip(networks, runs, trained, strict=True):
        module = naive.module_of(network.weights, network.biases, linear, run.dropout)
        settings = {"rate": 1e-2, "dropout": run.dropout, "name": run.name, "seed": run.seed}
        weights, biases, losses = naive.train(module, *samples[:2], **settings, epochs=4, batch_size=32)
        # Rounding, which Adam enlarges where a gradient is near 0: up to 1e-7 of sums, 20 updates of 1e-2.
        assert_close(result.network, weights, biases, 2e-5)
        np.testing.assert_allclose(result.train_loss, losses, rtol=1e-5)
        assert losses[-1] < losses[0]
        assert result.diverged_at is None


def test_losses_are_mean_squared_errors_without_dropout(rng, samples):
    networks, seen = networks_of(rng), {}
    runs = [TrainingRun(1e-3, 0.5, "x", number) for number in range(4)]
    many = samples[0].repeat(10, axis=0), samples[1].repeat(10, axis=0)  # more than are evaluated at once
    keep = lambda number, epoch, network: seen.setdefault((number, epoch), network)  # noqa: E731
    trained = train_together(networks, runs, *many, *samples[2:], epochs=2, after_epoch=keep)
    assert set(seen) == set(itertools.product(range(4), range(3)))
    for number, result in enumerate(trained):
        assert result.train_loss.dtype == np.float64
        for epoch, (train, test) in enumerate(zip(result.train_loss, result.test_loss, strict=True)):
            network = seen[number, epoch]
            for (inputs, outputs), loss in ((many, train), (samples[2:], test)):
                assert loss == pytest.approx(float(((network.outputs(inputs) - outputs) ** 2).mean()), rel=1e-5)
        assert seen[number, 0].weights[0].tobytes() == networks[number].weights[0].tobytes()
        assert seen[number, 2].weights[0].tobytes() == result.network.weights[0].tobytes()


def test_no_epochs_give_the_start_and_its_losses(rng, samples):
    network = networks_of(rng)[0]
    (result,) = train_together([network], [TrainingRun(1e-3)], *samples, epochs=0)
    assert_close(result.network, network.weights, network.biases, 0)
    assert len(result.train_loss) == 1
    assert result.diverged_at is None
    assert train_together([], [], *samples, epochs=3) == []


# --- stacks -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("linear", [True, False])
def test_padding_stays_exactly_0(rng, samples, linear):
    networks = networks_of(rng, linear)
    training = _StackTraining(networks, [TrainingRun(0.1, 0.5, seed=number) for number in range(4)])
    inputs, outputs = (torch.tensor(array) for array in samples[:2])
    for epoch in (1, 2):
        training._epoch(epoch, inputs, outputs, 32)
    stack = training.stack
    assert stack.padded == (4, 12, 6, 2)
    moments = [training.optimizer.state[parameter] for parameter in stack.parameters]
    for values in (
        stack.parameters,
        [state["exp_avg"] for state in moments],
        [state["exp_avg_sq"] for state in moments],
    ):
        for number, network in enumerate(networks):
            for layer, (weight, bias) in enumerate(zip(values[:3], values[3:], strict=True)):
                weight, bias = weight[number].detach().clone(), bias[number, 0].detach().clone()
                above, below = network.weights[layer].shape
                assert (weight[:above, :below] != 0).any()
                weight[:above, :below] = bias[:above] = 0
                assert not weight.any()
                assert not bias.any()


def test_company_and_order_change_nothing_but_last_bits(rng, samples):
    networks = networks_of(rng)
    runs = [TrainingRun(1e-3, 0.5, "same name", number // 2) for number in range(4)]
    together = train_together(networks, runs, *samples, epochs=3)
    backwards = train_together(networks[::-1], runs[::-1], *samples, epochs=3)[::-1]
    for network, run, one, other in zip(networks, runs, together, backwards, strict=True):
        (alone,) = train_together([network], [run], *samples, epochs=3)
        for result in (alone, other):
            assert_close(result.network, one.network.weights, one.network.biases, 1e-5)
            np.testing.assert_allclose(result.train_loss, one.train_loss, rtol=1e-5)
    (other_dropout,) = train_together([networks[0]], [TrainingRun(1e-3, 0.5, "other name")], *samples, epochs=3)
    assert np.abs(other_dropout.network.weights[0] - together[0].network.weights[0]).max() > 1e-3


def test_the_same_call_gives_the_same_bytes_whatever_the_callers_state(rng, samples):
    networks = networks_of(rng) + networks_of(rng, linear=True)
    runs = [TrainingRun([1e-3, 1e-2][number % 2], [0.0, 0.3][number % 3 > 0], seed=number) for number in range(8)]

    def train():
        return contents(train_together(networks, runs, *samples, epochs=2))

    expected, state = train(), torch.get_rng_state()
    try:
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        with torch.inference_mode():
            assert train() == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        assert train() == expected
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)


def test_stacks_cost_least_and_hold_one_learning_rate_kind_and_depth(rng):
    hidden = [(8 * size, 4 * size) for size in (40, 3, 20, 21, 2, 41, 44, 30)]
    networks = networks_of(rng, hidden=hidden)
    runs = [TrainingRun(1e-3)] * len(networks)

    def cost(stack):
        largest = [max(layer) for layer in zip(*(networks[number].sizes for number in stack), strict=True)]
        parameters = sum(units * (below + 1) for below, units in itertools.pairwise(largest))
        return OVERHEAD + len(stack) * parameters

    by_size = sorted(range(len(networks)), key=lambda number: networks[number].parameters)
    every = []
    for cuts in itertools.product([False, True], repeat=len(networks) - 1):
        ends = [0, *(place + 1 for place, cut in enumerate(cuts) if cut), len(networks)]
        every.append([by_size[first:last] for first, last in itertools.pairwise(ends)])
    assert stacks_of(networks, runs) == min(every, key=lambda stacks: sum(map(cost, stacks)))
    assert 1 < len(stacks_of(networks, runs)) < len(networks)

    others = [*networks_of(rng), *networks_of(rng, linear=True), *networks_of(rng, hidden=[(3,)] * 4)]
    runs = [TrainingRun([1e-3, 1e-2][number % 2]) for number in range(12)]
    assert sorted(map(sorted, stacks_of(others, runs))) == [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9, 11]]
    small = networks_of(rng, hidden=[(2, 2)] * (MOST_AT_ONCE + 1))
    assert max(map(len, stacks_of(small, [TrainingRun(1e-3)] * len(small)))) <= MOST_AT_ONCE


# --- dropout ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dropout", [0.5, 0.25, 0.1, 0.999, 1 / 2**20])
def test_a_neuron_is_left_out_with_the_probability_asked_for(dropout):
    kept = _kept(np.random.default_rng(5), (2000, 100), dropout)
    deviation = np.sqrt(dropout * (1 - dropout) / kept.size)
    assert kept.shape == (2000, 100)
    assert abs((~kept).mean() - dropout) < 5 * deviation + 1e-9


def test_what_is_kept_makes_up_for_what_is_left_out_and_runs_draw_apart(rng):
    networks = networks_of(rng)
    runs = [TrainingRun(1e-3, dropout, "x", seed) for dropout, seed in ((0.75, 1), (0.5, 2), (0.5, 1), (0.0, 1))]
    masks = list(_StackTraining(networks, runs)._masks(1, 1500, 64))
    assert [batch[0].shape for batch in masks[:1] + masks[-1:]] == [(4, 64, 12), (4, 1500 % 64, 12)]
    first, second = (torch.cat([batch[layer] for batch in masks], dim=1).numpy() for layer in (0, 1))
    assert set(np.unique(first[0])) == {0.0, 4.0}
    assert set(np.unique(first[1, :, :7])) == {0.0, 2.0}
    assert (first[3] == 1).all()
    assert (second[3] == 1).all()
    # 18 000 draws: means within 5 standard deviations.
    assert abs(first[0].mean() - 1) < 5 * np.sqrt(3 / first[0].size)
    assert abs(second[1].mean() - 1) < 5 * np.sqrt(1 / second[1].size)
    for one, other in ((first[0, :, :6], second[0]), (first[1, :, :7], first[2, :, :7]), (first[0, 1:], first[0, :-1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(one.size)
    again = list(_StackTraining(networks[:1], runs[:1])._masks(1, 1500, 64))
    assert torch.equal(torch.cat([batch[0] for batch in again], dim=1)[0], torch.tensor(first[0]))
    next_epoch = next(_StackTraining(networks[:1], runs[:1])._masks(2, 1500, 64))
    assert not torch.equal(next_epoch[0], again[0][0])


# --- what goes wrong ----------------------------------------------------------------------------------------------
def test_an_absurd_learning_rate_is_noted_and_leaves_the_last_finite_network(rng, samples):
    networks, seen = networks_of(rng), []
    runs = [TrainingRun(1e-3), TrainingRun(1e15), TrainingRun(1e30), TrainingRun(1e-3)]
    note = lambda number, epoch, network: seen.append((number, epoch, network))  # noqa: E731
    trained = train_together(networks, runs, *samples, epochs=6, after_epoch=note)
    assert [result.diverged_at is None for result in trained] == [True, False, False, True]
    for number in (1, 2):
        result = trained[number]
        assert result.diverged_at >= 1
        assert result.network.finite
        assert np.isfinite(result.train_loss[: result.diverged_at]).all()
        assert np.isnan([*result.train_loss[result.diverged_at :], *result.test_loss[result.diverged_at :]]).all()
        assert len(result.train_loss) == 7
        own = [(epoch, network) for other, epoch, network in seen if other == number]
        assert [epoch for epoch, _ in own] == list(range(result.diverged_at))
        assert_close(result.network, own[-1][1].weights, own[-1][1].biases, 0)
    assert all(np.isfinite(trained[number].test_loss).all() for number in (0, 3))


def test_a_network_that_diverges_reaches_no_other_in_its_stack(rng, samples):
    """What stands in its place, of the same sizes, changes not one bit of the others."""
    networks = networks_of(rng)
    huge = Perceptron(tuple(weight * np.float32(1e18) for weight in networks[1].weights), networks[1].biases, False)
    runs = [TrainingRun(1e-2, [0.0, 0.5][number % 2], seed=number) for number in range(4)]
    tame = train_together(networks, runs, *samples, epochs=3)
    beside = train_together([networks[0], huge, *networks[2:]], runs, *samples, epochs=3)
    assert len(stacks_of(networks, runs)) == 1
    assert beside[1].diverged_at == 0
    assert np.isnan(beside[1].train_loss).all()
    assert_close(beside[1].network, huge.weights, huge.biases, 0)
    assert [contents(tame)[number] for number in (0, 2, 3)] == [contents(beside)[number] for number in (0, 2, 3)]


def test_what_cannot_be_trained_is_refused(rng, samples):
    (network, *_), run = networks_of(rng), TrainingRun(1e-3)
    inputs, outputs, *test = samples
    for rate in (0, -1.0, float("nan"), float("inf"), "fast", True):
        with pytest.raises(RequestError, match=r"learning_rate is .*; a positive number was expected"):
            TrainingRun(rate)
    for dropout in (1.0, -0.1, float("nan"), None):
        with pytest.raises(RequestError, match=r"dropout is .*; a number from 0 to below 1 was expected"):
            TrainingRun(1e-3, dropout)
    with pytest.raises(RequestError, match="seed is -1"):
        TrainingRun(1e-3, seed=-1)
    with pytest.raises(RequestError, match="2 networks and 1 runs were given"):
        train_together([network] * 2, [run], *samples, epochs=1)
    with pytest.raises(RequestError, match=r"training inputs are float32 of shape \(150, 3\); float32 \[samples, 4\]"):
        train_together([network], [run], inputs[:, :3], outputs, *test, epochs=1)
    with pytest.raises(RequestError, match="test outputs are float64"):
        train_together([network], [run], inputs, outputs, test[0], test[1].astype(float), epochs=1)
    with pytest.raises(RequestError, match="training has 150 inputs and 149 outputs"):
        train_together([network], [run], inputs, outputs[:-1], *test, epochs=1)
    with pytest.raises(RequestError, match=r"test inputs are float32 of shape \(0, 4\)"):
        train_together([network], [run], inputs, outputs, test[0][:0], test[1][:0], epochs=1)
    holed = inputs.copy()
    holed[3, 1] = np.nan
    with pytest.raises(RequestError, match="training inputs hold NaN or infinity"):
        train_together([network], [run], holed, outputs, *test, epochs=1)
    for settings, name in (({"epochs": -1}, "epochs"), ({"epochs": 1, "batch_size": 0}, "batch_size")):
        with pytest.raises(RequestError, match=f"{name} is "):
            train_together([network], [run], *samples, **settings)
