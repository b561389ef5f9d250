"""Features of trained models: directions of labelled data and controls by loops; P of neurons by hand and through a module."""

import math

import numpy as np
import pandas as pd
import pytest

from ninscope.errors import RequestError
from ninscope.neurons.polysemanticity import (
    control_directions,
    mean_difference_directions,
    polysemanticity_of_module,
    polysemanticity_of_neurons,
    typical_strengths,
)


# --- directions of labelled data ----------------------------------------------------------------------------
def naive_difference(activations, has):
    """Mean of the rows that have it less the mean of the others, entry by entry."""
    width = len(activations[0])
    with_it = [row for row, yes in zip(activations, has, strict=True) if yes]
    others = [row for row, yes in zip(activations, has, strict=True) if not yes]
    return [
        math.fsum(row[i] for row in with_it) / len(with_it) - math.fsum(row[i] for row in others) / len(others)
        for i in range(width)
    ]


@pytest.mark.parametrize("labels", [["b", "a", "c", "a", "b", "b", "c"], [5, -1, 5, 7, 7, 7, -1]], ids=["str", "int"])
def test_directions_of_classes_are_differences_of_means(rng, labels):
    activations = rng.standard_normal((7, 4))
    expected = [naive_difference(activations, [label == one for label in labels]) for one in sorted(set(labels))]
    np.testing.assert_allclose(mean_difference_directions(activations, labels), expected, atol=1e-12)


def test_directions_of_concepts_that_overlap(rng):
    activations = rng.standard_normal((6, 3)).astype(np.float32)
    concepts = np.array([[1, 1], [1, 0], [0, 0], [0, 1], [1, 1], [0, 0]], bool)
    expected = [naive_difference(activations.astype(float), concept) for concept in concepts.T]
    np.testing.assert_allclose(mean_difference_directions(activations, concepts), expected, atol=1e-12)


def test_strings_that_pandas_holds_are_labels(rng):
    activations = rng.standard_normal((5, 3))
    names = ["b", "a", "b", "c", "a"]
    expected = mean_difference_directions(activations, np.array(names))
    for labels in (pd.Series(names), pd.Series(names, dtype=object), pd.Series(names, dtype="string")):
        np.testing.assert_array_equal(mean_difference_directions(pd.DataFrame(activations), labels), expected)


def test_what_was_found_is_shown_in_one_line():
    found = polysemanticity_of_neurons(np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    assert repr(found) == "<NeuronPolysemanticity: 3 neurons, 2 features, mean P 1, D 0.75; .neurons is a table>"


@pytest.mark.parametrize(
    ("activations", "labels", "message"),
    [
        (np.ones((3, 2)), [1, 2], r"labels have shape \[2\]; 3 were expected, one for each sample"),
        (np.ones((3, 2)), [1, 1, 1], "all labels are 1; two classes or more"),
        (np.ones((3, 2)), [1.0, 2.0, 1.0], "labels are of type float64; whole numbers or strings"),
        (
            np.ones((2, 2)),
            [[1, 0], [0, 1]],
            r"labels are of type int64; a matrix \[samples, concepts\] must be bool: labels > 0",
        ),
        (np.ones((2, 2)), np.array(["a", 1], object), "labels are of type object; whole numbers or strings"),
        (np.ones((2, 2)), np.array([[1, 0], [0, 0]], bool), "no sample has concept 1, so it has no direction"),
        (np.ones((2, 2)), np.array([[1, 1], [0, 1]], bool), "all samples have concept 1, so it has no direction"),
        (np.ones(3), [1, 2, 1], r"activations have shape \[3\]"),
        (np.array([[1, np.inf], [0, 1]]), [0, 1], "activations hold NaN or infinity"),
        (np.array([["a", "b"]]), [0], "activations have shape .* and type <U1; numbers"),
    ],
)
def test_labels_that_give_no_directions(activations, labels, message):
    with pytest.raises(RequestError, match=message):
        mean_difference_directions(activations, labels)


def test_typical_strengths_are_means_over_the_samples_that_have_a_feature():
    features = np.array([[0, 2, 0], [0, 0, 5.0], [0, 4, 5], [0, 0, 5]])
    assert typical_strengths(features).tolist() == [0, 3, 5]


# --- controls -----------------------------------------------------------------------------------------------
def test_controls_keep_what_they_should(rng):
    directions = rng.standard_normal((5, 7)) * [[1], [2], [3], [4], [0]]
    rotated, shuffled, random = (control_directions(directions, name) for name in ("rotated", "shuffled", "random"))
    np.testing.assert_allclose(rotated @ rotated.T, directions @ directions.T, atol=1e-12)
    np.testing.assert_array_equal(np.sort(shuffled, axis=1), np.sort(directions, axis=1))
    np.testing.assert_allclose(np.linalg.norm(random, axis=1), np.linalg.norm(directions, axis=1), atol=1e-12)
    for control, changed in (("rotated", rotated), ("shuffled", shuffled), ("random", random)):
        assert abs(changed - directions).max() > 0.1
        np.testing.assert_array_equal(control_directions(directions, control), changed)
        assert abs(control_directions(directions, control, seed=1) - changed).max() > 0.1


def test_a_control_that_is_none():
    with pytest.raises(RequestError, match="control is 'turned'; one of rotated, shuffled, random"):
        control_directions(np.eye(2), "turned")
    with pytest.raises(RequestError, match="seed is -1"):
        control_directions(np.eye(2), seed=-1)


# --- features in the neurons' own space ---------------------------------------------------------------------
def test_two_equal_directions_give_exactly_2_and_a_dead_neuron_0():
    directions = np.array([[1.0, 0, 2, 0], [0, 3, -2, 0], [0, 0, 0, 0]])
    found = polysemanticity_of_neurons(directions, names=["red", "green", "blue"], layer="act")
    table = found.neurons
    assert list(table) == ["layer", "neuron", "P", "entropy", "strongest", "share"]
    assert table["layer"].tolist() == ["act"] * 4
    assert table["neuron"].tolist() == [0, 1, 2, 3]
    assert table["P"].tolist() == [1, 1, 2, 0]
    assert table["share"].tolist() == [1, 1, 0.5, 0]
    np.testing.assert_allclose(table["entropy"], [0, 0, math.log(2) / math.log(3), 0])
    assert table["strongest"].tolist()[:3] == ["red", "green", "red"]
    assert table["strongest"].isna().tolist() == [False, False, False, True]
    assert found.feature_dimensionality == pytest.approx((1 + 1 + 0) / 3)
    np.testing.assert_array_equal(found.gradients, directions.T)


def test_strengths_are_the_units_of_features():
    directions = np.array([[1.0, 1], [1, 0], [1, -1]])
    found = polysemanticity_of_neurons(directions, [4, 2, 2])
    assert found.neurons["P"].tolist() == [2, 1.5]
    assert found.neurons["strongest"].tolist() == [0, 0]
    doubled = polysemanticity_of_neurons(directions, [8, 4, 4])
    assert doubled.neurons.equals(found.neurons)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(3),), r"directions have shape \[3\]; numbers \[features, width\]"),
        ((np.array([[1.0], [np.nan]]),), "direction 1 holds NaN or infinity; leave it out"),
        ((np.eye(3), [1, 2]), r"strengths have shape \[2\]; 3 were expected, one a direction"),
        ((np.eye(2), [1, -2]), "strengths must be finite and not negative; a sign belongs to the direction"),
    ],
)
def test_directions_that_are_none(arguments, message):
    with pytest.raises(RequestError, match=message):
        polysemanticity_of_neurons(*arguments)


