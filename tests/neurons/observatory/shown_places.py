"""Places with given values, shown to the tally of a measure, without a model."""

import numpy as np
import torch

from ninscope.neurons.observatory.measure import Batch, Fact, Found, Place
from ninscope.neurons.observatory.registry import measures


def shown(
    name: str, *places: tuple[Place, np.ndarray], batch_size: int = 3, dtype: torch.dtype = torch.float32
) -> Found:
    """What a measure finds in these values [samples, ...], shown batch by batch, places in the order given.

    Places whose first dimension is larger, windows of images, are cut in the same proportion. Kinds that the measure does not read
    are left out, as a pass does.
    """
    measure = measures()[name]
    tally = measure.tally(None)
    samples = min(len(values) for _, values in places)
    positions = next(
        (values.shape[-2] for place, values in places if place.kind != "attention"), places[0][1].shape[-1]
    )
    for number, first in enumerate(range(0, samples, batch_size)):
        last = min(first + batch_size, samples)
        batch = Batch(number, first, {}, torch.zeros(last - first, positions, dtype=torch.int64))
        for place, values in places:
            if place.kind not in measure.reads:
                continue
            times = len(values) // samples
            part = torch.from_numpy(np.ascontiguousarray(values[first * times : last * times])).to(dtype)
            tally.see(place, part, batch)
        tally.batch_ended(batch)
    return tally.found()


def fact(found: Found, name: str, layer: str) -> Fact:
    """The only row of this name and layer."""
    (one,) = (row for row in found.facts if (row.name, row.layer) == (name, layer))
    return one


def values(found: Found, name: str, layer: str) -> np.ndarray:
    (one,) = (row for row in found.values if (row.name, row.layer) == (name, layer))
    return one.values


def softmax(scores: np.ndarray, causal: bool) -> np.ndarray:
    """float32 attention patterns of scores [..., t, t]."""
    scores = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf) if causal else scores
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)
