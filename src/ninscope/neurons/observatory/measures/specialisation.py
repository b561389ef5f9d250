"""Which neurons a task activates, and how many of them other tasks activate too."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.neurons.observatory.labelled_samples import hidden_objection, labels_objection, members
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

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

HELD = 0.95  # the share of activation that a task's set holds


@register
class Specialisation(StreamedMeasure):
    """Whether tasks use neurons of their own. A task is a class of the labels, or a file of text. Its set is the smallest set
    of a layer's neurons that holds 95 % of the layer's activation on the task's samples; two tasks are compared by the
    intersection of their sets over the union (1: the same neurons, 0: none in common).

    With a_i the activation of neuron i on a task, sorted downwards: the set is the first m neurons with
    a_1 + ... + a_m >= 0.95 (a_1 + ... + a_N). a_i is the sum of |h_i| over tokens (mass), or the number of tokens with h_i > 0
    (firing); equals are taken in the order of neurons.

    Source: Tan, Wu and Monz (2024), "Neuron Specialization", of whom the abstract and the code were read. The code counts tokens
    on which a ReLU neuron is not 0, which is `specialisation_firing`; the sum of |h| also tells smooth activations apart.

    Pitfalls: a layer in which all neurons are alike has sets of 95 % of its neurons, and so an intersection over union near 1:
    read it beside `specialisation_share`. Few samples a task make sets differ by chance: read it beside the shuffled control.
    Neurons of experts have no rows: which sample a row is of is not known there.
    """

    name = "specialisation"
    title = "Neurons that tasks share"
    source = "Tan, Wu, Monz 2024 (abstract and code read)"
    facts: ClassVar[Mapping[str, str]] = {
        "specialisation": "intersection over union of two tasks' sets by mass, mean over pairs of tasks; 0 to 1",
        "specialisation_firing": "the same of sets by the number of tokens with h > 0; 0 to 1",
        "specialisation_share": "share of the layer's neurons in a task's set by mass, mean over tasks; 0 to 1",
        "specialisation_single": "share of the layer's neurons that are in the set of one task alone, by mass; 0 to 1",
        "specialisation_tasks": "number of tasks whose set by mass has the neuron, mean over neurons",
    }
    needs = frozenset({LABELS})
    reads = frozenset({HIDDEN})

    def objection(self, subject: Subject) -> str | None:
        return labels_objection(subject, 1) or hidden_objection(subject)

    def tally(self, subject: Subject) -> Tally:
        return _Activation(len(subject.examples.classes))


class _Activation(Tally):
    """Mass and firing of every neuron on every task: float64 [2 * tasks, neurons] a layer."""

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._totals: dict[str, Tensor] = {}
        self._work: Tensor | None = None

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        if place.routed:
            return
        from torch import abs as absolute
        from torch import cat, gt

        assert batch.labels is not None
        work = self._room(values)
        own = members(batch.labels, self._tasks)
        mass = own @ absolute(values.float(), out=work).sum(1).double()
        firing = own @ gt(values, 0, out=work).sum(1).double()
        both = cat([mass, firing])
        self._totals[place.layer] = self._totals[place.layer] + both if place.layer in self._totals else both

    def _room(self, values: Tensor) -> Tensor:
        """An array of the values' shape in float32, the same one again as long as the shape is."""
        if self._work is None or self._work.shape != values.shape or self._work.device != values.device:
            from torch import empty, float32

            self._work = empty(values.shape, dtype=float32, device=values.device)
        return self._work

    def found(self) -> Found:
        facts: list[Fact] = []
        neurons: list[NeuronValues] = []
        for layer, totals in self._totals.items():
            by_mass, by_firing = totals.cpu().numpy().reshape(2, self._tasks, -1)
            more, values = _facts(layer, _sets(by_mass), _sets(by_firing))
            facts += more
            neurons += values
        return Found(tuple(facts), tuple(neurons))


def _sets(activation: np.ndarray) -> np.ndarray:
    """Every task's smallest set of neurons that holds HELD of its activation: bool, of the shape of `activation`.

    activation: float64 [tasks, neurons], 0 or more. A task without any activation has an empty set.
    """
    chosen = np.zeros(activation.shape, bool)
    for task, row in enumerate(activation):
        order = np.argsort(-row, kind="stable")
        reached = np.cumsum(row[order])
        if reached[-1] > 0:
            chosen[task, order[: np.searchsorted(reached, HELD * reached[-1]) + 1]] = True
    return chosen


def _overlaps(sets: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of tasks, NaN where both sets are empty."""
    overlaps = []
    for first, second in combinations(sets, 2):
        union = np.count_nonzero(first | second)
        overlaps.append(np.count_nonzero(first & second) / union if union else np.nan)
    return np.array(overlaps)


def _facts(layer: str, by_mass: np.ndarray, by_firing: np.ndarray) -> tuple[list[Fact], tuple[NeuronValues, ...]]:
    tasks = by_mass.sum(0)
    single = Fact("specialisation_single", layer, float((tasks == 1).mean()), count=len(tasks))
    number, values = distribution("specialisation_tasks", layer, tasks)
    facts = [
        distribution("specialisation", layer, _overlaps(by_mass), "pair", keep=False)[0],
        distribution("specialisation_firing", layer, _overlaps(by_firing), "pair", keep=False)[0],
        distribution("specialisation_share", layer, by_mass.mean(1), "task", keep=False)[0],
        single,
        number,
    ]
    return facts, values