def test_tensors_are_read_in_any_type_of_floats():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    directions = torch.tensor([[1.0, 0.5], [1.0, 2.0]], requires_grad=True)
    for kind in (torch.bfloat16, torch.float16, torch.float64):  # numpy has no bfloat16
        found = polysemanticity_of_neurons(directions.to(kind), torch.tensor([2.0, 1.0], dtype=kind))
        assert found.neurons["P"].tolist() == [1.5, 1.5]
        given = mean_difference_directions(directions.to(kind), torch.tensor([0, 1]))
        assert given.tolist() == [[0.0, -1.5], [0.0, 1.5]]


def test_as_many_names_as_features():
    with pytest.raises(RequestError, match="names are 1, and there are 2 features; give a name to each"):
        polysemanticity_of_neurons(np.eye(2), names=["one"])


# --- features before the neurons ----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def layers():
    """(two matrices and biases, a torch module of them with tanh after the first)."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    draws = np.random.default_rng(5)
    matrices = [draws.standard_normal(shape) for shape in ((6, 4), (3, 6))]
    biases = [draws.standard_normal(size) for size in (6, 3)]
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).double()
    with torch.no_grad():
        for layer, matrix, bias in zip((module[0], module[2]), matrices, biases, strict=True):
            layer.weight.copy_(torch.from_numpy(matrix))
            layer.bias.copy_(torch.from_numpy(bias))
    return matrices, biases, module


def naive_gradients(matrix, bias, baseline, units, steps=50):
    """Integrated gradients of tanh(matrix x + bias): tanh' on the way from the baseline to it plus a unit, by loops."""
    gradients = np.zeros((len(matrix), len(units)))
    for neuron, (row, offset) in enumerate(zip(matrix, bias, strict=True)):
        for feature, unit in enumerate(units):
            for k in range(1, steps + 1):
                x = baseline + unit * k / steps
                gradients[neuron, feature] += (1 - math.tanh(row @ x + offset) ** 2) * (row @ unit) / steps
    return gradients


