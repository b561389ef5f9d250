"""Whether neurons that were dormant at an earlier checkpoint still are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.errors import CheckpointError
from ninscope.neurons.observatory.by_layer import something_seen
from ninscope.neurons.observatory.dormancy import TAU, WIDE_TAU, Scores
from ninscope.neurons.observatory.measure import (
    ALL,
    HIDDEN,
    PREVIOUS,
    START,
    Batch,
    ComparingTally,
    Fact,
    Found,
    Place,
    StreamedComparison,
)
from ninscope.neurons.observatory.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject


@register
class DormantPersistence(StreamedComparison):
    """Of the neurons that were dormant at an earlier checkpoint, the share that is dormant now.

    |D_t and D_t'| / |D_t|, where D is the set of neurons of score at most tau (`dormant` has the score) at the earlier
    step t and at t'. Beside it stands what sets of these sizes would share by chance, |D_t'| / N: a large overlap says
    little where most neurons are dormant. Without a dormant neuron at t the number is not known (NaN); the authors'
    code gives 0 there.

    An expert's activations are of the tokens that each checkpoint sends to it, in batches in which both send it some.

    Source: Sokar et al., "The Dormant Neuron Phenomenon in Deep Reinforcement Learning" (2023), and its public code
    (google/dopamine, labs/redo, `log_intersected_dead_neurons`), which was read.
    """

    name: ClassVar[str] = "dormant_persistence"
    title: ClassVar[str] = "Dormant neurons that stay dormant"
    source: ClassVar[str] = "Sokar et al. 2023, The Dormant Neuron Phenomenon, and its code"
    facts: ClassVar = {
        "dormant_persistence": "share of the neurons dormant before (tau 0.025) that are dormant now, 0 to 1; count: those before",
        "dormant_persistence_chance": "the same if the neurons that are dormant now were any; count: those of the layer",
        "dormant_persistence_tau_0.1": "as dormant_persistence, at tau 0.1",
        "dormant_persistence_chance_tau_0.1": "as dormant_persistence_chance, at tau 0.1",
    }
    compared_with: ClassVar[tuple[str, ...]] = (PREVIOUS, START)
    reads: ClassVar[frozenset[str]] = frozenset({HIDDEN})

    def tally(self, subject: Subject, other: Subject) -> ComparingTally:
        """Sums of |h| of each neuron, of both checkpoints."""
        return _Tally()


class _Tally(ComparingTally):
    def __init__(self) -> None:
        self._now, self._before = Scores(), Scores()

    def see(self, place: Place, values: Tensor, other: Tensor, batch: Batch) -> None:
        if values.shape[-1] != other.shape[-1]:
            counts = f"{values.shape[-1]} neurons, and {other.shape[-1]} at the checkpoint it is compared with"
            raise CheckpointError(
                "unsupported",
                f"dormant_persistence: layer {place.layer} has {counts}; compare checkpoints of one network",
            )
        self._now.see(place, values)
        self._before.see(place, other)

    def found(self) -> Found:
        now, before = self._now.scores(), self._before.scores()
        both = {layer: (before[layer], now[layer]) for layer in now if layer in before}
        something_seen("dormant_persistence", both)
        return Found((*_facts(both, TAU, ""), *_facts(both, WIDE_TAU, "_tau_0.1")))


def _facts(scores: Mapping[str, tuple[np.ndarray, np.ndarray]], tau: float, ending: str) -> Iterator[Fact]:
    sizes = {}
    for layer, (before, now) in scores.items():
        was, is_now = before <= tau, now <= tau
        sizes[layer] = np.array([np.sum(was & is_now), np.sum(was), np.sum(is_now), len(was)], np.int64)
    sizes[ALL] = np.sum(list(sizes.values()), axis=0)
    for layer, (both, was, is_now, neurons) in sizes.items():
        kept = float(both / was) if was else float("nan")
        yield Fact(f"dormant_persistence{ending}", layer, kept, count=int(was))
        yield Fact(f"dormant_persistence_chance{ending}", layer, float(is_now / neurons), count=int(neurons))
