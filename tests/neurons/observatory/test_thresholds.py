"""Losses without the smallest activations: at both ends exactly, between them beside a plain twin."""

import numpy as np
import pytest
import torch
from ablation_models import NEURONS, TOKENS, cycle, llama, neox
from torch import nn

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons import look
from ninscope.neurons.observatory.examples import Examples
from ninscope.neurons.observatory.magnitudes import BINS, Silencing, edges_of, loss_and_largest, loss_without
from ninscope.neurons.observatory.measures import thresholds
from ninscope.neurons.observatory.measures.thresholds import LEVELS, Thresholds, _limits, magnitude_counts, quantiles_of
from ninscope.neurons.observatory.subject import Subject


def subject_of(model: nn.Module) -> Subject:
    return Subject("the model", model, Examples("tokens", cycle(), batch_size=4))


@pytest.mark.parametrize("way", ["tensor", "channel"])
def test_at_level_0_the_loss_is_the_models_and_at_1_that_without_neurons(way: str) -> None:
    # one layer: a second one would be given other inputs than those that its limits were found with
    subject = subject_of(neox("gelu", noise=0.1))
    loss, largest = loss_and_largest(subject)
    counts, edges = magnitude_counts(subject, largest), {layer: edges_of(top) for layer, top in largest.items()}
    kept = Silencing(_limits(subject, way, 0.0, counts, edges), inclusive=True)
    assert kept.mean_loss(subject) == loss == subject.mean_loss()
    none_left = Silencing(_limits(subject, way, 1.0, counts, edges), inclusive=True)
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
    counts = magnitude_counts(subject, loss_and_largest(subject)[1])
    edges = {layer: edges_of(top) for layer, top in loss_and_largest(subject)[1].items()}
    frame = look(model, cycle(), "thresholds", controls="none").set_index("measure")["value"]
    for level in LEVELS:
        limits = list(_limits(subject, way, level, counts, edges).values())
        rise = naive_rise(model, matrices, limits)
        assert frame[f"thresholds_{way}_{round(100 * level)}"] == pytest.approx(rise, abs=1e-6)
        for limit, size in zip(limits, sizes, strict=True):
            axis = None if way == "tensor" else 0
            low, high = (np.quantile(size, level, axis=axis, method=method) for method in ("inverted_cdf", "higher"))
            # within the bin of the true quantile, which is a sixteenth of an octave wide
            assert (np.asarray(limit) >= low / (1 + 1 / 16)).all()
            assert (np.asarray(limit) <= high * (1 + 1 / 16)).all()
    layers = look(model, cycle(), "thresholds", controls="none").set_index(["measure", "layer"])["value"]
    exact = [np.quantile(size, 0.5, axis=0, method="inverted_cdf").mean() for size in sizes]
    assert [layers["thresholds_median", f"block{number}.m"] for number in range(2)] == pytest.approx(exact, rel=1 / 16)


def test_quantiles_lie_where_counts_say() -> None:
    edges = edges_of(1.0)
    counts = np.zeros((2, BINS), np.int64)
    counts[0, 0], counts[0, 100] = 6, 4  # 60 % are 0, the others between edges 99 and 100
    counts[1, 1] = 10  # all below the smallest edge
    assert quantiles_of(counts, edges, 0.6)[0] == 0
    assert quantiles_of(counts, edges, 0.8)[0] == pytest.approx(np.sqrt(float(edges[99]) * float(edges[100])))
    assert quantiles_of(counts, edges, 1.0) == pytest.approx([edges[100], edges[1]])
    assert quantiles_of(counts, edges, 0.5)[1] == pytest.approx(edges[1] / 2)


def test_limits_grow_with_the_level_and_shares_too() -> None:
    model = neox("gelu", layers=2, noise=0.15)
    subject = subject_of(model)
    largest = loss_and_largest(subject)[1]
    counts, edges = magnitude_counts(subject, largest), {layer: edges_of(top) for layer, top in largest.items()}
    for way in ("tensor", "channel"):
        limits = [
            np.concatenate([np.ravel(one) for one in _limits(subject, way, level, counts, edges).values()])
            for level in LEVELS
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


def test_fourteen_passes_and_every_fact_is_there() -> None:
    model, batches = neox(noise=0.1), []
    subject = subject_of(model)
    assert subject.predicts is not None
    handle = model.register_forward_hook(lambda *_: batches.append(1))
    found = Thresholds().found(subject)
    handle.remove()
    assert len(batches) == 14 * subject.examples.batch_count
    assert {fact.name for fact in found.facts} == set(thresholds.Thresholds.facts)
    assert TOKENS < len(found.values[0].values) == NEURONS
