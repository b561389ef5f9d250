"""Flow of the residual stream: steps, cosines and correlations that are known, a plain twin, towers, and real models."""

import math

import numpy as np
import pytest
from neurons.observatory.observed_models import small_swin, still_neox
from neurons.observatory.shown_places import fact, shown, values

from ninscope.neurons import look
from ninscope.neurons.observatory.measure import RESIDUAL, Place


def stream(layer):
    return Place(RESIDUAL, layer, layer.rpartition(".")[0])


def naive_flow(before, after):
    """Rows of the later layer: unit by unit and token by token."""
    before, after = (states.reshape(-1, states.shape[-1]).astype(np.float64) for states in (before, after))
    correlations = [np.corrcoef(x, y)[0, 1] for x, y in zip(before.T, after.T, strict=True)]
    steps, relative, cosines, norms = [], [], [], []
    for x, y in zip(before, after, strict=True):
        length, other = math.sqrt(sum(x * x)), math.sqrt(sum(y * y))
        steps.append(math.sqrt(sum((y - x) ** 2)))
        relative.append(steps[-1] / length)
        cosines.append(sum(x * y) / (length * other))
        norms.append(other)
    return np.array(correlations), {
        "residual_flow": np.mean(correlations),
        "residual_flow_step": np.mean(steps),
        "residual_flow_relative_step": np.mean(relative),
        "residual_flow_cosine": np.mean(cosines),
        "residual_flow_norm": np.mean(norms),
    }


@pytest.mark.parametrize("batch_size", [1, 3, 9])
def test_it_is_the_plain_twin(batch_size):
    rng = np.random.default_rng(0)
    first = (rng.standard_normal((7, 5, 6)) + 40 * rng.standard_normal(6)).astype(np.float32)
    second = (first * rng.uniform(-1, 1, 6) + rng.standard_normal((7, 5, 6))).astype(np.float32)
    found = shown("residual_flow", (stream("block0.x"), first), (stream("output.x"), second), batch_size=batch_size)
    correlations, rows = naive_flow(first, second)
    np.testing.assert_allclose(values(found, "residual_flow", "output.x"), correlations, atol=1e-6)
    assert {row.name: row.value for row in found.facts if row.layer == "output.x"} == pytest.approx(rows, rel=1e-6)
    assert [row.name for row in found.facts if row.layer == "block0.x"] == ["residual_flow_norm"]
    assert fact(found, "residual_flow", "output.x").count == 6
    assert fact(found, "residual_flow_step", "output.x").count == 35


def test_a_stream_that_was_planted_moves_as_it_was_made_to():
    first = np.zeros((3, 4, 5), np.float32)
    first[..., 0] = np.arange(12).reshape(3, 4) + 1  # norms 1 to 12
    doubled = 2 * first
    turned = np.roll(doubled, 1, 2)  # at a right angle, with the same norm
    found = shown(
        "residual_flow", *zip(map(stream, ("block0.x", "block1.x", "output.x")), (first, doubled, turned), strict=True)
    )
    mean = 6.5
    expected = {
        ("residual_flow_norm", "block0.x"): mean,
        ("residual_flow_norm", "block1.x"): 2 * mean,
        ("residual_flow_norm", "output.x"): 2 * mean,
        ("residual_flow_step", "block1.x"): mean,
        ("residual_flow_step", "output.x"): 2 * math.sqrt(2) * mean,
        ("residual_flow_relative_step", "block1.x"): 1,
        ("residual_flow_relative_step", "output.x"): math.sqrt(2),
        ("residual_flow_cosine", "block1.x"): 1,
        ("residual_flow_cosine", "output.x"): 0,
        ("residual_flow", "block1.x"): 1,
    }
    assert {key: fact(found, *key).value for key in expected} == pytest.approx(expected)
    # Units 1 to 4 never move, so unit 0 alone has a correlation, and after the turn none has one.
    assert fact(found, "residual_flow", "block1.x").count == 1
    assert fact(found, "residual_flow", "output.x").count == 0


def test_a_unit_that_changes_its_sign_is_anticorrelated():
    first = np.random.default_rng(0).standard_normal((3, 4, 2)).astype(np.float32)
    found = shown("residual_flow", (stream("block0.x"), first), (stream("output.x"), first * np.float32([-3, 1])))
    np.testing.assert_allclose(values(found, "residual_flow", "output.x"), [-1, 1], atol=1e-6)


def test_a_token_without_a_state_has_no_cosine():
    first = np.ones((2, 3, 4), np.float32)
    first[0, 1] = 0
    found = shown("residual_flow", (stream("block0.x"), first), (stream("output.x"), np.ones((2, 3, 4))))
    cosine, relative = (fact(found, f"residual_flow_{name}", "output.x") for name in ("cosine", "relative_step"))
    assert (cosine.value, cosine.count) == (pytest.approx(1), 5)
    assert (relative.value, relative.count) == (0, 5)
    assert fact(found, "residual_flow_step", "output.x").value == pytest.approx(2 / 6)


def test_neighbours_are_of_one_tower_and_of_one_shape():
    states = np.ones((2, 3, 4), np.float32)
    layers = ("encoder.block0.x", "encoder.output.x", "decoder.block0.x", "decoder.output.x")
    found = shown("residual_flow", *((stream(layer), states) for layer in layers))
    stepping = [row.layer for row in found.facts if row.name == "residual_flow_step"]
    assert stepping == ["encoder.output.x", "decoder.output.x"]
    wider = np.ones((2, 3, 8), np.float32)
    found = shown(
        "residual_flow", (stream("block0.x"), states), (stream("block1.x"), wider), (stream("output.x"), wider)
    )
    assert [row.layer for row in found.facts if row.name == "residual_flow_step"] == ["output.x"]


def test_a_model_that_writes_nothing_stands_still():
    tokens = np.random.default_rng(0).integers(0, 19, (5, 10))
    model = still_neox()
    table = look(model, tokens, measures="residual_flow", controls="none", batch_size=2)
    for name, expected in (("", 1), ("_step", 0), ("_relative_step", 0), ("_cosine", 1)):
        rows = table[table.measure == f"residual_flow{name}"]
        assert rows.layer.tolist() == ["block1.x", "block2.x", "output.x"]
        np.testing.assert_allclose(rows.value, expected, atol=1e-6)
    norms = np.linalg.norm(model.gpt_neox.embed_in.weight.detach().numpy()[tokens], axis=-1).mean()
    np.testing.assert_allclose(table[table.measure == "residual_flow_norm"].value, norms, rtol=1e-6)


def test_the_stages_of_a_swin_are_no_neighbours():
    images = np.random.default_rng(0).standard_normal((3, 3, 16, 16))
    table = look(small_swin(), images, measures=["residual_flow", "signal_propagation"], controls="none", batch_size=2)
    assert (table.status == "ok").all()
    steps = table[table.measure == "residual_flow_step"]
    assert steps.layer.tolist() == ["stage0.block1.x", "stage1.block1.x", "output.x"]
