"""Dormant neurons: those that do little beside the others of their layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ninscope.neurons.observatory.by_layer import distributions, neuron_values, shares, something_seen
from ninscope.neurons.observatory.dormancy import TAU, WIDE_TAU, Scores
from ninscope.neurons.observatory.measure import HIDDEN, Batch, Found, Place, StreamedMeasure, Tally
from ninscope.neurons.observatory.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject


@register
class Dormant(StreamedMeasure):
    """The share of hidden neurons whose activations are small beside those of their layer.

    s_i = mean |h_i| / (mean over the layer's k of mean |h_k| + 1e-9); dormant where s_i <= tau, for tau .025 and .1.
    Means run over all examples and positions; of a convolution a neuron is a feature map, and its positions are space.
    The last layer's outputs are no hidden neurons. Nothing is said about on and off, so that any activation function
    will do.

    The score is relative: a layer that is dead as a whole has, if its activations are not exactly zero, no dormant
    neuron, and one neuron with huge activations makes all others dormant.

    Source: Sokar et al., "The Dormant Neuron Phenomenon in Deep Reinforcement Learning" (2023), and its public code
    (google/dopamine, labs/redo, `estimate_neuron_score`), which was read. They take one batch, we take all examples.
    """

    name: ClassVar[str] = "dormant"
    title: ClassVar[str] = "Dormant neurons"
    source: ClassVar[str] = "Sokar et al. 2023, The Dormant Neuron Phenomenon, and its code"
    facts: ClassVar = {
        "dormant": "share of neurons whose score is at most 0.025, 0 to 1",
        "dormant_tau_0.1": "share of neurons whose score is at most 0.1, 0 to 1",
        "dormant_score": "mean size of a neuron's activations over that of its layer's; the mean is 1",
    }
    reads: ClassVar[frozenset[str]] = frozenset({HIDDEN})

    def tally(self, subject: Subject) -> Tally:
        """Sums of |h| of each neuron."""
        return _Tally()


class _Tally(Tally):
    def __init__(self) -> None:
        self._scores = Scores()

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        self._scores.see(place, values)

    def found(self) -> Found:
        scores = self._scores.scores()
        something_seen("dormant", scores)
        facts = (
            *shares("dormant", {layer: score <= TAU for layer, score in scores.items()}),
            *shares("dormant_tau_0.1", {layer: score <= WIDE_TAU for layer, score in scores.items()}),
            *distributions("dormant_score", scores),
        )
        return Found(facts, neuron_values("dormant_score", scores))
