"""Lazy neurons: how few activations are on."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ninscope.neurons.observatory.by_layer import something_seen
from ninscope.neurons.observatory.firing import Firing, is_on, over_neurons, processor_values, told_facts
from ninscope.neurons.observatory.measure import ALL, HIDDEN, Batch, Fact, Found, Place, StreamedMeasure, Tally
from ninscope.neurons.observatory.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject


@register
class Lazy(StreamedMeasure):
    """The share of activations that are on: of all pairs of a token and a hidden neuron, those in which the neuron
    fires.

    lazy = (1 / (T N)) sum over tokens t and neurons i of [h_ti is on]. The paper says it of ReLU, where on is what is
    not zero; `firing.py` says what it is elsewhere. In networks of smooth activations nothing is zero, so that a small
    share does not mean that computation could be saved: `cett` measures that.

    Source: Li et al., "The Lazy Neuron Phenomenon" (2023). Abstract only: the formula is ours, as it words it.
    """

    name: ClassVar[str] = "lazy"
    title: ClassVar[str] = "Share of activations that are on"
    source: ClassVar[str] = "Li et al. 2023, The Lazy Neuron Phenomenon"
    facts: ClassVar = {
        "lazy": "share of pairs of a token and a neuron in which the neuron is on, 0 to 1; count: tokens",
        **told_facts("lazy"),
    }
    reads: ClassVar[frozenset[str]] = frozenset({HIDDEN})

    def tally(self, subject: Subject) -> Tally:
        """Counts of what is on, of each layer."""
        return _Tally(subject)


class _Tally(Tally):
    def __init__(self, subject: Subject) -> None:
        self._firing = Firing(subject)
        self._on: dict[str, Tensor] = {}
        self._tokens: dict[str, int] = {}
        self._neurons: dict[str, int] = {}

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        import torch

        from ninscope.neurons.observatory.counting_kernels import add_on

        if not values.numel():
            return
        rule, held = self._firing.rule(place, values), processor_values(values)
        if place.layer not in self._on:
            self._on[place.layer] = torch.zeros(values.shape[-1], dtype=torch.float64, device=values.device)
        on = self._on[place.layer]
        if held is None:
            on += is_on(rule, values).sum((0, 1))
        else:
            rows, sums = held.reshape(-1, held.shape[-1]), on.numpy()
            over_neurons(rows, lambda first, last: add_on(rows, *rule.bounds, first, last, sums))
        self._tokens[place.layer] = self._tokens.get(place.layer, 0) + values.shape[0] * values.shape[1]
        self._neurons[place.layer] = values.shape[2]

    def found(self) -> Found:
        something_seen("lazy", self._on)
        on = {layer: float(sums.sum()) for layer, sums in self._on.items()}
        pairs = {layer: self._tokens[layer] * self._neurons[layer] for layer in on}
        rows = [Fact("lazy", layer, on[layer] / pairs[layer], count=self._tokens[layer]) for layer in on]
        rows.append(Fact("lazy", ALL, sum(on.values()) / sum(pairs.values()), count=max(self._tokens.values())))
        return Found((*rows, *self._firing.facts("lazy")))
