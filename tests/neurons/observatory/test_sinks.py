"""Attention sinks: a head that is one, heads that share values, a plain twin, and models that have no first token."""

import math

import numpy as np
import pytest
import torch
from neurons.observatory.observed_models import grouped_llama, small_swin, still_neox
from neurons.observatory.shown_places import fact, shown, softmax, values

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons import look
from ninscope.neurons.observatory.measure import ATTENTION, CONTEXT, RESIDUAL, VALUES, Place

HEADS, SIZE = 3, 4


def places(pattern, values_of_heads, stream, value_heads=HEADS):
    """In the order of computation. values_of_heads: [n, t, value heads, size]; the context follows from both."""
    samples, heads, positions, _ = pattern.shape
    shared = np.repeat(values_of_heads, heads // value_heads, 2)
    context = np.einsum("nhij,njhd->nihd", pattern, shared).astype(np.float32)
    return (
        (Place(RESIDUAL, "block0.x", "block0"), stream),
        (Place(VALUES, "block0.v", "block0", value_heads), values_of_heads.reshape(samples, positions, -1)),
        (Place(ATTENTION, "block0.c", "block0", heads), pattern),
        (Place(CONTEXT, "block0.c", "block0", heads), context.reshape(samples, positions, -1)),
    )


def unit_vectors(rng, *shape):
    vectors = rng.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def planted(samples=4, positions=9):
    """Heads: a sink whose first value is small, a uniform one, one that looks at itself."""
    rng = np.random.default_rng(0)
    pattern = np.zeros((samples, HEADS, positions, positions), np.float32)
    pattern[:, 0, :, 0] = 1
    pattern[:, 1] = np.tri(positions) / np.arange(1, positions + 1)[:, None]
    pattern[:, 2] = np.eye(positions)
    vectors = unit_vectors(rng, samples, positions, HEADS, SIZE)
    vectors[:, 0, 0] *= 0.125
    vectors[:, 0, 2] *= 4
    stream = 2 * unit_vectors(rng, samples, positions, 12)
    stream[:, 0] *= 50
    return pattern, vectors, stream


def test_planted_heads_are_what_they_were_made_to_be():
    pattern, vectors, stream = planted()
    found = shown("sinks", *places(pattern, vectors, stream))
    uniform = np.mean([1 / i for i in range(2, 10)])
    np.testing.assert_allclose(values(found, "sinks", "block0.c"), [1, uniform, 0], atol=1e-6)
    np.testing.assert_allclose(values(found, "sinks_value_drain", "block0.c"), [0.125, 1, 4], rtol=1e-5)
    assert fact(found, "sinks_residual_peak", "block0.x").value == pytest.approx(50, rel=1e-5)
    outputs = values(found, "sinks_output", "block0.c")
    assert outputs.mean() == pytest.approx(1)
    assert outputs[0] / outputs[2] == pytest.approx(0.125, rel=1e-5)
    # Of head 0 the output is an eighth, far below a quarter of the mean; the others have no sink.
    for name in ("sinks_dormant_0.3_0.25", "sinks_dormant_0.9_0.5"):
        for layer in ("block0.c", "all"):
            assert fact(found, name, layer).value == pytest.approx(1 / 3)
    assert fact(found, "sinks", "all").count == 3


def test_a_sink_with_a_large_output_is_not_dormant_and_neither_is_a_small_head_without_a_sink():
    pattern, vectors, stream = planted()
    vectors[:, 0, 0] *= 8 * 3
    vectors[:, :, 2] *= 0.01
    found = shown("sinks", *places(pattern, vectors, stream))
    assert values(found, "sinks_output", "block0.c")[2] < 0.25
    assert all(row.value == 0 for row in found.facts if row.name.startswith("sinks_dormant"))


def naive_median(numbers):
    return sorted(numbers)[(len(numbers) - 1) // 2]


def norm(vector):
    return math.sqrt(sum(float(x) ** 2 for x in vector))


def naive_sinks(pattern, vectors, stream):
    """Rows of one layer, head by head and sample by sample; heads that share values are beside each other."""
    samples, heads, positions, _ = pattern.shape
    share = heads // vectors.shape[2]
    sinks, drains, outputs, strong = [], [], [], []
    for head in range(heads):
        weights = pattern[:, head].astype(float)
        sinks.append(np.mean([weights[n, i, 0] for n in range(samples) for i in range(1, positions)]))
        strong += [np.mean(weights[n, :, 0]) > 0.3 for n in range(samples)]
        of_head = vectors[:, :, head // share].astype(float)
        norms = [[norm(of_head[n, j]) for j in range(positions)] for n in range(samples)]
        drains.append(np.mean([one[0] / naive_median(one[1:]) for one in norms]))
        given = [
            sum(weights[n, i, j] * of_head[n, j] for j in range(positions))
            for n in range(samples)
            for i in range(1, positions)
        ]
        outputs.append(np.mean([norm(one) for one in given]))
    peaks = [[norm(stream[n, j]) for j in range(positions)] for n in range(samples)]
    outputs = np.array(outputs) / np.mean(outputs)
    return {
        "sinks": np.array(sinks),
        "sinks_value_drain": np.array(drains),
        "sinks_output": outputs,
        "sinks_share": np.mean(strong),
        "sinks_residual_peak": np.mean([one[0] / naive_median(one[1:]) for one in peaks]),
        **{
            f"sinks_dormant_{sink}_{output}": np.mean(
                [a > sink and b < output for a, b in zip(sinks, outputs, strict=True)]
            )
            for sink in (0.3, 0.6, 0.9)
            for output in (0.25, 0.5)
        },
    }


@pytest.mark.parametrize(("heads", "value_heads", "positions"), [(3, 3, 8), (4, 2, 7), (4, 1, 2)])
def test_it_is_the_plain_twin(heads, value_heads, positions):
    rng = np.random.default_rng(heads + value_heads)
    scores = 2 * rng.standard_normal((7, heads, positions, positions))
    scores[:, 0, :, 0] += 4
    vectors = rng.standard_normal((7, positions, value_heads, SIZE)).astype(np.float32)
    vectors[:, 0, 0] *= 0.05
    stream = rng.standard_normal((7, positions, 12)).astype(np.float32)
    pattern = softmax(scores, causal=True)
    found = shown("sinks", *places(pattern, vectors, stream, value_heads))
    for name, expected in naive_sinks(pattern, vectors, stream).items():
        layer = "block0.x" if name == "sinks_residual_peak" else "block0.c"
        row = fact(found, name, layer)
        assert row.value == pytest.approx(np.mean(expected), rel=1e-6, abs=1e-7), name
        if np.ndim(expected):
            np.testing.assert_allclose(values(found, name, layer), expected, rtol=1e-6, atol=1e-7)
            assert row.count == heads
    assert fact(found, "sinks_share", "block0.c").count == 7 * heads


def test_values_of_zero_have_no_drain_and_heads_without_output_are_not_called_dormant():
    pattern, vectors, stream = planted()
    vectors[:, :, 1] = 0
    found = shown("sinks", *places(pattern, vectors, stream))
    drains = values(found, "sinks_value_drain", "block0.c")
    assert np.isnan(drains[1])
    assert fact(found, "sinks_value_drain", "block0.c").count == 2
    nothing = shown("sinks", *places(pattern, 0 * vectors, stream))
    dormant = fact(nothing, "sinks_dormant_0.3_0.5", "block0.c")
    assert math.isnan(dormant.value)
    assert dormant.count == 0


def test_a_pattern_over_windows_has_no_first_token():
    pattern, vectors, stream = planted()
    others = [pair for pair in places(pattern, vectors, stream) if pair[0].kind != ATTENTION]
    windows = np.full((8, HEADS, 4, 4), 0.25, np.float32)
    with pytest.raises(
        CheckpointError, match=r"^block0.c: its attention of shape \[6, 3, 4, 4\] is not over whole windows of text"
    ):
        shown("sinks", (Place(ATTENTION, "block0.c", "block0", HEADS), windows), *others)


def test_uniform_heads_of_a_model():
    tokens = np.random.default_rng(0).integers(0, 19, (5, 10))
    table = look(still_neox(), tokens, measures="sinks", batch_size=2)
    assert (table.status == "ok").all()
    sinks = table[table.measure == "sinks"]
    assert set(sinks.layer) == {"all", "block0.c", "block1.c", "block2.c"}
    np.testing.assert_allclose(sinks.value, np.mean([1 / i for i in range(2, 11)]), atol=1e-6)
    assert set(table[table.measure == "sinks_residual_peak"].layer) == {"block0.x", "block1.x", "block2.x", "output.x"}


def test_it_is_the_plain_twin_of_what_the_library_shows_of_a_model_whose_heads_share_values():
    model, tokens = grouped_llama(), np.random.default_rng(0).integers(0, 19, (5, 10))
    table = look(model, tokens, measures="sinks", controls="none", batch_size=2)
    rows = {(row.measure, row.layer): row.value for row in table.itertuples()}
    given = []
    for layer in model.model.layers:
        layer.self_attn.v_proj.register_forward_hook(lambda module, args, output: given.append(output.numpy()))
    with torch.no_grad():
        shown_by_library = model(torch.from_numpy(tokens), output_attentions=True, output_hidden_states=True)
    for number in range(2):
        pattern, stream = shown_by_library.attentions[number].numpy(), shown_by_library.hidden_states[number].numpy()
        expected = naive_sinks(pattern, given[number].reshape(5, 10, 2, 4), stream)
        peak = expected.pop("sinks_residual_peak")
        assert rows["sinks_residual_peak", f"block{number}.x"] == pytest.approx(peak, rel=1e-5)
        for name, values_of_heads in expected.items():
            assert rows[name, f"block{number}.c"] == pytest.approx(np.mean(values_of_heads), rel=1e-5, abs=1e-6), name


def test_images_have_no_first_token():
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16))
    with pytest.raises(RequestError, match=r"^sinks: it needs tokens"):
        look(small_swin(), images, measures="sinks", controls="none")


def test_windows_of_one_token_are_refused():
    with pytest.raises(RequestError, match="windows of one token have no position that could attend to the first"):
        look(still_neox(), np.zeros((3, 1), np.int64), measures="sinks", controls="none")
