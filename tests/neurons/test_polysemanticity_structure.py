"""What weights and activations of a perceptron say: numbers of the plain oracle, what changes nothing, and what is refused."""

import math
from dataclasses import astuple, replace
from itertools import pairwise

import naive
import numpy as np
import pytest

import ninscope
from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.polysemanticity.structure import (
    NetworkMeasures,
    chain,
    network_measures,
    prepared_start,
    sub_network,
)
from ninscope.parameters import Parameters
from ninscope.weights.statistics import rms_of

SIZES = (12, 40, 24, 2)
Q = np.arange(-3, 3.1, 0.5)
EXACT = Parameters("all", q=Q)


def weights_of(rng, sizes=SIZES, scale=1.0, spread=0.0):
    """As nn.Linear draws them; spread: of the neurons' own scales, log-normal."""
    return [
        (rng.uniform(-1, 1, (units, inputs)) / math.sqrt(inputs) * scale * rng.lognormal(0, spread, inputs)).astype(
            np.float32
        )
        for inputs, units in pairwise(sizes)
    ]


def numbers(measures):
    return np.array([value for value in astuple(measures) if isinstance(value, float)])


def plain(matrices):
    """(alpha0, width) of the naive twin: every unit but those of the last layer, with its out-going edges."""
    nodes = [column for matrix in matrices for column in np.asarray(matrix, np.float64).T]
    found = naive.spectrum([naive.distances_of(column) for column in nodes], Q)
    return found["alpha0"], found["width"]


def at_rms(matrices, wanted):
    own = [np.asarray(matrix, np.float64) for matrix in matrices]
    return [matrix * (rms / math.sqrt((matrix**2).mean())) for matrix, rms in zip(own, wanted, strict=True)]


def rms(matrices):
    return [math.sqrt((np.asarray(matrix, np.float64) ** 2).mean()) for matrix in matrices]


def emergence(now, start):
    return now[1] / start[1] * math.log(start[0] / now[0])


@pytest.fixture
def start(rng):
    return weights_of(rng)


# --- the network --------------------------------------------------------------------------------------------
def test_every_number_is_that_of_the_plain_oracle(rng, start):
    now = weights_of(rng, scale=1.3, spread=0.4)
    found, before = network_measures(now, start, EXACT), plain(start)
    assert (found.alpha0, found.width) == pytest.approx(plain(now), rel=1e-9)
    assert found.emergence == pytest.approx(emergence(plain(now), before), rel=1e-8)
    assert found.emergence_growth == pytest.approx(emergence(plain(at_rms(start, rms(now))), before), rel=1e-8)
    assert found.emergence_fixed == pytest.approx(emergence(plain(at_rms(now, rms(start))), before), rel=1e-8)
    unit = plain(at_rms(now, [0.1] * len(now)))
    assert (found.alpha0_unit, found.width_unit) == pytest.approx(unit, rel=1e-9)


def test_it_is_what_measure_says_of_a_described_model(rng):
    weights = weights_of(rng)
    held = {f"layers.{number}.weight": matrix for number, matrix in enumerate(weights)}
    measured = ninscope.measure(held, architecture=chain(len(weights)))
    found = network_measures(weights)
    assert (found.alpha0, found.width, found.warning) == (measured.alpha0, measured.width, measured.warning)
    assert measured.message in found.message
    assert [layer.layer for layer in measured.layers] == ["input", "hidden1", "hidden2"]


def test_a_scaled_copy_has_growth_alone(start):
    found = network_measures(
        [matrix * np.float32(factor) for matrix, factor in zip(start, (4, 2, 1), strict=True)], start
    )
    assert abs(found.emergence) > 0.01
    assert found.emergence_growth == pytest.approx(found.emergence, abs=1e-9)
    assert found.emergence_fixed == pytest.approx(0, abs=1e-9)
    unscaled = network_measures(start)
    assert (found.width_unit, found.structure) == pytest.approx((unscaled.width_unit, unscaled.structure), rel=1e-9)


