"""Massive activations: planted ones, a plain twin at the bounds, and a model whose embedding holds one."""

import math

import numpy as np
import pytest
import torch
from neurons.observatory.observed_models import still_neox
from neurons.observatory.shown_places import fact, shown, values

from ninscope.neurons import look
from ninscope.neurons.observatory.measure import RESIDUAL, Place

STREAM = Place(RESIDUAL, "block2.x", "block2")


def states(samples=7, positions=9, width=20, seed=0):
    return np.random.default_rng(seed).standard_normal((samples, positions, width)).astype(np.float32)


def naive_massive(stream):
    """The rows of one layer, number by number."""
    massive, relative, ratios = [], 0, []
    for sample, state in enumerate(stream.astype(np.float64)):
        sizes = sorted(abs(x) for x in state.flatten())
        median = sizes[(len(sizes) - 1) // 2]
        if median == 0:
            continue
        ratios.append(sizes[-1] / median)
        for position, token in enumerate(state):
            for dimension, x in enumerate(token):
                relative += abs(x) >= 1000 * median
                if abs(x) > 100 and abs(x) >= 1000 * median:
                    massive.append((sample, position, dimension))
    samples, positions, _ = stream.shape
    return {
        "massive_activations": len(massive) / samples,
        "massive_activations_relative": relative / samples,
        "massive_activations_ratio": sum(ratios) / len(ratios) if ratios else math.nan,
        "massive_activations_largest": np.abs(stream).max(),
        "massive_activations_dimensions": len({dimension for _, _, dimension in massive}),
        "massive_activations_positions": len({position for _, position, _ in massive}),
        "massive_activations_tokens": len({one[:2] for one in massive}) / (samples * positions),
    }


def planted():
    stream = states()
    stream[:, 0, 3] = 2000  # at the first token of every sample
    stream[1, 4, [3, 11]] = -3000, 1500
    stream[2, 5, 6] = 300  # large, and not beside the median
    stream[4] *= 0.01  # 2000 becomes 20: large beside the median alone
    return stream


def test_planted_activations_are_counted_where_they_are():
    found = shown("massive_activations", (STREAM, planted()))
    expected = {
        "massive_activations": 8 / 7,  # six first tokens, and two more in one token
        "massive_activations_relative": 9 / 7,
        "massive_activations_largest": 3000,
        "massive_activations_dimensions": 2,
        "massive_activations_positions": 2,
        "massive_activations_tokens": 7 / 63,
    }
    assert {name: fact(found, name, "block2.x").value for name in expected} == pytest.approx(expected)
    per_dimension = np.zeros(20)
    per_dimension[[3, 11]] = 7 / 7, 1 / 7
    np.testing.assert_allclose(values(found, "massive_activations", "block2.x"), per_dimension)


@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_it_is_the_plain_twin(batch_size):
    stream = planted()
    stream[5] = 0
    stream[5, 0, 0] = 500  # a state whose median is 0 has no ratio
    found = shown("massive_activations", (STREAM, stream), batch_size=batch_size)
    rows = {row.name: row.value for row in found.facts}
    assert rows == pytest.approx(naive_massive(stream), rel=1e-6)
    assert fact(found, "massive_activations_ratio", "block2.x").count == 6
    assert fact(found, "massive_activations_tokens", "block2.x").count == 63


NEXT = float(np.nextafter(np.float32(0.5), np.float32(1)))


@pytest.mark.parametrize(
    ("largest", "median", "massive"),
    [(100, 0.01, False), (100.25, 0.01, True), (500, 0.5, True), (500, NEXT, False), (499.75, 0.5, False)],
)
def test_the_bounds_are_those_of_the_definition(largest, median, massive):
    """More than 100, and at least 1000 times the median."""
    stream = np.full((1, 3, 5), median, np.float32)
    stream[0, 1, 2] = -largest
    found = shown("massive_activations", (STREAM, stream))
    assert {row.name: row.value for row in found.facts} == pytest.approx(naive_massive(stream), rel=1e-6)
    assert fact(found, "massive_activations", "block2.x").value == massive


def test_half_precision_streams_are_measured():
    found = shown("massive_activations", (STREAM, planted()), dtype=torch.float16)
    assert fact(found, "massive_activations", "block2.x").value == pytest.approx(8 / 7)


def test_a_stream_of_zeros_has_no_ratio():
    found = shown("massive_activations", (STREAM, np.zeros((2, 3, 4))))
    ratio = fact(found, "massive_activations_ratio", "block2.x")
    assert math.isnan(ratio.value)
    assert ratio.count == 0
    assert fact(found, "massive_activations", "block2.x").value == 0


def test_a_massive_activation_in_a_models_embedding_is_found_at_every_depth():
    model = still_neox()
    with torch.no_grad():
        model.gpt_neox.embed_in.weight[0, 7] = 5000
    tokens = np.random.default_rng(0).integers(1, 19, (5, 10))
    tokens[:, 0] = 0
    tokens[3, 6] = 0
    table = look(model, tokens, measures="massive_activations", controls="none", batch_size=2)
    massive = table[table.measure == "massive_activations"]
    assert massive.layer.tolist() == ["block0.x", "block1.x", "block2.x", "output.x"]
    assert massive.value.tolist() == [6 / 5] * 4
    assert set(table[table.measure == "massive_activations_dimensions"].value) == {1}
    assert set(table[table.measure == "massive_activations_positions"].value) == {2}
    embedded = model.gpt_neox.embed_in.weight.detach().numpy()[tokens]
    ratios = table[table.measure == "massive_activations_ratio"].value
    np.testing.assert_allclose(ratios, naive_massive(embedded)["massive_activations_ratio"], rtol=1e-6)
