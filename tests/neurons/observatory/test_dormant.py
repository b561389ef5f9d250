"""Dormant neurons: scores beside a loop and beside the formula of the authors' code, and neurons that are planted."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from neurons.observatory.hand_made import check_names, fact, found_in, gelu, numbers, relu, value  # noqa: E402
from neurons.observatory.planted_model import DEAD, DORMANT, HIDDEN_LAYER, planted_model, planted_text  # noqa: E402

from ninscope.neurons import look  # noqa: E402
from ninscope.neurons.observatory.examples import Examples  # noqa: E402
from ninscope.neurons.observatory.passes import observe  # noqa: E402
from ninscope.neurons.observatory.registry import chosen  # noqa: E402
from ninscope.neurons.observatory.subject import Subject  # noqa: E402

RNG = np.random.default_rng(5)
SCALES = np.exp(RNG.normal(size=9))
DRAWN = (SCALES * RNG.normal(size=(8, 12, 9))).astype(np.float32)


def naive_scores(values):
    """The authors' formula, neuron by neuron."""
    means = []
    for neuron in range(values.shape[2]):
        total = 0.0
        for row in values[:, :, neuron].reshape(-1):
            total += abs(float(row))
        means.append(total / values[:, :, neuron].size)
    return np.array(means) / (sum(means) / len(means) + 1e-9)


@pytest.mark.parametrize("activation", [relu, gelu, np.tanh])
@pytest.mark.usefixtures("way_of_counting")
def test_scores_are_those_of_the_formula(activation):
    layers = {"a": activation(DRAWN), "b": activation(DRAWN[..., :4])}
    found = found_in("dormant", layers)
    check_names("dormant", found)
    for layer, values in layers.items():
        np.testing.assert_allclose(numbers(found, "dormant_score", layer), naive_scores(values), rtol=1e-6)
    assert value(found, "dormant_score", "a") == pytest.approx(1, abs=1e-7)


def test_planted_neurons_are_dormant_at_their_tau():
    values = np.ones((4, 6, 10), np.float32)
    values[..., 0], values[..., 1], values[..., 2] = 0, 0.015, -0.06  # of a mean of .7075: scores 0, .021, .085
    found = found_in("dormant", {"m": values})
    scores = naive_scores(values)
    assert scores[1] < 0.025 < scores[2] < 0.1
    assert value(found, "dormant", "m") == pytest.approx(0.2)
    assert value(found, "dormant_tau_0.1", "m") == pytest.approx(0.3)
    assert fact(found, "dormant", "m").count == 10


def test_a_layer_of_zeros_is_dormant_and_a_small_one_is_not():
    layers = {"zeros": np.zeros((2, 3, 4), np.float32), "small": np.full((2, 3, 4), 1e-3, np.float32)}
    found = found_in("dormant", layers)
    assert value(found, "dormant", "zeros") == 1
    assert value(found, "dormant", "small") == 0
    assert value(found, "dormant") == pytest.approx(0.5)


def test_positions_of_a_convolution_are_space():
    """A feature map that is on in one corner is averaged over the whole image, as a view with channels last shows it."""
    images = np.ones((2, 5, 6, 6), np.float32)
    images[:, 3] = 0
    images[:, 3, 0, 0] = 0.9  # a mean of .9 / 36 = .025; the layer's mean is .805
    rows = torch.from_numpy(images).flatten(2).transpose(1, 2)
    found = found_in("dormant", {"conv": rows})
    np.testing.assert_allclose(numbers(found, "dormant_score", "conv")[3], 0.025 / 0.805, rtol=1e-6)
    assert (value(found, "dormant", "conv"), value(found, "dormant_tau_0.1", "conv")) == (0, pytest.approx(0.2))


def test_neurons_that_are_alike_are_never_dormant_by_chance():
    noise = np.random.default_rng(6).normal(size=(10, 40, 200))
    assert value(found_in("dormant", {"m": relu(noise)}), "dormant_tau_0.1", "m") == 0


def test_float16_sums_do_not_overflow():
    values = np.full((3, 100, 4), 3e4, np.float32)
    found = found_in("dormant", {"m": values}, dtype=torch.float16)
    np.testing.assert_allclose(numbers(found, "dormant_score", "m"), 1, rtol=1e-6)


def test_a_real_model_has_its_planted_neurons():
    model, text = planted_model(), planted_text(12)
    (seen,) = observe(Subject("planted", model, Examples("tokens", text)), chosen("dormant"))
    scores = numbers(seen.found, "dormant_score", HIDDEN_LAYER)
    assert scores[DEAD] == 0
    assert 0 < scores[DORMANT] < 0.025
    frame = look(model, text, ["dormant"], controls="none")
    row = frame[(frame.measure == "dormant") & (frame.layer == HIDDEN_LAYER)].iloc[0]
    assert row.value == pytest.approx(2 / 128)
