"""Dead neurons, firing frequencies and kurtosis: beside loops, in closed form, and where they are planted."""

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from neurons.observatory.hand_made import check_names, fact, found_in, gelu, numbers, relu, value  # noqa: E402
from neurons.observatory.planted_model import (  # noqa: E402
    DEAD,
    DETECTOR,
    EARLY,
    HIDDEN_LAYER,
    POSITIONAL,
    TOKEN,
    WINDOW,
    planted_model,
    planted_text,
)

from ninscope.neurons import look  # noqa: E402
from ninscope.neurons.observatory.examples import Examples  # noqa: E402
from ninscope.neurons.observatory.passes import observe  # noqa: E402
from ninscope.neurons.observatory.registry import chosen  # noqa: E402
from ninscope.neurons.observatory.subject import Subject  # noqa: E402

RNG = np.random.default_rng(8)
DRAWN = RNG.normal(RNG.normal(size=14), 1, (10, 17, 14)).astype(np.float32)
DRAWN[..., 4] = -30  # GELU gives zero there
DRAWN[..., 9] = -2.5


def naive(values, bound):
    """Dead, frequency, kurtosis of each neuron."""
    dead, frequency, kurtosis = [], [], []
    for neuron in range(values.shape[2]):
        series = values[:, :, neuron].reshape(-1).astype(np.float64)
        dead.append(max(abs(number) for number in series) <= bound)
        frequency.append(sum(number > 0 for number in series) / len(series))
        constant = len(set(series)) == 1
        kurtosis.append(np.nan if constant else stats.kurtosis(series, fisher=False))
    return np.array(dead), np.array(frequency), np.array(kurtosis)


@pytest.mark.parametrize(("activation", "smooth"), [(relu, False), (gelu, True)])
@pytest.mark.usefixtures("way_of_counting")
def test_all_numbers_are_those_of_loops(activation, smooth):
    values = activation(DRAWN)
    found = found_in("dead", {"m": values})
    check_names("dead", found)
    bound = 0.01 * np.sqrt(np.mean(values.astype(np.float64) ** 2)) if smooth else 0
    assert value(found, "dead_bound", "m") == pytest.approx(bound, rel=1e-6)
    dead, frequency, kurtosis = naive(values, bound)
    assert value(found, "dead", "m") == dead.mean() > 0
    assert value(found, "dead_never_on", "m") == np.mean(frequency == 0) > 0
    np.testing.assert_allclose(numbers(found, "dead_firing_frequency", "m"), frequency, rtol=1e-12)
    np.testing.assert_allclose(numbers(found, "dead_kurtosis", "m"), kurtosis, rtol=1e-6)
    assert value(found, "dead_firing_frequency", "m") == pytest.approx(frequency[~dead].mean())
    assert fact(found, "dead_firing_frequency", "m").count == np.sum(~dead)
    assert value(found, "dead_tokens", "m") == 170


def test_a_smooth_neuron_that_is_negative_is_never_on_and_not_dead():
    found = found_in("dead", {"m": gelu(DRAWN)})
    assert value(found, "dead", "m") == pytest.approx(1 / 14)  # neuron 4
    assert value(found, "dead_never_on", "m") == pytest.approx(2 / 14)  # and neuron 9, -.0155 throughout


def test_a_neuron_that_fires_once_is_alive():
    values = np.zeros((6, 30, 5), np.float32)
    values[..., 0] = 1
    values[5, 29, 3] = 1e-6
    found = found_in("dead", {"m": values})
    assert value(found, "dead", "m") == pytest.approx(3 / 5)
    np.testing.assert_allclose(numbers(found, "dead_firing_frequency", "m"), [1, 0, 0, 1 / 180, 0])
    assert value(found, "dead_firing_frequency", "m") == pytest.approx((1 + 1 / 180) / 2)


@pytest.mark.usefixtures("way_of_counting")
def test_behind_a_rectified_gate_what_is_negative_is_alive():
    values = relu(DRAWN) * RNG.normal(size=DRAWN.shape).astype(np.float32)
    values[..., 2] = -np.abs(values[..., 2])
    found = found_in("dead", {"m": values}, gated=("m",))
    assert value(found, "dead", "m") == pytest.approx(2 / 14)  # neurons 4 and 9
    assert (value(found, "dead_smooth", "m"), value(found, "dead_bound", "m")) == (0, 0)


def test_kurtosis_of_distributions_that_are_known():
    """Normal 3, uniform 1.8, two values 1, one in ten 1/p - 3 + ... = (1 - 3pq) / pq; sampling errors at 40,000 draws."""
    rng, shape = np.random.default_rng(9), (40, 1000)
    rare = (rng.uniform(size=shape) < 0.1).astype(float)
    columns = [rng.normal(size=shape), rng.uniform(size=shape), np.sign(rng.normal(size=shape)), rare]
    found = found_in("dead", {"m": np.stack(columns, -1)}, batch_size=16)
    expected = [3, 1.8, 1, (1 - 3 * 0.09) / 0.09]
    np.testing.assert_allclose(numbers(found, "dead_kurtosis", "m"), expected, rtol=0.05)


def test_kurtosis_keeps_its_digits_beside_a_large_mean():
    series = 1000 + np.random.default_rng(10).normal(size=(12, 50, 3))
    values = series.astype(np.float32)
    expected = stats.kurtosis(values.reshape(-1, 3).astype(np.float64), fisher=False)
    np.testing.assert_allclose(numbers(found_in("dead", {"m": values}), "dead_kurtosis", "m"), expected, rtol=1e-5)


@pytest.mark.parametrize("constant", [0, 0.1, -3.3, 1e5])
def test_a_constant_has_no_kurtosis(constant):
    found = found_in("dead", {"m": np.full((4, 37, 2), constant, np.float32)})
    assert np.isnan(numbers(found, "dead_kurtosis", "m")).all()
    assert fact(found, "dead_kurtosis", "m").count == 0


def test_how_many_look_dead_on_few_tokens_is_what_chance_says():
    """Neurons that fire at one token in 100, seen at 100: (1 - .01)^100 of them never do."""
    rng = np.random.default_rng(11)
    values = (rng.uniform(size=(10, 10, 5000)) < 0.01).astype(np.float32)
    expected = 0.99**100
    spread = 4 * np.sqrt(expected * (1 - expected) / 5000)
    assert value(found_in("dead", {"m": values}), "dead", "m") == pytest.approx(expected, abs=spread)


def test_a_layer_without_a_living_neuron():
    found = found_in("dead", {"m": np.zeros((2, 3, 4), np.float32)})
    assert value(found, "dead") == 1
    assert np.isnan(value(found, "dead_firing_frequency"))


def test_a_real_model_has_its_planted_neurons():
    model, text = planted_model(), planted_text()
    (seen,) = observe(Subject("planted", model, Examples("tokens", text)), chosen("dead"))
    frequency = numbers(seen.found, "dead_firing_frequency", HIDDEN_LAYER)
    assert frequency[DEAD] == 0
    assert frequency[DETECTOR] == pytest.approx((text == TOKEN).mean())
    assert frequency[POSITIONAL] == pytest.approx(EARLY / WINDOW)
    frame = look(model, text, ["dead"], controls="none")
    rows = frame[frame.layer == HIDDEN_LAYER].set_index("measure")
    assert rows.loc["dead", "value"] == pytest.approx(1 / 128)
    assert rows.loc["dead_tokens", "value"] == text.size