def test_the_start_itself_has_neither(start):
    found = network_measures([matrix.copy() for matrix in start], start)
    assert (found.emergence, found.emergence_growth, found.emergence_fixed) == (0, 0, 0)
    alone = network_measures(start)
    assert (found.alpha0, found.width, found.structure) == (alone.alpha0, alone.width, alone.structure)


def test_hidden_neurons_may_be_permuted(rng, start):
    now = weights_of(rng, scale=1.3, spread=0.4)
    orders = [rng.permutation(size) for size in SIZES[1:-1]]
    found = network_measures(sub_network(now, orders), sub_network(start, orders))
    assert numbers(found) == pytest.approx(numbers(network_measures(now, start)), rel=1e-10)


def test_structure_is_what_shuffling_destroys(rng):
    """Of five shuffles of each: in networks this small one alone may be off by .2."""
    weights = weights_of(rng, (32, 128, 64, 2), spread=0.6)
    shuffled = [[rng.permuted(matrix.reshape(-1)).reshape(matrix.shape) for matrix in weights] for _ in range(5)]
    assert network_measures(weights).structure > 0.5
    assert abs(np.mean([network_measures(some).structure for some in shuffled])) < 0.2


def test_the_same_bytes_come_out_again(rng, start):
    now = weights_of(rng, scale=1.3)
    prepared = prepared_start(start)
    found = network_measures(now, start, seed=3)
    assert numbers(network_measures(now, prepared, seed=3)).tobytes() == numbers(found).tobytes()
    assert network_measures(now, prepared, seed=4).structure != found.structure
    for matrix in start:  # training goes on in the same arrays
        matrix *= 2
    assert network_measures(now, prepared, seed=3) == found


def test_parameters_are_those_of_the_start(rng, start):
    now = weights_of(rng, scale=1.3)
    chosen = replace(EXACT, min_degree=5, transfer="coth")
    assert network_measures(now, prepared_start(start, chosen)) == network_measures(now, start, chosen)
    assert network_measures(now, start, chosen) != network_measures(now, start)


def test_layers_without_a_neuron_that_counts_are_named(rng):
    assert "no node of hidden2 has enough edges" in network_measures(weights_of(rng)).message
    many = network_measures(weights_of(rng, (12, 40, 24, 20)))
    assert many.message == "no E: no start was given"


def test_a_network_too_small_has_no_numbers_and_says_so(rng):
    small = weights_of(rng, (3, 4, 2))
    found = network_measures(small, small)
    assert np.isnan(numbers(found)).all()
    assert "no node has enough edges within the distance bounds" in found.message
    assert "no E: the start has no spectrum" in found.message


def test_e_of_unlike_counts_is_withheld(start):
    now = [start[0], start[1] * np.float32(1e-4), start[2]]  # beyond the longest distance: no neuron of hidden1 counts
    found = network_measures(now, start)
    assert math.isnan(found.emergence)
    assert "no E: it would compare unlike networks: 1 layers count (the start: 2)" in found.message
    assert not math.isnan(found.emergence_fixed)
    assert not math.isnan(network_measures(now, start, trust_unlike_counts=True).emergence)


