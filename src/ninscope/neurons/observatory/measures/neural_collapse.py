"""Neural collapse: how near the last features of a classifier are to one point a class, the points a simplex."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.errors import CheckpointError
from ninscope.neurons.observatory.labelled_samples import labels_objection, members
from ninscope.neurons.observatory.measure import (
    FEATURES,
    LABELS,
    OUTPUT,
    Batch,
    Fact,
    Found,
    Place,
    StreamedMeasure,
    Tally,
)
from ninscope.neurons.observatory.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject


@register
class NeuralCollapse(StreamedMeasure):
    """How far the features that a classifier's head reads have collapsed: samples of a class onto their mean (NC1), the means
    onto the corners of a regular simplex (NC2), the head's rows onto the means (NC3), and the head's choice onto the nearest
    mean (NC4). All are 0 where the collapse is complete.

    With the class means mu_c, their mean mu, M = [mu_c - mu], S_W = mean over samples of (h - mu_c)(h - mu_c)^T, S_B = M M^T / C:
    NC1 = tr(S_W S_B^+)/C; NC2 = the standard deviation (C - 1 in the denominator) of ||mu_c - mu|| over its mean, and the mean
    over pairs of |cos(mu_c - mu, mu_c' - mu) + 1/(C - 1)|; NC3 = ||W/||W|| - M/||M|| ||^2 with Frobenius norms; NC4 = the share of
    samples for which the head and the nearest mean name different classes.

    Source: Papyan, Han and Donoho (2020), of whom the code was read; it leaves out NC1's division by C, which is the paper's.
    S_B has rank C - 1 at most, so the pseudo-inverse takes C - 1 singular values at most.

    Moments stream; NC4 needs the means first, and so a second look at the features: one forward pass more. Pitfalls: the
    phenomenon is one of training samples, of balanced classes, and of training beyond zero error: on held-out samples the
    values stay above 0. More classes than dimensions + 1 have no such simplex, and are refused.
    """

    name = "neural_collapse"
    title = "Neural collapse of the last features"
    source = "Papyan, Han, Donoho 2020 (code read)"
    facts: ClassVar[Mapping[str, str]] = {
        "neural_collapse": "NC1: variance within classes over variance between them, tr(S_W S_B^+)/C; 0 or more",
        "neural_collapse_nc2_norms": "NC2: coefficient of variation of the class means' distances from their mean; 0 or more",
        "neural_collapse_nc2_angles": "NC2: mean |cos + 1/(C - 1)| over pairs of centred class means; 0 to 2",
        "neural_collapse_nc3": "NC3: squared distance of the head's weights from the centred class means, both of norm 1; 0 to 4",
        "neural_collapse_nc4": "NC4: share of samples for which head and nearest class mean differ; 0 to 1",
    }
    needs = frozenset({LABELS})
    reads = frozenset({FEATURES})

    def objection(self, subject: Subject) -> str | None:
        if (reason := labels_objection(subject, 2)) is not None:
            return reason
        head, classes = subject.head(), len(subject.examples.classes)
        if head is None or subject.predicts != LABELS:
            return f"{subject.name} has no matrix that reads features and gives classes of samples"
        if len(head) != classes:
            return f"its head has {len(head)} outputs, and the examples have {classes} classes"
        if classes > head.shape[1] + 1:
            return f"{classes} classes in {head.shape[1]} dimensions are no simplex, which has dimensions + 1 corners at most"
        return None

    def tally(self, subject: Subject) -> Tally:
        return _Collapse(subject)


class _Collapse(Tally):
    """Sums of features and of their products, float64, off the mean of the first batch, so that a large mean costs no digits."""

    def __init__(self, subject: Subject) -> None:
        self._subject, self._classes = subject, len(subject.examples.classes)
        self._place: Place | None = None
        self._shift: Tensor
        self._counts: Tensor
        self._sums: Tensor
        self._products: Tensor

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        """Raises CheckpointError (unsupported): the head reads several positions of a sample."""
        if values.shape[1] != 1:
            raise CheckpointError(
                "unsupported",
                f"{self._subject.name}: its head reads {values.shape[1]} positions of a sample; collapse is of one a sample",
            )
        rows = values[:, 0].double()
        if self._place is None:
            self._place, self._shift = place, rows.mean(0)
            width = rows.shape[1]
            self._counts = rows.new_zeros(self._classes)
            self._sums, self._products = rows.new_zeros(self._classes, width), rows.new_zeros(width, width)
        rows = rows - self._shift
        assert batch.labels is not None
        own = members(batch.labels, self._classes)
        self._counts += own.sum(1)
        self._sums += own @ rows
        self._products += rows.T @ rows

    def found(self) -> Found:
        """Raises CheckpointError (unsupported): class means coincide, so nothing can be said of their directions."""
        assert self._place is not None
        layer, samples = self._place.layer, int(self._counts.sum())
        means = self._sums / self._counts[:, None]
        within = self._products / samples - (means.T * (self._counts / samples)) @ means
        centred = means - means.mean(0)
        distances = centred.norm(dim=1).cpu().numpy()
        if not distances.all():
            name = self._subject.examples.classes[int(distances.argmin())]
            raise CheckpointError(
                "unsupported",
                f"{layer}: the features of class {name!r} have the mean of all classes; collapse is not defined",
            )
        head = self._subject.head()
        assert head is not None
        values = {
            "neural_collapse": (_within_over_between(within.cpu().numpy(), centred.cpu().numpy()), samples),
            "neural_collapse_nc2_norms": (float(distances.std(ddof=1) / distances.mean()), self._classes),
            "neural_collapse_nc2_angles": (_off_simplex(centred.cpu().numpy()), self._classes),
            "neural_collapse_nc3": (_off_duality(head.double().cpu().numpy(), centred.cpu().numpy()), self._classes),
            "neural_collapse_nc4": (self._second_look(means) / samples, samples),
        }
        return Found(tuple(Fact(name, layer, value, count=count) for name, (value, count) in values.items()))

    def _second_look(self, means: Tensor) -> int:
        """The number of samples for which the head and the nearest class mean differ; the first of equals is taken."""
        chosen: dict[str, Tensor] = {}
        differing = 0

        def see(place: Place, values: Tensor, batch: Batch) -> None:
            nonlocal differing
            if place.kind == FEATURES:
                rows = values[:, 0].double() - self._shift
                chosen[FEATURES] = (means.square().sum(1) - 2 * rows @ means.T).argmin(1)
            else:
                chosen[OUTPUT] = values[:, 0].argmax(1)
            if len(chosen) == 2:
                differing += int((chosen[FEATURES] != chosen[OUTPUT]).sum())
                chosen.clear()

        self._subject.run((FEATURES, OUTPUT), see)
        return differing


def _within_over_between(within: np.ndarray, centred: np.ndarray) -> float:
    """tr(S_W S_B^+)/C. within: float64 [width, width]. centred: float64 [classes, width], S_B = centred^T centred / classes."""
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    smallest = singular[0] * max(centred.shape) * np.finfo(np.float64).eps
    known = np.flatnonzero(singular > smallest)[: len(centred) - 1]
    variances = np.einsum("kd,de,ke->k", directions[known], within, directions[known])
    return float((variances / np.square(singular[known])).sum())  # the two factors C cancel


def _off_simplex(centred: np.ndarray) -> float:
    directions = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    pairs = np.triu_indices(len(directions), 1)
    return float(np.abs((directions @ directions.T)[pairs] + 1 / (len(directions) - 1)).mean())


def _off_duality(head: np.ndarray, centred: np.ndarray) -> float:
    return float(np.square(head / np.linalg.norm(head) - centred / np.linalg.norm(centred)).sum())
