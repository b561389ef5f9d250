"""Attention entropy: heads that are uniform or look at one position, a plain twin, windows, and models whose heads are uniform."""

import math

import numpy as np
import pytest
import torch
from neurons.observatory.observed_models import grouped_llama, small_swin, still_neox
from neurons.observatory.shown_places import fact, shown, softmax, values

from ninscope.errors import CheckpointError
from ninscope.neurons import look
from ninscope.neurons.observatory.measure import ATTENTION, PARTS, Place

HEADS = Place(ATTENTION, "block0.c", "block0", heads=3)


def naive_entropy(pattern, causal):
    """(nats, normalised) of every head: a mean over samples and rows that have a choice."""
    nats, normalised = [], []
    for head in range(pattern.shape[1]):
        plain, relative = [], []
        for sample in range(len(pattern)):
            for i, row in enumerate(pattern[sample, head].astype(np.float64)):
                entropy = sum(-a * math.log(a) for a in row if a > 0)
                plain.append(entropy)
                choices = i + 1 if causal else len(row)
                if choices > 1:
                    relative.append(entropy / math.log(choices))
        nats.append(sum(plain) / len(plain))
        normalised.append(sum(relative) / len(relative) if relative else math.nan)
    return np.array(nats), np.array(normalised)


@pytest.mark.parametrize("causal", [True, False])
def test_it_is_the_plain_twin_over_uneven_batches(causal):
    pattern = softmax(np.random.default_rng(0).standard_normal((5, 3, 11, 11)) * [[[[0.1]], [[2]], [[9]]]], causal)
    found = shown("attention_entropy", (HEADS, pattern))
    nats, normalised = naive_entropy(pattern, causal)
    np.testing.assert_allclose(values(found, "attention_entropy", "block0.c"), nats, atol=1e-6)
    np.testing.assert_allclose(values(found, "attention_entropy_normalised", "block0.c"), normalised, atol=1e-6)
    row = fact(found, "attention_entropy", "block0.c")
    assert row.value == pytest.approx(nats.mean(), abs=1e-6)
    assert row.count == 3
    np.testing.assert_allclose(row.quantiles, np.quantile(nats, PARTS), atol=1e-6)
    assert fact(found, "attention_entropy_overload", "block0.c").value == np.mean(normalised > 0.75)
    assert fact(found, "attention_entropy_low", "block0.c").value == np.mean(normalised < 0.25)


def test_planted_heads_have_the_entropies_that_they_must_have():
    uniform = np.tri(16) / np.arange(1, 17)[:, None]
    one_hot = np.eye(16)
    pairs = np.tri(16) * 0  # half on the first position and half on oneself
    pairs[:, 0] += 0.5
    pairs[np.arange(16), np.arange(16)] += 0.5
    pattern = np.stack([uniform, one_hot, pairs])[None].astype(np.float32)
    found = shown("attention_entropy", (HEADS, pattern))
    maxima = np.log(np.arange(1, 17))
    np.testing.assert_allclose(
        values(found, "attention_entropy", "block0.c"), [maxima.mean(), 0, 15 / 16 * math.log(2)], atol=1e-6
    )
    expected = [1, 0, (math.log(2) / maxima[1:]).mean()]
    np.testing.assert_allclose(values(found, "attention_entropy_normalised", "block0.c"), expected, atol=1e-6)
    assert fact(found, "attention_entropy_overload", "block0.c").value == pytest.approx(1 / 3)
    assert fact(found, "attention_entropy_low", "block0.c").value == pytest.approx(1 / 3)


def test_a_whole_model_has_the_heads_of_all_its_layers():
    uniform = np.full((2, 3, 8, 8), 1 / 8, np.float32)
    one_hot = np.broadcast_to(np.roll(np.eye(8, dtype=np.float32), 1, 1), (2, 1, 8, 8))
    found = shown("attention_entropy", (HEADS, uniform), (Place(ATTENTION, "block1.c"), one_hot))
    row = fact(found, "attention_entropy", "all")
    assert row.value == pytest.approx(0.75 * math.log(8), abs=1e-6)
    assert row.count == 4
    assert fact(found, "attention_entropy_overload", "all").value == 0.75
    assert fact(found, "attention_entropy_normalised", "block1.c").value == 0


def test_windows_of_an_image_are_samples_of_their_own():
    """A Swin shows [windows * n, heads, w, w], and no window is causal."""
    pattern = softmax(np.random.default_rng(1).standard_normal((4 * 3, 2, 4, 4)), causal=False)
    found = shown(
        "attention_entropy", (Place("residual", "block0.x"), np.zeros((3, 16, 2))), (HEADS, pattern), batch_size=2
    )
    nats, normalised = naive_entropy(pattern, causal=False)
    np.testing.assert_allclose(values(found, "attention_entropy", "block0.c"), nats, atol=1e-6)
    np.testing.assert_allclose(values(found, "attention_entropy_normalised", "block0.c"), normalised, atol=1e-6)


