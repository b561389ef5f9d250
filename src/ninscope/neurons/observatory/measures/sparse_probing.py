"""How well a few neurons tell a labelled class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.errors import CheckpointError
from ninscope.neurons.observatory.labelled_samples import check_once, hidden_objection, labels_objection
from ninscope.neurons.observatory.measure import (
    HIDDEN,
    LABELS,
    Batch,
    Fact,
    Found,
    NeuronValues,
    Place,
    StreamedMeasure,
    Tally,
    distribution,
)
from ninscope.neurons.observatory.registry import register
from ninscope.seeding import keyed_bits

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

SIZES = (1, 2, 4, 8, 16)  # neurons of a probe
HELD_OUT = 0.3  # of every class's samples, as the authors'
LEAST = 4  # samples of a class
MOST = 4096  # samples that are kept
STEPS, SLOPE = 100, 1e-9  # of Newton's method: at most so many, until the slope is this, a sample


@register
class SparseProbing(StreamedMeasure):
    """How well k neurons of a layer tell whether a sample is of a class, for k = 1, 2, 4, 8 and 16. A class that one neuron
    tells has a neuron of its own; one that needs many is spread over them. Beside stand as many neurons drawn at random.

    A sample's activations are means over its positions. For each class, the k neurons of the largest |mean over the class -
    mean over the others| on the training samples; of these, scaled to mean 0 and variance 1, logistic regression (L2, C = 1,
    classes balanced); F1 = 2 TP/(2 TP + FP + FN) of the class on the held-out samples, 0 where nothing is found.

    Source: Gurnee et al. (2023), "Finding Neurons in a Haystack", of whom the abstract and the code were read: means over tokens,
    the ranking `mean_dif`, balanced classes and 30 % held out are theirs. They divide by the deviation alone and stop the solver
    after 200 steps; here it goes on until it has converged, so that the result depends on nothing else. It is what scikit-learn's
    LogisticRegression converges to, found for all classes of a layer at once.

    A sample's means are kept until the end, float32 [samples, neurons] a layer; of more than 4,096 samples, 4,096 are drawn, with
    the classes in proportion. Samples are split class by class by the seed. A layer of fewer than k neurons has no rows of k.

    Pitfalls: F1 at chance is not 0 but grows with the class's share, which the random neurons show; with k near the number of
    neurons both are alike. The neuron with the largest difference may be one of large scale rather than the one that tells
    best. Neurons of experts have no rows: which sample a row is of is not known there.
    """

    name = "sparse_probing"
    title = "Classes told by few neurons"
    source = "Gurnee et al. 2023 (abstract and code read)"
    facts: ClassVar[Mapping[str, str]] = {
        "sparse_probing": "F1 of the best neuron less that of a random one, mean over classes; -1 to 1",
        **{f"sparse_probing_f1_k{k}": f"held-out F1 of k = {k} neurons, mean over classes; 0 to 1" for k in SIZES},
        **{
            f"sparse_probing_random_f1_k{k}": f"held-out F1 of k = {k} random neurons, mean over classes" for k in SIZES
        },
        "sparse_probing_difference": "a neuron's largest |mean difference| over classes, in deviations; mean over neurons",
    }
    needs = frozenset({LABELS})
    reads = frozenset({HIDDEN})

    def objection(self, subject: Subject) -> str | None:
        return labels_objection(subject, LEAST) or hidden_objection(subject)

    def tally(self, subject: Subject) -> Tally:
        labels = subject.examples.labels
        assert labels is not None
        return _SampleMeans(labels, len(subject.examples.classes), subject.seed)


class _SampleMeans(Tally):
    """Mean activations of the samples that are kept."""

    def __init__(self, labels: np.ndarray, classes: int, seed: int) -> None:
        self._seed, self._classes = seed, classes
        kept = _drawn(labels, classes, seed)
        self._labels = labels[kept]
        self._row = np.full(len(labels), -1, np.int64)
        self._row[kept] = np.arange(len(kept))
        self._means: dict[str, np.ndarray] = {}
        self._seen: set[str] = set()  # layers of this batch

    def batch_ended(self, batch: Batch) -> None:
        self._seen.clear()

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        if place.routed:
            return
        from torch import float32

        check_once(place, self._seen)
        rows = self._row[batch.first : batch.first + len(values)]
        means = values.mean(1, dtype=float32).cpu().numpy()
        if place.layer not in self._means:
            self._means[place.layer] = np.zeros((len(self._labels), means.shape[1]), np.float32)
        self._means[place.layer][rows[rows >= 0]] = means[rows >= 0]

    def found(self) -> Found:
        facts: list[Fact] = []
        neurons: list[NeuronValues] = []
        held_out = _held_out(self._labels, self._classes, self._seed)
        for layer, means in self._means.items():
            probes = _Probes(layer, means, self._labels, held_out, self._classes, self._seed)
            facts += probes.facts()
            number, values = distribution("sparse_probing_difference", layer, probes.largest_difference())
            facts.append(number)
            neurons += values
        return Found(tuple(facts), tuple(neurons))


def _drawn(labels: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Numbers of the samples that are kept, ascending: all, or about MOST with the classes in proportion."""
    if len(labels) <= MOST:
        return np.arange(len(labels))
    parts = []
    for number, order in enumerate(_shuffled(labels, classes, "sparse probing samples", seed)):
        share = np.count_nonzero(labels == number) * MOST // len(labels)
        parts.append(order[: max(share, LEAST)])
    return np.sort(np.concatenate(parts))


