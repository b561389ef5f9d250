"""Distance of outputs: loops over positions and tokens, closed forms, and the study of controls, which computes it by itself."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from fed_tallies import feed_two, looked_at, permuted_neox, small_neox, subject_of  # noqa: E402

from ninscope.errors import CheckpointError  # noqa: E402
from ninscope.neurons import look  # noqa: E402
from ninscope.neurons.observatory.measure import LABELS, OUTPUT  # noqa: E402
from ninscope.neurons.observatory.measures import function_distance  # noqa: E402
from ninscope.neurons.observatory.registry import measures  # noqa: E402

NAMES = ("function_distance", "function_distance_reverse", "function_distance_change")


def plain(logits, others):
    """(KL(p || q), KL(q || p), mean squared change) over rows, entry by entry."""
    forward = reverse = change = 0.0
    for row, other in zip(logits.astype(np.float64), others.astype(np.float64), strict=True):
        p, q = (np.exp(one) / np.exp(one).sum() for one in (row, other))
        for a, b in zip(p, q, strict=True):
            step = math.log(a) - math.log(b)
            forward, reverse, change = forward + a * step, reverse - b * step, change + step**2 / len(row)
    return [total / len(logits) for total in (forward, reverse, change)]


def distance(logits, others, size=2, text=True):
    subject = subject_of(*logits.shape[:2]) if text else subject_of(len(logits), 0, has=(LABELS,))
    tally = measures()["function_distance"].tally(subject, subject_of(1, 1, name="step 0"))
    tokens = np.zeros(logits.shape[:2], np.int64) if text else None
    found = feed_two(tally, logits, others, size, OUTPUT, tokens)
    return [found[name, "all"] for name in NAMES]


def test_known_distributions():
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
    logits, others = (np.log(np.tile(one, (1, 3, 1))) + 7 for one in (p, q))
    assert distance(logits, others) == pytest.approx([0.25 * math.log(2), 0.25 * math.log(2), 2 / 3 * math.log(2) ** 2])


@pytest.mark.parametrize("values", [1 << 18, 25])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_it_is_the_plain_one_without_the_last_position(dtype, values, monkeypatch):
    monkeypatch.setattr(function_distance, "_VALUES", values)  # of 11 tokens: 2 rows at a time
    random = np.random.default_rng(0)
    logits = (3 * random.normal(size=(5, 6, 11)) + 40).astype(dtype)
    others = (logits + random.normal(size=logits.shape)).astype(dtype)
    expected = plain(logits[:, :-1].reshape(-1, 11), others[:, :-1].reshape(-1, 11))
    assert distance(logits, others) == pytest.approx(expected, abs=1e-9)


def test_of_a_classifier_every_sample_counts():
    logits, others = np.random.default_rng(1).normal(size=(2, 7, 1, 4)).astype(np.float32)
    assert distance(logits, others, text=False) == pytest.approx(plain(logits[:, 0], others[:, 0]), abs=1e-9)


def test_a_shift_of_all_logits_is_no_distance():
    logits = np.random.default_rng(2).integers(-8, 8, (2, 5, 9)).astype(np.float32)
    assert distance(logits, logits + 64) == [0, 0, 0]


def test_small_differences_are_the_quadratic_form_of_fisher():
    """KL(p || p + d) is half of d' F d for a small step d of the logits, F = diag(p) - p p', and so is the reverse."""
    random = np.random.default_rng(3)
    logits, step = random.normal(size=(2, 1, 2, 20))
    found = distance(logits, logits + 1e-5 * step)
    p = np.exp(logits[0, 0]) / np.exp(logits[0, 0]).sum()
    half = 0.5e-10 * (p @ step[0, 0] ** 2 - (p @ step[0, 0]) ** 2)
    assert found[:2] == pytest.approx([half, half], rel=1e-3)


def test_another_vocabulary_is_refused():
    tally = measures()["function_distance"].tally(subject_of(2, 3), subject_of(2, 3, name="step 0"))
    logits = np.zeros((2, 3, 4), np.float32)
    with pytest.raises(
        CheckpointError, match=r"outputs have shape \[2, 3, 4\], and \[2, 3, 5\] in step 0; compare models"
    ):
        feed_two(tally, logits, np.zeros((2, 3, 5), np.float32), 2, OUTPUT, np.zeros((2, 3), np.int64))


def test_of_models_it_is_that_of_the_study_of_controls():
    """data/train_controls_study.py: log-probabilities of windows without their last token."""
    model, other = small_neox(0), small_neox(1)
    tokens = np.random.default_rng(4).integers(0, 64, (6, 12))
    windows = torch.from_numpy(tokens)
    with torch.no_grad():
        now, then = (one(input_ids=windows[:, :-1]).logits.log_softmax(-1) for one in (model, other))
    difference = (now - then).double()
    expected = ((now.double().exp() * difference).sum(-1).mean().item(), difference.square().mean().item())
    found = look(model, tokens, "function_distance", other={"start": other}, controls="none", batch_size=4)
    rows = looked_at(found)
    assert rows["function_distance", "all", "start"] == pytest.approx(expected[0], rel=1e-5)
    assert rows["function_distance_change", "all", "start"] == pytest.approx(expected[1], rel=1e-5)
    assert found["count"].tolist() == [66, 66, 66]
    back = looked_at(look(other, tokens, "function_distance", other={"previous": model}, controls="none"))
    assert back["function_distance_reverse", "all", "previous"] == pytest.approx(expected[0], rel=1e-5)


def test_permuted_neurons_are_no_distance():
    model = small_neox(0)
    tokens = np.random.default_rng(5).integers(0, 64, (4, 12))
    found = look(model, tokens, "function_distance", other={"start": permuted_neox(model)})
    assert found["control"].tolist() == ["none"] * 3 + ["shuffled"] * 3
    assert found["value"].abs().max() < 1e-11
