"""Scores beside their definitions, written out in plain Python."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninscope.errors import RequestError
from ninscope.neurons.tasks.scores import checked_metrics, is_regression, scores


def counted(predicted, labels, number):
    """True positives, false positives and false negatives of one class."""
    pairs = list(zip(predicted, labels, strict=True))
    return tuple(sum(pair == (a, b) for pair in ((p == number, q == number) for p, q in pairs))
                 for a, b in ((True, True), (True, False), (False, True)))  # fmt: skip


def f1_of(predicted, labels, number):
    right, wrong, lost = counted(predicted, labels, number)
    return 2 * right / (2 * right + wrong + lost) if right else 0.0


def matthews_of(predicted, labels, classes):
    """Of the confusion matrix: covariance over deviations (Gorodkin, 2004)."""
    n, right = len(labels), sum(p == q for p, q in zip(predicted, labels, strict=True))
    said, there = ([values.count(number) for number in range(classes)] for values in (predicted, labels))
    across = right * n - sum(a * b for a, b in zip(said, there, strict=True))
    spread = (n * n - sum(a * a for a in said)) * (n * n - sum(b * b for b in there))
    return across / math.sqrt(spread) if spread else 0.0


def pearson_of(one, other):
    mean, mean_other = sum(one) / len(one), sum(other) / len(other)
    across = sum((a - mean) * (b - mean_other) for a, b in zip(one, other, strict=True))
    return across / math.sqrt(sum((a - mean) ** 2 for a in one) * sum((b - mean_other) ** 2 for b in other))


def ranks_of(values):
    """Mean places of equal values, from 1."""
    return [sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2 for value in values]


@given(
    st.integers(2, 4).flatmap(
        lambda k: st.tuples(st.just(k), st.lists(st.tuples(*[st.integers(0, k - 1)] * 2), min_size=2))
    )
)
def test_scores_of_classes(drawn):
    classes, pairs = drawn
    predicted, labels = (list(values) for values in zip(*pairs, strict=True))
    found = scores(("accuracy", "f1", "matthews"), np.array(predicted), np.array(labels), classes)
    assert list(found) == ["accuracy", "f1", "matthews"]
    assert found["accuracy"] == pytest.approx(sum(p == q for p, q in pairs) / len(pairs))
    per_class = [f1_of(predicted, labels, number) for number in range(classes)]
    assert found["f1"] == pytest.approx(per_class[1] if classes == 2 else sum(per_class) / classes)
    assert found["matthews"] == pytest.approx(matthews_of(predicted, labels, classes), abs=1e-12)
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("ties", [False, True])
def test_scores_of_numbers(rng, ties):
    predicted, labels = rng.normal(size=40), rng.normal(size=40)
    if ties:
        predicted, labels = np.round(predicted), np.round(labels)
    found = scores(("spearman", "pearson"), predicted, labels + predicted)
    assert found["pearson"] == pytest.approx(pearson_of(list(predicted), list(labels + predicted)))
    ranks = (ranks_of(list(values)) for values in (predicted, labels + predicted))
    assert found["spearman"] == pytest.approx(pearson_of(*ranks))


@pytest.mark.filterwarnings("error")
def test_one_answer_for_all():
    """Where a formula divides by nothing: classes have 0, correlations have none, and nobody is warned."""
    labels = np.array([0, 1, 1, 0])
    assert scores(("accuracy", "f1", "matthews"), np.zeros(4, np.int64), labels) == {
        "accuracy": 0.5,
        "f1": 0,
        "matthews": 0,
    }
    constant = scores(("spearman", "pearson"), np.full(4, 0.3), labels.astype(float))
    assert math.isnan(constant["spearman"])
    assert math.isnan(constant["pearson"])


def test_a_missing_library_is_said_before_anything_is_trained(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert checked_metrics(("accuracy",)) == ("accuracy",)
    with pytest.raises(RequestError, match="f1 and matthews need scikit-learn, which is not installed: pip install"):
        checked_metrics(("accuracy", "f1"))


def test_wrong_metrics_are_refused():
    assert checked_metrics(["f1", "accuracy"]) == ("f1", "accuracy")
    assert checked_metrics("spearman") == ("spearman",)
    assert is_regression(("pearson", "spearman"))
    assert not is_regression(("accuracy",))
    with pytest.raises(
        RequestError, match="metric 'bleu' is not known; one of accuracy, f1, matthews, spearman, pearson"
    ):
        checked_metrics(("bleu",))
    with pytest.raises(RequestError, match=r"metrics is \[\]; one or more different ones"):
        checked_metrics(())
    with pytest.raises(RequestError, match=r"metrics is \['f1', 'f1'\]; one or more different ones"):
        checked_metrics(("f1", "f1"))
    with pytest.raises(RequestError, match="spearman and pearson need numbers, accuracy, f1, matthews classes"):
        checked_metrics(("f1", "spearman"))
