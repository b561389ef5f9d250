"""Signal propagation: streams of known mean and variance, numpy in float64, and a model that writes nothing."""

import numpy as np
import pytest
import torch
from neurons.observatory.observed_models import still_neox
from neurons.observatory.shown_places import fact, shown

from ninscope.neurons import look
from ninscope.neurons.observatory.measure import RESIDUAL, WRITTEN, Place

STREAM, BRANCH = Place(RESIDUAL, "block0.x", "block0"), Place(WRITTEN, "block0.m", "block0")


def naive_signals(stream):
    """(mean over channels of the squared mean, of the variance), channel by channel in float64."""
    channels = stream.reshape(-1, stream.shape[-1]).astype(np.float64).T
    means = [sum(channel) / len(channel) for channel in channels]
    variances = [sum((channel - mean) ** 2) / len(channel) for channel, mean in zip(channels, means, strict=True)]
    return sum(mean**2 for mean in means) / len(means), sum(variances) / len(variances)


@pytest.mark.parametrize("offset", [0, 1000])
def test_it_is_the_plain_twin_even_where_means_are_large(offset):
    rng = np.random.default_rng(0)
    stream = (rng.standard_normal((7, 5, 6)) * rng.uniform(0.1, 3, 6) + offset * rng.standard_normal(6)).astype(
        np.float32
    )
    branch = rng.standard_normal((7, 5, 6)).astype(np.float32)
    found = shown("signal_propagation", (STREAM, stream), (BRANCH, branch))
    squared_mean, variance = naive_signals(stream)
    assert fact(found, "signal_propagation", "block0.x").value == pytest.approx(variance, rel=1e-6)
    assert fact(found, "signal_propagation_squared_mean", "block0.x").value == pytest.approx(
        squared_mean, rel=1e-6, abs=1e-8
    )
    assert fact(found, "signal_propagation_branch", "block0.m").value == pytest.approx(
        naive_signals(branch)[1], rel=1e-6
    )
    assert [row.count for row in found.facts] == [6, 6, 6]
    assert not found.values


def test_a_planted_stream_has_the_mean_and_variance_that_it_was_made_of():
    stream = np.zeros((4, 6, 2), np.float32)
    stream[..., 0] = 3  # a channel that does not move
    stream[:2, :, 1], stream[2:, :, 1] = 5, -3  # mean 1, variance 16
    found = shown("signal_propagation", (STREAM, stream))
    assert fact(found, "signal_propagation", "block0.x").value == pytest.approx(8)
    assert fact(found, "signal_propagation_squared_mean", "block0.x").value == pytest.approx(5)


def test_half_precision_is_summed_in_float32():
    stream = np.full((4, 500, 3), 30.0)
    stream[..., 1] = -30
    found = shown("signal_propagation", (STREAM, stream), dtype=torch.bfloat16)
    assert fact(found, "signal_propagation_squared_mean", "block0.x").value == 900
    assert fact(found, "signal_propagation", "block0.x").value == 0


def test_a_model_that_writes_nothing_keeps_its_signal():
    model, tokens = still_neox(), np.random.default_rng(0).integers(0, 19, (5, 10))
    with torch.no_grad():
        bias = model.gpt_neox.layers[1].attention.dense.bias
        bias += torch.arange(12.0)  # moves the mean alone
    table = look(model, tokens, measures="signal_propagation", controls="none", batch_size=2)
    rows = {(row.measure, row.layer): row.value for row in table.itertuples()}
    embedded = model.gpt_neox.embed_in.weight.detach().numpy()[tokens]
    moved = embedded + np.arange(12.0)
    for layer, stream in (("block0.x", embedded), ("block1.x", embedded), ("block2.x", moved), ("output.x", moved)):
        squared_mean, variance = naive_signals(stream)
        assert rows["signal_propagation", layer] == pytest.approx(variance, rel=1e-5)
        assert rows["signal_propagation_squared_mean", layer] == pytest.approx(squared_mean, rel=1e-5)
    branches = [layer for measure, layer in rows if measure == "signal_propagation_branch"]
    assert sorted(branches) == sorted(f"block{number}.{part}" for number in range(3) for part in "cm")
    assert all(rows["signal_propagation_branch", layer] == pytest.approx(0, abs=1e-12) for layer in branches)
