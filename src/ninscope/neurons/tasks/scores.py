"""Scores of predictions on held-out examples, by scikit-learn and scipy. Needs no torch."""

import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from ninscope.errors import RequestError

CLASSIFICATION = ("accuracy", "f1", "matthews")
REGRESSION = ("spearman", "pearson")


def checked_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    """Names of metrics, the main metric first. Raises RequestError: an unknown name, a name twice, or metrics of both kinds."""
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    known = CLASSIFICATION + REGRESSION
    for name in names:
        if name not in known:
            raise RequestError(f"metric {name!r} is not known; one of {', '.join(known)}")
    if not names or len(set(names)) < len(names):
        raise RequestError(
            f"metrics is {list(names)!r}; one or more different ones of {', '.join(known)} were expected"
        )
    if len({name in REGRESSION for name in names}) > 1:
        raise RequestError(
            f"metrics is {list(names)!r}; {' and '.join(REGRESSION)} need numbers, {', '.join(CLASSIFICATION)} classes"
        )
    if {"f1", "matthews"}.intersection(names) and find_spec("sklearn") is None:
        raise RequestError("f1 and matthews need scikit-learn, which is not installed: pip install scikit-learn")
    return names


def is_regression(metrics: Sequence[str]) -> bool:
    return metrics[0] in REGRESSION


def scores(metrics: Sequence[str], predicted: np.ndarray, labels: np.ndarray, classes: int = 2) -> dict[str, float]:
    """Scores of predictions [n] for labels [n]: class numbers below `classes` (int64), or numbers (float) for correlations.

    f1: of class 1 where there are two classes, as in GLUE, else the mean over classes; 0 where nothing is right. matthews: 0
    where all predictions are one class. spearman, pearson: NaN where predictions or labels are all the same.
    """
    return {metric: _METRICS[metric](predicted, labels, classes) for metric in metrics}


def _accuracy(predicted: np.ndarray, labels: np.ndarray, classes: int) -> float:
    return float((predicted == labels).mean())


def _f1(predicted: np.ndarray, labels: np.ndarray, classes: int) -> float:
    from sklearn.metrics import f1_score

    if classes == 2:
        return float(f1_score(labels, predicted, pos_label=1, average="binary", zero_division=0))
    return float(f1_score(labels, predicted, labels=range(classes), average="macro", zero_division=0))


def _matthews(predicted: np.ndarray, labels: np.ndarray, classes: int) -> float:
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a single class, for which it is 0 by definition
        return float(matthews_corrcoef(labels, predicted))


def _spearman(predicted: np.ndarray, labels: np.ndarray, classes: int) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(predicted, labels).statistic) if _vary(predicted, labels) else math.nan


def _pearson(predicted: np.ndarray, labels: np.ndarray, classes: int) -> float:
    from scipy.stats import pearsonr

    return float(pearsonr(predicted, labels).statistic) if _vary(predicted, labels) else math.nan


def _vary(*values: np.ndarray) -> bool:
    return all(np.ptp(value) > 0 for value in values)


_METRICS = {"accuracy": _accuracy, "f1": _f1, "matthews": _matthews, "spearman": _spearman, "pearson": _pearson}