@pytest.mark.parametrize("steps", [50, 7])
def test_gradients_through_a_module_are_integrated_along_each_direction(layers, rng, steps):
    (matrix, _), (bias, _), module = layers
    directions, strengths = rng.standard_normal((5, 4)), rng.random(5) + 0.5
    for baseline in (None, rng.standard_normal(4)):
        found = polysemanticity_of_module(module, directions, strengths, baseline=baseline, steps=steps)
        start = np.zeros(4) if baseline is None else baseline
        expected = naive_gradients(matrix, bias, start, strengths[:, None] * directions, steps)
        np.testing.assert_allclose(found.gradients, expected, atol=1e-9)
        sizes = abs(expected)
        np.testing.assert_allclose(found.neurons["P"], sizes.sum(1) / sizes.max(1), rtol=1e-7)
        assert found.neurons["layer"].tolist() == ["0"] * 6


def test_layers_by_name_come_side_by_side(layers, rng):
    (first, _), (bias, _), module = layers
    directions = rng.standard_normal((2, 4))
    found = polysemanticity_of_module(module, directions, layers=["0", "2"], names=["up", "down"])
    assert found.neurons["layer"].tolist() == ["0"] * 6 + ["2"] * 3
    assert found.neurons["neuron"].tolist() == [*range(6), *range(3)]
    np.testing.assert_allclose(found.gradients[:6], naive_gradients(first, bias, np.zeros(4), directions), atol=1e-9)
    assert set(found.neurons["strongest"]) <= {"up", "down"}


def test_a_module_that_takes_tokens(layers, rng):
    """The same activations at every token, by `shape`: the mean over tokens is that of one."""
    _, _, module = layers
    directions = rng.standard_normal((3, 4))
    plain = polysemanticity_of_module(module, directions)
    tokens = polysemanticity_of_module(module, directions, shape=lambda x: x[:, None].expand(-1, 5, -1))
    np.testing.assert_allclose(tokens.gradients, plain.gradients, atol=1e-12)


def test_what_does_not_fit_the_module(layers):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    _, _, module = layers
    with pytest.raises(
        RequestError, match=r"takes inputs of width 4, and its input has width 7; give directions of that"
    ):
        polysemanticity_of_module(module, np.eye(7))
    with pytest.raises(RequestError, match=r"the model is a function; a torch.nn.Module was expected"):
        polysemanticity_of_module(lambda x: x, np.eye(4))
    with pytest.raises(RequestError, match=r"shape is \(1, 4\); a function was expected"):
        polysemanticity_of_module(module, np.eye(4), shape=(1, 4))
    with pytest.raises(RequestError, match=r"Given normalized_shape=\[4\].* got input of size ?\[1, 7\]"):
        polysemanticity_of_module(torch.nn.Sequential(torch.nn.LayerNorm(4), *module).double(), np.eye(7))
    with pytest.raises(RequestError, match=r"baseline has shape \[7\]; 4 finite numbers were expected, the width"):
        polysemanticity_of_module(module, np.eye(4), baseline=np.zeros(7))
    with pytest.raises(RequestError, match="a ReLU has no Linear or convolution layer; name the modules"):
        polysemanticity_of_module(torch.nn.ReLU(), np.eye(4))
    with pytest.raises(RequestError, match="layer 'act' is no module of the model"):
        polysemanticity_of_module(module, np.eye(4), layers="act")


# --- what is given -------------------------------------------------------------------------------------------
def test_tensors_that_numpy_has_no_type_for(layers, rng):
    """bfloat16, in which models and autoencoders are kept, is read exactly as the same numbers of float32."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    _, _, module = layers
    short = {name: torch.tensor(rng.random(shape)).bfloat16() for name, shape in
             (("directions", (3, 4)), ("strengths", (3,)), ("baseline", (4,)), ("activations", (6, 4)))}  # fmt: skip
    plain = {name: tensor.float().numpy() for name, tensor in short.items()}
    labels = [0, 1, 1, 0, 1, 0]
    for given, same in ((short, plain), (short | {"directions": short["directions"].to_sparse()}, plain)):
        for measure, names in ((polysemanticity_of_neurons, ("directions", "strengths")),
                               (polysemanticity_of_module, ("directions", "strengths", "baseline"))):  # fmt: skip
            where = (module,) if "baseline" in names else ()
            found, expected = (measure(*where, **{name: values[name] for name in names}) for values in (given, same))
            np.testing.assert_array_equal(found.gradients, expected.gradients)
    for function, more in ((mean_difference_directions, (torch.tensor(labels),)), (typical_strengths, ())):
        np.testing.assert_array_equal(function(short["activations"], *more), function(plain["activations"], *more))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: polysemanticity_of_neurons([[1], [1, 2]]), "directions are no array; give all rows the same length"),
        (lambda: polysemanticity_of_neurons([[1, 2]], ["a"]), "strengths are of type <U1; real numbers were expected"),
        (lambda: mean_difference_directions([[1], [1, 2]], [0, 1]), "activations are no array; give all rows the same"),
        (lambda: mean_difference_directions([[1], [2]], [[True], []]), "labels are no array; give all rows the same"),
    ],
)
def test_what_is_no_array_of_numbers(call, message):
    with pytest.raises(RequestError, match=message):
        call()
