"""Losses without the smallest activations: at both ends exactly, between them beside a plain twin."""

import numpy as np
import pytest
import torch
from ablation_models import NEURONS, TOKENS, cycle, llama, neox
from torch import nn

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons import look
from ninscope.neurons.observatory.examples import Examples
from ninscope.neurons.observatory.magnitudes import Silencing, loss_and_largest, loss_without
from ninscope.neurons.observatory.measure import Batch, Place
from ninscope.neurons.observatory.measures import thresholds
from ninscope.neurons.observatory.measures.thresholds import LEVELS, Thresholds, limits_of
from ninscope.neurons.observatory.order_statistics import size_quantiles
from ninscope.neurons.observatory.subject import Subject


def subject_of(model: nn.Module) -> Subject:
    return Subject("the model", model, Examples("tokens", cycle(), batch_size=4))


@pytest.mark.parametrize("way", ["tensor", "channel"])
def test_at_level_1_the_loss_is_that_without_neurons(way: str) -> None:
    # one layer: a second one would be given other inputs than those that its limits were found with
    subject = subject_of(neox("gelu", noise=0.1))
    loss, _ = loss_and_largest(subject)
    assert loss == subject.mean_loss()
    none_left = Silencing(limits_of(subject, way, 0, size_quantiles(subject, [1.0])), inclusive=True)
    assert none_left.mean_loss(subject) == pytest.approx(loss_without(subject, subject.hidden_layers), abs=1e-12)
    assert all((share == 1).all() for share in none_left.shares().values())


def test_where_half_of_the_activations_are_noise_half_cost_nothing() -> None:
    # ReLU: 23 of 24 neurons are 0 at any position, and the one that is not is needed
    frame = look(neox("relu"), cycle(), "thresholds", controls="none").set_index("measure")
    for level in (25, 40, 50, 65, 80, 90):
        assert frame.loc[f"thresholds_tensor_{level}", "value"] == 0
        assert frame.loc[f"thresholds_share_tensor_{level}", "value"] == pytest.approx(1 - 1 / NEURONS, abs=1e-12)
    median = frame.loc["thresholds_median"]
    assert (median["value"], median["count"], median["layer"]) == (0, NEURONS, "block0.m")


def test_main_fact_is_half_per_tensor() -> None:
    frame = look(llama(noise=0.2), cycle(), "thresholds", controls="none").set_index("measure")["value"]
    assert frame["thresholds"] == frame["thresholds_tensor_50"] != frame["thresholds_channel_50"]


# --- a plain twin ---------------------------------------------------------------------------------------------
def naive_rise(model: nn.Module, matrices: list[nn.Module], limits: list) -> float:
    losses = []
    for used in ([0.0] * len(matrices), limits):
        handles = [
            matrix.register_forward_pre_hook(
                lambda _, args, limit=limit: (args[0] * (args[0].abs() > torch.as_tensor(limit)),)
            )
            for matrix, limit in zip(matrices, used, strict=True)
        ]
        with torch.no_grad():
            logs = model(torch.from_numpy(cycle())).logits.double().log_softmax(-1)
        for handle in handles:
            handle.remove()
        losses.append(-logs[:, :-1].gather(-1, torch.from_numpy(cycle())[:, 1:, None]).mean().item())
    return losses[1] - losses[0]


def naive_sizes(model: nn.Module, matrices: list[nn.Module]) -> list[np.ndarray]:
    seen = []
    handles = [
        matrix.register_forward_hook(lambda _, args, __: seen.append(args[0].flatten(0, -2).abs().numpy()))
        for matrix in matrices
    ]
    with torch.no_grad():
        model(torch.from_numpy(cycle()))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("way", ["tensor", "channel"])
def test_twin(way: str) -> None:
    model = neox("gelu", layers=2, noise=0.15)
    matrices = [layer.mlp.dense_4h_to_h for layer in model.gpt_neox.layers]
    sizes = naive_sizes(model, matrices)
    subject = subject_of(model)
    quantiles = size_quantiles(subject, LEVELS)
    frame = look(model, cycle(), "thresholds", controls="none").set_index("measure")["value"]
    for number, level in enumerate(LEVELS):
        limits = list(limits_of(subject, way, number, quantiles).values())
        for limit, size in zip(limits, sizes, strict=True):
            expected = np.quantile(size, level, axis=None if way == "tensor" else 0, method="inverted_cdf")
            np.testing.assert_array_equal(np.asarray(limit, np.float32), expected)
        rise = naive_rise(model, matrices, limits)
        assert frame[f"thresholds_{way}_{round(100 * level)}"] == pytest.approx(rise, abs=1e-6)
    layers = look(model, cycle(), "thresholds", controls="none").set_index(["measure", "layer"])["value"]
    exact = [np.quantile(size, 0.5, axis=0, method="inverted_cdf").mean() for size in sizes]
    assert [layers["thresholds_median", f"block{number}.m"] for number in range(2)] == pytest.approx(exact)