def test_a_layer_of_zeros_is_said(start):
    found = network_measures([start[0], np.zeros_like(start[1]), start[2]], start)
    assert "hidden1 -> hidden2 holds nothing but zeros" in found.message
    assert not math.isnan(found.width_unit)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(start, value):
    now = [matrix.copy() for matrix in start]
    now[1][3, 5] = value
    with pytest.raises(CheckpointError, match=r"layers\.1\.weight.*(NaN|infinity)") as caught:
        network_measures(now, start)
    assert caught.value.status == "nonfinite"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda weights: [], "without weights"),
        (lambda weights: [weights[0].astype(np.float64), *weights[1:]], "layer 1 are float64 .* float32"),
        (lambda weights: [weights[0][0], *weights[1:]], r"layer 1 are float32 of shape \[12\]"),
        (lambda weights: [weights[0][:0], *weights[1:]], r"shape \[0, 12\]"),
        (lambda weights: weights[::-1], "layer 2 read 40 neurons, and layer 1 has 2"),
        (
            lambda weights: sub_network(weights, [np.arange(20), np.arange(24)]),
            "12-20-24-2 .* 12-40-24-2; .*sub_network",
        ),
    ],
)
def test_other_weights_are_refused(start, change, says):
    with pytest.raises(RequestError, match=says):
        network_measures(change(start), start)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (Parameters(), 'nodes_per_layer = "all"'),
        (Parameters("all", layers_crossed=2), "leave layers_crossed and direction out"),
        (Parameters("all", direction="in"), "leave layers_crossed and direction out"),
        (Parameters("all", radii={"log": 20}), 'radii = "integer"'),
        (Parameters("all", architecture=chain(3)), "leave architecture out"),
    ],
)
def test_parameters_without_controls_are_refused(start, parameters, says):
    with pytest.raises(RequestError, match=says):
        prepared_start(start, parameters)
    with pytest.raises(RequestError, match=says):
        network_measures(start, parameters=parameters)


def test_parameters_beside_a_prepared_start_are_refused(start):
    with pytest.raises(RequestError, match="give them to prepared_start alone"):
        network_measures(start, prepared_start(start), EXACT)


def test_a_root_mean_square_is_that_of_the_stage(rng):
    from ninscope.checkpoints.in_memory import REVISION, in_memory_source
    from ninscope.networks.neuron_network import neuron_network
    from ninscope.weights.counting import network_weights

    weights = weights_of(rng, (7, 130, 65, 2), spread=1.0)
    held = {f"layers.{number}.weight": matrix for number, matrix in enumerate(weights)}
    network = neuron_network(in_memory_source(held).open(REVISION), Parameters("all", architecture=chain(3)).reading)
    assert list(network_weights(network).rms.values()) == [rms_of(matrix) for matrix in weights]


# --- a pruned network ---------------------------------------------------------------------------------------
def test_a_sub_network_has_the_weights_among_what_is_kept(rng, start):
    kept = [np.sort(rng.choice(size, size // 2, replace=False)) for size in SIZES[1:-1]]
    found = sub_network(start, kept)
    assert [matrix.shape for matrix in found] == [(20, 12), (12, 20), (2, 12)]
    for row, neuron in enumerate(kept[1]):
        for column, source in enumerate(kept[0]):
            assert found[1][row, column] == start[1][neuron, source]
    np.testing.assert_array_equal(found[0], start[0][kept[0]])
    np.testing.assert_array_equal(found[2], start[2][:, kept[1]])


def test_a_pruned_network_is_compared_with_its_own_start(rng, start):
    kept = [np.arange(0, size, 2) for size in SIZES[1:-1]]
    own = sub_network(start, kept)
    grown = [matrix * np.float32(2) for matrix in own]
    found = network_measures(grown, own, replace(EXACT, min_degree=3))
    assert abs(found.emergence) > 0.01
    assert found.emergence == pytest.approx(found.emergence_growth, abs=1e-9)


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ([np.arange(40)], "neurons of 1 layers; the network has 2 hidden ones"),
        ([np.arange(40), np.arange(0)], r"hidden layer 2 are int64 of shape \[0\]"),
        ([np.arange(40), np.ones(24)], "hidden layer 2 are float64"),
        ([np.array([0, 40]), np.arange(24)], "hidden layer 1 must be different numbers from 0 to 39"),
        ([np.array([-1, 4]), np.arange(24)], "hidden layer 1 must be different"),
        ([np.array([4, 4]), np.arange(24)], "hidden layer 1 must be different"),
    ],
)
def test_neurons_that_are_not_there_are_refused(start, kept, says):
    with pytest.raises(RequestError, match=says):
        sub_network(start, kept)


def test_the_fields_are_those_of_the_table():
    names = (
        "alpha0",
        "width",
        "emergence",
        "emergence_growth",
        "emergence_fixed",
        "alpha0_unit",
        "width_unit",
        "structure",
    )
    assert tuple(NetworkMeasures.__dataclass_fields__) == (*names, "message", "warning")
