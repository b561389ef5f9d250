"""Activations that are made by hand, shown to a measure as a pass would, and what it finds in them."""

import numpy as np
import torch

from ninscope.errors import RequestError
from ninscope.neurons.observatory.examples import Examples
from ninscope.neurons.observatory.measure import HIDDEN, Batch, Place
from ninscope.neurons.observatory.registry import measures


class MadeSubject:
    """What measures of single neurons ask of a model. gated: layers that two matrices enter."""

    def __init__(
        self, layers, tokens=None, gated=(), bos=False, leaving=None, unembedding=None, routed=(), batch_size=3
    ):
        self.layers, self.gated, self._leaving, self._unembedding = layers, gated, leaving or {}, unembedding
        self.routed = routed
        self.model = torch.nn.Linear(1, 1)
        self.examples = None if tokens is None else Examples("tokens", tokens, batch_size, bos=bos)

    def places_of(self, *kinds):
        return tuple(Place(HIDDEN, layer, routed=layer in self.routed) for layer in self.layers if HIDDEN in kinds)

    def entering(self, layer):
        return [torch.zeros(1, 1)] * (2 if layer in self.gated else 1)

    def leaving(self, layer):
        if layer not in self._leaving:
            raise RequestError(f"which weights {layer} has is not known")
        return torch.as_tensor(self._leaving[layer], dtype=torch.float32)

    def unembedding(self):
        return None if self._unembedding is None else torch.as_tensor(self._unembedding, dtype=torch.float32)

    def batches(self):
        return self.examples.batches()

    def run(self, kinds, see, batches):
        for batch in batches:
            for place in self.places_of(*kinds):
                part = self.layers[place.layer][batch.first : batch.first + len(batch.tokens)]
                see(place, torch.as_tensor(part, dtype=torch.float32), batch)


def found_in(name, layers, dtype=torch.float32, batch_size=3, **subject):
    """What the measure finds in layers: name to float array [n, t, neurons], shown `batch_size` samples at a time."""
    made = MadeSubject(layers, batch_size=batch_size, **subject)
    tally = measures()[name].tally(made)
    for batch in _batches(made, layers, batch_size):
        for place in made.places_of(HIDDEN):
            part = layers[place.layer][batch.first : batch.first + batch_size]
            tally.see(place, torch.as_tensor(part).to(dtype), batch)
        tally.batch_ended(batch)
    return tally.found()


def _batches(made, layers, batch_size):
    if made.examples is not None:
        return list(made.batches())
    samples = len(next(iter(layers.values())))
    return [Batch(number, first, {}) for number, first in enumerate(range(0, samples, batch_size))]


def fact(found, name, layer="all"):
    """The only fact of this name and layer."""
    return next(one for one in found.facts if (one.name, one.layer) == (name, layer))


def value(found, name, layer="all"):
    return fact(found, name, layer).value


def numbers(found, name, layer):
    """The numbers of single neurons."""
    return next(one.values for one in found.values if (one.name, one.layer) == (name, layer))


def check_names(name, found):
    """Every fact is described, and every description has a fact."""
    assert {one.name for one in found.facts} == set(measures()[name].facts)


def relu(values):
    return np.maximum(values, 0)


def gelu(values):
    return torch.nn.functional.gelu(torch.as_tensor(values)).numpy()