class Fed:
    """What `size_quantiles` asks of a subject. batches: arrays [n, t, neurons]."""

    def __init__(self, *batches: np.ndarray) -> None:
        self.batches = [torch.from_numpy(batch) for batch in batches]

    def run(self, kinds, see) -> None:
        for number, values in enumerate(self.batches):
            see(Place("hidden", "a.m"), values, Batch(number, 0, {}))


@pytest.mark.parametrize("levels", [LEVELS, (0.0, 0.001, 0.5, 0.999, 1.0)])
def test_quantiles_are_those_of_sorted_numbers(levels: tuple) -> None:
    drawn = np.random.default_rng(3)
    values = drawn.normal(size=(2, 3, 50, 7)).astype(np.float32)
    values *= np.float32(10.0) ** drawn.integers(-30, 30, values.shape)
    values[..., 1] = 0
    values[..., 2] = np.float32(-0.17) + drawn.integers(0, 3, values.shape[:-1]) * np.float32(1.5e-8)  # one bit apart
    values[..., 3] = np.where(values[..., 3] > 0, values[..., 3], 0)
    values[0, 0, 0, 4] = np.finfo(np.float32).smallest_subnormal
    found = size_quantiles(Fed(*values), levels)["a.m"]
    sizes = np.sort(np.abs(values).reshape(-1, 7), axis=0)
    whole = np.sort(sizes.ravel())
    for number, level in enumerate(levels):
        ranks = [max(int(np.ceil(level * len(one) - 1e-9)), 1) - 1 for one in (sizes, whole)]
        np.testing.assert_array_equal(found.neurons[:, number], sizes[ranks[0]])
        assert found.layer[number] == whole[ranks[1]]


def test_limits_grow_with_the_level_and_shares_too() -> None:
    model = neox("gelu", layers=2, noise=0.15)
    subject = subject_of(model)
    quantiles = size_quantiles(subject, LEVELS)
    for way in ("tensor", "channel"):
        limits = [
            np.concatenate([np.ravel(one) for one in limits_of(subject, way, number, quantiles).values()])
            for number in range(len(LEVELS))
        ]
        assert (np.diff(limits, axis=0) >= 0).all()
        frame = look(model, cycle(), "thresholds", controls="none").set_index("measure")["value"]
        shares = [frame[f"thresholds_share_{way}_{round(100 * level)}"] for level in LEVELS]
        assert (np.diff(shares) > 0).all()
        assert shares == pytest.approx(LEVELS, abs=0.12)


def test_a_convolutions_channels_are_neurons() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.Flatten()
    )
    images = np.random.default_rng(0).normal(size=(20, 1, 6, 6)).astype(np.float32)
    labels = np.arange(20) % 3
    found = Thresholds().found(Subject("the model", model, Examples("images", images, labels=labels)))
    assert {values.layer: len(values.values) for values in found.values} == {"2.in": 4, "4.in": 4}
    off = {fact.name: fact.value for fact in found.facts}
    assert off["thresholds_tensor_90"] != 0


def test_refusals() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(RequestError, match="predicts neither next tokens nor labels"):
        look(model, np.ones((4, 6), np.float32), "thresholds")
    broken = neox(layers=2)
    with torch.no_grad():
        broken.gpt_neox.layers[0].mlp.dense_h_to_4h.bias[0] = np.inf
    with pytest.raises(CheckpointError, match=r"block0\.m: hidden values are NaN or infinite"):
        Thresholds().found(subject_of(broken))


def test_seventeen_passes_and_every_fact_is_there() -> None:
    model, batches = neox(noise=0.1), []
    subject = subject_of(model)
    assert subject.predicts is not None
    handle = model.register_forward_hook(lambda *_: batches.append(1))
    found = Thresholds().found(subject)
    handle.remove()
    assert len(batches) == 17 * subject.examples.batch_count
    assert {fact.name for fact in found.facts} == set(thresholds.Thresholds.facts)
    assert TOKENS < len(found.values[0].values) == NEURONS
