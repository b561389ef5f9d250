"""MEmeL's monosemantic scale, of activations by the statistics of earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from ninscope.errors import CheckpointError, NonFiniteError
from ninscope.neurons.observatory.measure import (
    ALL,
    HIDDEN,
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
    from ninscope.neurons.phi import CountedPhi, PhiDistribution, PhiSummary

# Further rows, and what a PhiSummary calls them.
_FURTHER = {
    "phi_p50": "p50",
    "phi_p90": "p90",
    "phi_p99": "p99",
    "phi_p999": "p999",
    "phi_largest": "largest",
    "phi_largest_mean": "largest_mean",
}


@register
class Phi(StreamedMeasure):
    """How far activations stray from their neuron's mean, in units of its variance. A neuron that is quiet on most tokens and
    loud on a few has a few large values: it is monosemantic in MEmeL's sense.

    phi = (h - mean)^2 / (variance + 0.01 * the layer's mean variance), with each neuron's mean and variance over history, which
    is the first half of the batches (of an odd number, the larger half), so that it depends on the batch size; phi is of the
    others. The variance is over one activation less than there are. A neuron without variance has 0.

    Source: MEmeL, Definition 3.1 and Appendix E (paper and code read): the same scale and the same numbers as
    `ninscope.neurons.phi.phi_of_layers` gives for these halves, quantiles to 2.5e-4 of themselves.

    Pitfalls: where history and the rest are alike, the mean of phi is near 1 for every neuron whatever it does; what tells
    neurons apart is the tail. Two batches or more are needed. The mean over samples of a sample's largest value is not given for
    experts, whose rows belong to no sample.
    """

    name = "phi"
    title = "Monosemantic scale"
    source = "MEmeL, Definition 3.1 (paper and code read)"
    facts: ClassVar[Mapping[str, str]] = {
        "phi": "mean of phi over activations, in variances of the neuron; quantiles are of the neurons' means",
        "phi_p50": "median of phi over activations",
        "phi_p90": "90 % of activations have a phi of this or less",
        "phi_p99": "99 % of activations have a phi of this or less",
        "phi_p999": "99.9 % of activations have a phi of this or less",
        "phi_largest": "the largest phi",
        "phi_largest_mean": "mean over samples of the sample's largest phi, which MEmeL selects",
    }
    reads = frozenset({HIDDEN})

    def objection(self, subject: Subject) -> str | None:
        if subject.examples.batch_count < 2:
            return "it needs two batches or more, the first half as history; take smaller batches or more samples"
        return None

    def tally(self, subject: Subject) -> Tally:
        return _Counting(subject.examples.batch_count)


class _Counting(Tally):
    """batches: how many there are, of which the first half is history."""

    def __init__(self, batches: int) -> None:
        self._batches = batches
        self._layers: dict[str, CountedPhi] = {}
        self._routed: set[str] = set()

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        """Raises CheckpointError (nonfinite): a scale is not finite."""
        if not values.numel():
            return  # an expert that nothing was sent to
        from ninscope.neurons.phi import CountedPhi

        counted = self._layers.get(place.layer)
        if counted is None:
            counted = self._layers[place.layer] = CountedPhi(place.layer)
        if place.routed:
            self._routed.add(place.layer)
        try:
            if 2 * batch.number < self._batches:
                counted.learn(values)
            else:
                counted.look(values)
        except NonFiniteError as error:
            raise CheckpointError("nonfinite", str(error)) from None

    def found(self) -> Found:
        """A layer that only one half of the batches used, an expert's, has no rows.

        Raises CheckpointError (unsupported): that is so of all layers.
        """
        from ninscope.neurons.phi import together

        known = {layer: counted for layer, counted in self._layers.items() if counted.values}
        if not known:
            raise CheckpointError(
                "unsupported", "no hidden layer is used in both halves of the batches; take more samples"
            )
        facts: list[Fact] = []
        neurons: list[NeuronValues] = []
        distributions: list[PhiDistribution] = []
        for layer, counted in known.items():
            distributions.append(counted.distribution())
            of_neurons, values = distribution("phi", layer, counted.of_neurons())
            summary = distributions[-1].summary()
            facts.append(Fact("phi", layer, summary.mean, of_neurons.quantiles, of_neurons.count))
            facts += _further(layer, summary, layer in self._routed)
            neurons += values
        whole = together(distributions).summary()
        facts.append(Fact("phi", ALL, whole.mean, count=whole.values))
        facts += _further(ALL, whole, bool(self._routed))
        return Found(tuple(facts), tuple(neurons))


def _further(layer: str, summary: PhiSummary, routed: bool) -> list[Fact]:
    names = [name for name in _FURTHER if not (routed and name == "phi_largest_mean")]
    return [Fact(name, layer, getattr(summary, _FURTHER[name]), count=summary.values) for name in names]
