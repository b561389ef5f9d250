"""Sets of neurons that tasks activate: planted ones, and a plain version that adds neurons until enough is held."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from labelled_subjects import facts_of, refusal, seen, subject_of, values_of  # noqa: E402

from ninscope.neurons.observatory.measure import HIDDEN, Batch, Place  # noqa: E402
from ninscope.neurons.observatory.registry import measures  # noqa: E402


def naive_set(activation):
    left = list(range(len(activation)))
    chosen, held, whole = set(), 0.0, sum(activation)
    while whole and held < 0.95 * whole:
        best = max(left, key=lambda i: (activation[i], -i))
        left.remove(best)
        chosen.add(best)
        held += activation[best]
    return chosen


def naive_overlap(sets):
    shares = [len(a & b) / len(a | b) for i, a in enumerate(sets) for b in sets[i + 1 :] if a | b]
    return sum(shares) / len(shares)


def test_planted_sets_are_found():
    """Ten neurons; task 0 has 0 to 3, task 1 has 2 to 5, task 2 has 8 alone."""
    used = {0: [0, 1, 2, 3], 1: [2, 3, 4, 5], 2: [8]}
    labels = np.array([0, 1, 2] * 4)
    features = np.zeros((12, 10))
    for row, label in enumerate(labels):
        features[row, used[label]] = 1 + 0.01 * row
    features[:, 9] = 1e-4  # on in all tasks, and next to nothing
    subject = subject_of(features, labels, 3)
    found = facts_of(subject, "specialisation")
    assert found["specialisation"].value == pytest.approx((2 / 6 + 0 + 0) / 3)
    assert (found["specialisation"].count, found["specialisation_share"].count) == (3, 3)
    assert found["specialisation"].quantiles[4] == pytest.approx(0.9 * 2 / 6)  # of 0, 0, 1/3
    # By firing, neuron 9 counts as much as any other.
    assert found["specialisation_firing"].value == pytest.approx((3 / 7 + 1 / 6 + 1 / 6) / 3)
    assert found["specialisation_share"].value == pytest.approx((4 + 4 + 1) / 30)
    assert found["specialisation_single"].value == pytest.approx(5 / 10)
    assert values_of(subject, "specialisation")["specialisation_tasks"].tolist() == [1, 1, 2, 2, 1, 1, 0, 0, 1, 0]


def test_tasks_that_use_the_same_neurons_overlap_wholly():
    features = np.zeros((8, 6))
    features[:, :3] = -2.0  # negative activation has mass, and does not fire
    found = facts_of(subject_of(features, np.arange(8) % 2), "specialisation")
    assert found["specialisation"].value == 1
    assert (np.isnan(found["specialisation_firing"].value), found["specialisation_firing"].count) == (True, 0)


def test_equal_neurons_are_taken_in_their_order():
    subject = subject_of(np.ones((4, 400)), [0, 1, 0, 1], head=np.ones((2, 400)))
    assert values_of(subject, "specialisation")["specialisation_tasks"].tolist() == [2] * 380 + [0] * 20


@pytest.mark.parametrize("positions", [(), (5,)])
def test_any_activations_are_measured_as_the_definitions_say(rng, positions):
    labels = np.concatenate([np.arange(3), rng.integers(0, 3, 30)])
    features = rng.normal(size=(33, *positions, 40)) * np.exp(1.5 * rng.normal(size=(3, 40)))[labels].reshape(
        33, *(1,) * len(positions), 40
    )
    features = features.astype(np.float32)
    by_task = [features[labels == task].reshape(-1, 40).astype(float) for task in range(3)]
    mass = [naive_set(np.abs(rows).sum(0).tolist()) for rows in by_task]
    firing = [naive_set((rows > 0).sum(0).tolist()) for rows in by_task]
    found = facts_of(subject_of(features, labels, 3, head=np.ones((3, 40))), "specialisation")
    assert found["specialisation"].value == pytest.approx(naive_overlap(mass), abs=1e-9)
    assert found["specialisation_firing"].value == pytest.approx(naive_overlap(firing), abs=1e-9)
    assert found["specialisation_share"].value == pytest.approx(sum(map(len, mass)) / 120)


def test_half_precision_is_summed_in_float32():
    tally = measures()["specialisation"].tally(subject_of(np.ones((4, 3)), [0, 1, 0, 1]))
    values = torch.full((2, 3000, 3), 0.1, dtype=torch.float16)
    tally.see(Place(HIDDEN, "h"), values, Batch(0, 0, {}, labels=torch.tensor([0, 1])))
    assert tally._totals["h"].numpy() == pytest.approx(
        np.array([[3000 * float(values[0, 0, 0])] * 3] * 2 + [[3000] * 3] * 2), rel=1e-6
    )


def test_rows_of_experts_belong_to_no_task():
    tally = measures()["specialisation"].tally(subject_of(np.ones((4, 3)), [0, 1, 0, 1]))
    tally.see(Place(HIDDEN, "e0.m", routed=True), torch.ones(1, 9, 3), Batch(0, 0, {}, labels=torch.tensor([0, 1])))
    assert tally.found().facts == ()


def test_what_is_refused(rng):
    features = rng.normal(size=(6, 3))
    assert "class 'b' has 0 of the samples, and 1 or more are needed" in refusal(
        subject_of(features, [0] * 6, 2, names=("a", "b")), "specialisation"
    )
    assert seen(subject_of(features, None), "specialisation").status == "unsupported"