def _held_out(labels: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Which samples are held out: bool [samples], HELD_OUT of every class and one at least."""
    held_out = np.zeros(len(labels), bool)
    for order in _shuffled(labels, classes, "sparse probing split", seed):
        held_out[order[: max(1, round(HELD_OUT * len(order)))]] = True
    return held_out


def _shuffled(labels: np.ndarray, classes: int, name: str, seed: int) -> list[np.ndarray]:
    """The samples of every class in an order that is drawn for it."""
    random = np.random.Generator(keyed_bits(name, seed))
    return [random.permutation(np.flatnonzero(labels == number)) for number in range(classes)]


class _Probes:
    """Probes of one layer. means: float32 [samples, neurons]. labels: int64, held_out: bool [samples]."""

    def __init__(
        self, layer: str, means: np.ndarray, labels: np.ndarray, held_out: np.ndarray, classes: int, seed: int
    ) -> None:
        self._layer, self._labels, self._held_out, self._seed = layer, labels, held_out, seed
        training = means[~held_out].astype(np.float64)
        deviation = training.std(0)
        self._deviation = np.where(deviation > 0, deviation, 1)
        self._scaled = (means - training.mean(0)) / self._deviation
        self._differences = np.stack([self._difference(training, number) for number in range(classes)])

    def _difference(self, training: np.ndarray, number: int) -> np.ndarray:
        own = self._labels[~self._held_out] == number
        difference: np.ndarray = np.abs(training[own].mean(0) - training[~own].mean(0))
        return difference

    def largest_difference(self) -> np.ndarray:
        """Of every neuron, over classes, in its deviations over training samples: float64 [neurons]; 0 where it has none."""
        largest: np.ndarray = (self._differences / self._deviation).max(0)
        return largest

    def facts(self) -> list[Fact]:
        neurons = self._scaled.shape[1]
        sizes = [size for size in SIZES if size <= neurons]
        scores = {(size, chosen): self._scores(size, chosen) for size in sizes for chosen in (True, False)}
        named = {"sparse_probing": scores[1, True] - scores[1, False]}
        named |= {f"sparse_probing_f1_k{size}": scores[size, True] for size in sizes}
        named |= {f"sparse_probing_random_f1_k{size}": scores[size, False] for size in sizes}
        return [distribution(name, self._layer, values, "class", keep=False)[0] for name, values in named.items()]

    def _scores(self, size: int, chosen: bool) -> np.ndarray:
        """Held-out F1 of every class. chosen: by the difference of means, the first of equals; else drawn, by the seed."""
        orders = []
        for number, differences in enumerate(self._differences):
            name = f"sparse probing neurons of {self._layer}, class {number}"
            random = np.random.Generator(keyed_bits(name, self._seed))
            orders.append(np.argsort(-differences, kind="stable") if chosen else random.permutation(len(differences)))
        inputs = np.stack([self._scaled[:, order[:size]] for order in orders])
        own = self._labels == np.arange(len(orders))[:, None]
        weights = logistic_regression(inputs[:, ~self._held_out], own[:, ~self._held_out])
        said, true = _margins(inputs[:, self._held_out], weights) > 0, own[:, self._held_out]
        scores: np.ndarray = 2 * (said & true).sum(1) / (said.sum(1) + true.sum(1))
        return scores


def logistic_regression(inputs: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Weights and offset of several regressions: float64 [regressions, inputs + 1], the offset last.

    inputs: float64 [regressions, samples, inputs], of scale 1. own: bool [regressions, samples], True and False in each. The
    least of sum_i s_i ln(1 + exp(-y_i m_i)) + |weights|^2 / 2, where s_i gives both classes half of the samples' weight; by
    Newton's method from 0. Raises CheckpointError (unsupported): it does not get there.
    """
    samples = own.shape[1]
    with_offset = np.concatenate([inputs, np.ones((*inputs.shape[:2], 1))], 2)
    members = own.sum(1, keepdims=True)
    share = samples / 2 / np.where(own, members, samples - members)
    penalty = np.append(np.ones(inputs.shape[2]), 0)
    found = np.zeros((len(inputs), len(penalty)))
    for _ in range(STEPS):
        likely = 1 / (1 + np.exp(-np.clip(_margins(inputs, found), -500, 500)))
        slope = ((share * (likely - own))[:, None] @ with_offset)[:, 0] + penalty * found
        if np.abs(slope).max() <= SLOPE * samples:
            return found
        scaled = with_offset * (share * likely * (1 - likely))[:, :, None]
        bend = scaled.transpose(0, 2, 1) @ with_offset + np.diag(penalty)
        found -= np.linalg.solve(bend, slope[:, :, None])[:, :, 0]
    raise CheckpointError(
        "unsupported", f"sparse_probing: a probe has not converged in {STEPS} steps; take other samples"
    )


def _margins(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float64 [regressions, samples], above 0 for the class."""
    margins: np.ndarray = (inputs @ weights[:, :-1, None])[:, :, 0] + weights[:, -1:]
    return margins
