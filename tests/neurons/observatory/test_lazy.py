"""The share of activations that are on, beside a loop, and where it is known."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from neurons.observatory.hand_made import check_names, fact, found_in, gelu, relu, value  # noqa: E402

from ninscope.errors import CheckpointError  # noqa: E402

RNG = np.random.default_rng(3)
DRAWN = RNG.normal(0.4, 1, (7, 5, 6)).astype(np.float32)
WIDER = RNG.normal(-0.4, 1, (7, 5, 11)).astype(np.float32)


def naive_share(values):
    count = 0
    for number in values.reshape(-1):
        count += number > 0
    return count / values.size


@pytest.mark.parametrize("activation", [relu, gelu])
@pytest.mark.usefixtures("way_of_counting")
def test_the_share_is_that_of_a_loop(activation):
    layers = {"a": activation(DRAWN), "b": activation(WIDER)}
    found = found_in("lazy", layers)
    check_names("lazy", found)
    for name, values in layers.items():
        assert value(found, "lazy", name) == pytest.approx(naive_share(values), abs=1e-12)
        assert fact(found, "lazy", name).count == 35
    both = np.concatenate([values.reshape(-1) for values in layers.values()])
    assert value(found, "lazy") == pytest.approx(naive_share(both), abs=1e-12)


def test_one_planted_activation_in_a_hundred():
    values = np.zeros((5, 4, 10), np.float32)
    values[1, 2, 3] = values[4, 0, 9] = 1
    assert value(found_in("lazy", {"m": values}), "lazy", "m") == pytest.approx(0.01)


def test_half_of_symmetric_noise_is_on():
    noise = np.random.default_rng(4).normal(size=(20, 50, 40))
    share = value(found_in("lazy", {"m": relu(noise)}), "lazy", "m")
    assert share == pytest.approx(0.5, abs=4 * 0.5 / noise.size**0.5)  # four standard deviations of a share


def test_rows_of_experts_count_and_an_expert_without_rows_has_none():
    layers = {"e0": relu(DRAWN)[:1], "e1": np.zeros((1, 0, 6), np.float32)}
    found = found_in("lazy", layers, routed=("e0", "e1"))
    assert value(found, "lazy", "e0") == pytest.approx(naive_share(relu(DRAWN)[:1]))
    assert {one.layer for one in found.facts} == {"e0", "all"}


def test_nothing_seen_is_said():
    with pytest.raises(CheckpointError, match="lazy: no activation of a hidden neuron was seen"):
        found_in("lazy", {"e0": np.zeros((1, 0, 6), np.float32)}, routed=("e0",))
