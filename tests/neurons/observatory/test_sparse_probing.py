"""Probes of few neurons: planted neurons that tell a class; scikit-learn's regression, and the measure written out in loops."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from labelled_subjects import facts_of, refusal, seen, subject_of, values_of  # noqa: E402

from ninscope.neurons.observatory.measure import HIDDEN, Batch, Place  # noqa: E402
from ninscope.neurons.observatory.measures import sparse_probing as module  # noqa: E402
from ninscope.neurons.observatory.registry import measures  # noqa: E402


def naive_f1(training, own, held_out, true):
    """Logistic regression with L2 on the weights, not on the bias, and both classes of the same weight."""
    regression = pytest.importorskip("sklearn.linear_model").LogisticRegression(
        class_weight="balanced", solver="newton-cholesky", tol=1e-10
    )
    said = regression.fit(training, own).predict(held_out)
    right = sum(s and t for s, t in zip(said, true, strict=True))
    return 2 * right / (sum(said) + sum(true))


def test_a_planted_neuron_tells_its_class_and_random_ones_do_not(rng):
    labels = np.arange(240) % 3
    features = 0.1 * rng.normal(size=(240, 60))
    for number, neuron in enumerate((17, 4, 33)):
        features[labels == number, neuron] += 1.0
    subject = subject_of(features, labels, 3)
    found = facts_of(subject, "sparse_probing")
    assert set(found) == set(measures()["sparse_probing"].facts)
    assert found["sparse_probing_f1_k1"].value == 1
    assert found["sparse_probing_f1_k16"].value == pytest.approx(1, abs=0.02)
    assert found["sparse_probing_random_f1_k1"].value < 0.55
    assert found["sparse_probing"].value == pytest.approx(1 - found["sparse_probing_random_f1_k1"].value)
    assert (found["sparse_probing_f1_k1"].count, found["sparse_probing_f1_k1"].quantiles) == (3, (1.0,) * 5)
    largest = values_of(subject, "sparse_probing")["sparse_probing_difference"]
    assert set(np.argsort(largest)[-3:]) == {4, 17, 33}


def test_a_class_that_is_spread_over_neurons_needs_several(rng):
    labels = np.arange(400) % 2
    features = 1.5 * rng.normal(size=(400, 40))
    features[:, :16] += labels[:, None]
    found = facts_of(subject_of(features, labels), "sparse_probing")
    assert found["sparse_probing_f1_k16"].value > found["sparse_probing_f1_k1"].value + 0.15


def test_probes_are_those_of_loops_over_classes(rng):
    labels = np.concatenate([np.arange(4), np.arange(4), rng.integers(0, 4, 92)])
    features = rng.normal(size=(100, 12)) + 0.7 * rng.normal(size=(4, 12))[labels]
    features = (features * 10.0 ** rng.uniform(-2, -1, 12)).astype(np.float32)
    found = facts_of(subject_of(features, labels, 4, seed=3), "sparse_probing")
    assert not any(name.endswith("k16") for name in found)  # there are 12 neurons
    held_out = module._held_out(labels, 4, 3)
    for number in range(4):
        assert held_out[labels == number].sum() == max(1, round(0.3 * (labels == number).sum()))
    training = features[~held_out].astype(float)
    for size in (1, 2, 4, 8):
        scores = []
        for number in range(4):
            own = labels == number
            off = [abs(training[own[~held_out], i].mean() - training[~own[~held_out], i].mean()) for i in range(12)]
            best = sorted(range(12), key=lambda i: -off[i])[:size]
            scaled = (features[:, best] - training[:, best].mean(0)) / training[:, best].std(0)
            scores.append(naive_f1(scaled[~held_out], own[~held_out], scaled[held_out], own[held_out]))
        assert found[f"sparse_probing_f1_k{size}"].value == pytest.approx(np.mean(scores), abs=1e-6)


@pytest.mark.parametrize("gap", [0.0, 0.5, 50.0])  # the last is separated by far
def test_regressions_are_scikit_learns(rng, gap):
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    own = rng.random((3, 40)) < np.array([0.5, 0.1, 0.9])[:, None]
    own[:, :2] = [True, False]
    inputs = rng.normal(size=(3, 40, 5)) * [1, 1, 1, 30, 0] + gap * own[:, :, None]
    found = module.logistic_regression(inputs, own)
    for number in range(3):
        wanted = linear_model.LogisticRegression(class_weight="balanced", tol=1e-12, max_iter=10_000)
        wanted.fit(inputs[number], own[number])
        theirs = np.append(wanted.coef_[0], wanted.intercept_)
        assert found[number] == pytest.approx(theirs, rel=1e-4, abs=1e-4)


def test_a_probe_that_does_not_converge_is_told(monkeypatch, rng):
    monkeypatch.setattr(module, "STEPS", 2)
    error = seen(subject_of(rng.normal(size=(40, 3)), np.arange(40) % 2), "sparse_probing").error
    assert error.status == "unsupported"
    assert str(error) == "sparse_probing: a probe has not converged in 2 steps; take other samples"


def test_a_samples_activations_are_means_over_its_positions(rng):
    labels = np.arange(24) % 2
    features = rng.normal(size=(24, 5, 6)) + labels[:, None, None]
    tokens, means = (facts_of(subject_of(one, labels), "sparse_probing") for one in (features, features.mean(1)))
    for name, fact in means.items():
        assert tokens[name].value == pytest.approx(fact.value, abs=1e-6), name


def test_neurons_that_never_vary_tell_nothing():
    found = facts_of(subject_of(np.ones((20, 3)), np.arange(20) % 2), "sparse_probing")
    assert found["sparse_probing_difference"].value == 0
    assert found["sparse_probing"].value == 0


def test_of_many_samples_some_are_drawn_class_by_class(monkeypatch, rng):
    monkeypatch.setattr(module, "MOST", 100)
    labels = np.array([0] * 800 + [1] * 195 + [2] * 5)
    kept = module._drawn(labels, 3, 0)
    assert np.bincount(labels[kept]).tolist() == [80, 19, 4]
    assert (np.diff(kept) > 0).all()
    assert not np.array_equal(kept, module._drawn(labels, 3, 1))
    features = rng.normal(size=(1000, 2))
    features[:, 1] += 5 * labels
    assert facts_of(subject_of(features, labels, 3), "sparse_probing")["sparse_probing_f1_k1"].value > 0.6


def test_the_seed_decides_split_and_random_neurons(rng):
    labels = np.arange(60) % 2
    features = rng.normal(size=(60, 30)) + 0.5 * labels[:, None]
    first, again, other = (
        [fact.value for fact in facts_of(subject_of(features, labels, seed=s), "sparse_probing").values()]
        for s in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_rows_of_experts_belong_to_no_sample():
    tally = measures()["sparse_probing"].tally(subject_of(np.ones((8, 3)), [0, 1] * 4))
    tally.see(Place(HIDDEN, "e0.m", routed=True), torch.ones(1, 9, 3), Batch(0, 0, {}, labels=torch.tensor([0, 1])))
    assert tally.found().facts == ()


def test_what_is_refused(rng):
    features = rng.normal(size=(12, 3))
    assert "class 'b' has 3 of the samples, and 4 or more are needed; take more samples" in refusal(
        subject_of(features, [0] * 9 + [1] * 3, 2, names=("a", "b")), "sparse_probing"
    )
    assert "it needs labels" in refusal(subject_of(features, None), "sparse_probing")