def test_cross_attention_has_the_maximum_of_its_columns():
    found = shown("attention_entropy", (HEADS, np.full((2, 3, 4, 9), 1 / 9, np.float32)))
    assert fact(found, "attention_entropy_normalised", "block0.c").value == pytest.approx(1, abs=1e-6)
    assert fact(found, "attention_entropy", "block0.c").value == pytest.approx(math.log(9), abs=1e-6)


def test_one_position_has_no_choice():
    found = shown("attention_entropy", (HEADS, np.ones((2, 3, 1, 1), np.float32)))
    assert fact(found, "attention_entropy", "block0.c").value == 0
    assert fact(found, "attention_entropy_normalised", "block0.c").count == 0
    assert math.isnan(fact(found, "attention_entropy_overload", "block0.c").value)


def test_scores_are_refused():
    with pytest.raises(CheckpointError, match=r"^block0.c: its attention module shows scores with negative entries"):
        shown("attention_entropy", (HEADS, np.full((1, 3, 4, 4), -1.0)))


@pytest.mark.parametrize("name", ["attention_entropy", "sinks"])
def test_a_model_that_shows_no_pattern_is_told_what_to_do(name):
    with pytest.raises(
        CheckpointError, match=r"^no attention pattern was shown; load the model with attn_implementation"
    ):
        shown(name, (Place("residual", "block0.x"), np.ones((2, 3, 4))))


def test_windows_of_several_lengths_are_refused():
    from ninscope.neurons.observatory.measure import Batch
    from ninscope.neurons.observatory.registry import measures

    tally = measures()["attention_entropy"].tally(None)
    tally.see(HEADS, torch.full((1, 3, 4, 4), 0.25), Batch(0, 0, {}))
    with pytest.raises(CheckpointError, match=r"^block0.c: its attention changes shape from batch to batch"):
        tally.see(HEADS, torch.full((1, 3, 5, 5), 0.2), Batch(1, 1, {}))


def test_heads_of_a_model_without_queries_are_uniform():
    tokens = np.random.default_rng(0).integers(0, 19, (5, 10))
    table = look(still_neox(), tokens, measures="attention_entropy", batch_size=2)
    entropies = table[table.measure == "attention_entropy"]
    assert sorted(entropies.layer.unique()) == ["all", "block0.c", "block1.c", "block2.c"]
    assert (table.status == "ok").all()
    assert set(table.control) == {"none", "shuffled"}
    np.testing.assert_allclose(entropies.value, np.log(np.arange(1, 11)).mean(), atol=1e-6)
    np.testing.assert_allclose(entropies.p05, entropies.p95, atol=1e-6)
    np.testing.assert_allclose(table[table.measure == "attention_entropy_normalised"].value, 1, atol=1e-6)
    assert (table[table.measure == "attention_entropy_overload"].value == 1).all()


def test_heads_of_a_swin_are_measured_window_by_window():
    """Scores are near 0 at its start, so attention is uniform over what a window lets it see.

    Every second block shifts its windows: of four by four, nine have four positions that belong together, six have twice two, and
    one has four by themselves.
    """
    images = np.random.default_rng(0).standard_normal((3, 3, 16, 16))
    table = look(small_swin(), images, measures="attention_entropy", controls="none", batch_size=2)
    rows = table[table.measure == "attention_entropy"].set_index("layer").value
    four, two = math.log(4), math.log(2)
    expected = {
        "stage0.block0.c": four,
        "stage0.block1.c": (9 * four + 6 * two) / 16,
        "stage1.block0.c": four,
        "stage1.block1.c": (four + 2 * two) / 4,
    }
    assert rows.drop("all").to_dict() == pytest.approx(expected, abs=1e-4)


def test_it_is_the_plain_twin_of_the_attention_that_the_library_gives():
    model, tokens = grouped_llama(), np.random.default_rng(0).integers(0, 19, (5, 10))
    table = look(model, tokens, measures="attention_entropy", controls="none", batch_size=2)
    rows = {(row.measure, row.layer): row.value for row in table.itertuples()}
    with torch.no_grad():
        patterns = model(torch.from_numpy(tokens), output_attentions=True).attentions
    for number, pattern in enumerate(patterns):
        nats, normalised = naive_entropy(pattern.numpy(), causal=True)
        assert rows["attention_entropy", f"block{number}.c"] == pytest.approx(nats.mean(), abs=1e-5)
        assert rows["attention_entropy_normalised", f"block{number}.c"] == pytest.approx(normalised.mean(), abs=1e-5)
    assert rows["attention_entropy_normalised", "all"] < 0.9
