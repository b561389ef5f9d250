"""How many features each neuron of one network of the laboratory represents, beside what measures that know no features say of it.

The measures are those of `ninscope.neurons.observatory`, taken of the held-out samples in one pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ninscope.neurons.observatory.examples import ARRAYS_KIND, Examples
from ninscope.neurons.observatory.measure import ALL
from ninscope.neurons.observatory.passes import Observation, observe
from ninscope.neurons.observatory.registry import chosen
from ninscope.neurons.observatory.subject import Subject
from ninscope.neurons.polysemanticity.measures import degree_of_polysemanticity
from ninscope.neurons.polysemanticity.measuring import Probe
from ninscope.neurons.polysemanticity.neuron_correlations import LayerNeurons
from ninscope.neurons.polysemanticity.perceptron import Perceptron
from ninscope.neurons.polysemanticity.pruning import neuron_importance
from ninscope.neurons.polysemanticity.table_names import ALL_LAYERS, INPUT_WEIGHT

MOST_SAMPLES = 4096  # of a batch


@dataclass(frozen=True)
class Unmeasured:
    """A measure that says nothing of a network, and why."""

    measure: str
    status: str
    message: str


def neurons_of_network(
    probe: Probe, network: Perceptron, measures: Sequence[str], other: Perceptron | None = None, seed: int = 0
) -> tuple[list[LayerNeurons], list[Unmeasured]]:
    """All hidden layers together, then each of them; and which measures could not be taken.

    probe: of the toy data whose features are the network's. measures: of NEURON_MEASURES. other: a network of another seed, for
    `universal`, which reads the same samples. seed: of what a measure draws. Beside the measures, `input_weight` is the mean
    absolute weight of a neuron's inputs, by which pruning ranks neurons. Samples make two batches of equal size or more, as phi
    takes the first half for its history. Raises RequestError: no such measure.
    """
    samples = probe.data.inputs[probe.data.test]
    examples = Examples(ARRAYS_KIND, samples, min(-(-len(samples) // 2), MOST_SAMPLES))
    subject = Subject("the network", network.module(), examples, seed)
    others = {}
    if other is not None:
        of_other = Subject("the network of the other seed", other.module(), examples, seed)
        others["another seed"] = lambda: of_other
    asked = chosen(list(measures)) if measures else ()
    seen = observe(subject, asked, others=others)
    unmeasured = [Unmeasured(one.measure.name, one.status, str(one.error)) for one in seen if one.error is not None]
    values, numbers = _by_layer(seen, subject.hidden_layers, network.hidden_sizes)
    degrees = [degree_of_polysemanticity(layer.gradients) for layer in probe.responses(network)]
    at_samples = [degree_of_polysemanticity(sizes) for sizes in probe.sizes_at_samples(network)]
    for own, said, weights in zip(values, numbers[1:], neuron_importance(network), strict=True):
        own[INPUT_WEIGHT], said[INPUT_WEIGHT] = weights, _mean(weights)
    of_layers = zip(degrees, at_samples, values, numbers[1:], strict=True)
    layers = [LayerNeurons(str(number), *about) for number, about in enumerate(of_layers, 1)]
    return [_together(layers, numbers[0]), *layers], unmeasured


def _by_layer(
    seen: Sequence[Observation], names: Sequence[str], sizes: Sequence[int]
) -> tuple[list[dict[str, np.ndarray]], list[dict[str, float]]]:
    """(values of neurons by layer, numbers of the whole network and then by layer), by name.

    names, sizes: of the hidden layers, as the observatory calls them and how many neurons they have.
    """
    place = {name: number for number, name in enumerate(names)}
    values: list[dict[str, np.ndarray]] = [{} for _ in sizes]
    numbers: list[dict[str, float]] = [{} for _ in range(len(sizes) + 1)]
    for one in seen:
        if one.found is None:
            continue
        for own in one.found.values:
            values[place[own.layer]][own.name] = own.values
            numbers[place[own.layer] + 1][own.name] = _mean(own.values)
        for fact in one.found.facts:
            if fact.name == one.measure.name:
                numbers[0 if fact.layer == ALL else place[fact.layer] + 1][fact.name] = float(fact.value)
    return values, numbers


def _together(layers: Sequence[LayerNeurons], numbers: Mapping[str, float]) -> LayerNeurons:
    """All layers as one. numbers: what measures say of the network as one; of what they do not, the mean of its layers'
    neurons, or of its layers."""
    names = dict.fromkeys(name for layer in layers for name in layer.values)
    values = {
        name: np.concatenate([layer.values.get(name, np.full(len(layer.P), np.nan)) for layer in layers])
        for name in names
    }
    said = {name: _mean(np.array([layer.numbers.get(name, np.nan) for layer in layers])) for name in _named(layers)}
    said |= {name: _mean(of_neurons) for name, of_neurons in values.items()}
    along, at_samples = (np.concatenate([getattr(layer, name) for layer in layers]) for name in ("P", "P_samples"))
    return LayerNeurons(ALL_LAYERS, along, at_samples, values, said | dict(numbers))


def _named(layers: Sequence[LayerNeurons]) -> dict[str, None]:
    return dict.fromkeys(name for layer in layers for name in layer.numbers)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
