"""Measure 3: how the loss grows when the smallest activations are set to 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.neurons.observatory.magnitudes import (
    BINS,
    Silencing,
    between,
    bins_of,
    edges_of,
    loss_and_largest,
    objection_to_changes,
    weighed,
)
from ninscope.neurons.observatory.measure import (
    ALL,
    HIDDEN,
    Batch,
    Fact,
    Found,
    NeuronValues,
    OwnMeasure,
    Place,
    distribution,
)
from ninscope.neurons.observatory.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

LEVELS = (0.25, 0.4, 0.5, 0.65, 0.8, 0.9)
WAYS = {"tensor": "one threshold to a layer", "channel": "one threshold to a neuron"}


def _percent(level: float) -> str:
    return f"{round(100 * level)}"


@register
class Thresholds(OwnMeasure):
    """The rise of the loss when the smallest hidden activations of a whole model are set to 0, a given share of them.

    h is kept where |h| > t. Per tensor, t is the quantile of |h| over all positions and neurons of a layer; per channel, over the
    positions of each neuron. The rise in nats is the logarithm of the ratio of perplexities; of a classifier, the loss is that of
    its labels. The share that is really 0 is given beside: thresholds come from the model as it is, a layer's inputs change when
    the layers below it lose activations, and of neurons that are 0 already (ReLU) more may be silent than was asked for.

    Source: TEAL (Liu et al. 2024: abstract, and the rule and its histogram in the code of FasterDecoding/TEAL) for the layer's
    threshold. CHESS (He et al. 2024: abstract alone) for one to a neuron; the formula is ours, its own also weighs a gate's
    channels. TEAL prunes the inputs of every matrix and half of the positions; here it is hidden neurons, at all positions.

    Quantiles come from counts in bins of at most 6 %, with lines between (`magnitudes`). It takes 14 forward passes.

    Pitfalls. Thresholds and loss are of the same text. A neuron whose activations lie near a number that is not 0 loses it.
    Many activations of GELU and SiLU lie at the function's smallest value (-.17, -.28), closer than a bin is wide: a
    threshold there cuts at another place than the exact quantile, and the rise differs. Of stdlib-neox-500k's last step
    exact quantiles give .92 nats per channel at 90 %, where bins give .46, and .21 instead of .24 per tensor; at 50 % .05
    instead of .02, and .03 both times. So compare rises with each other, not with those of exact quantiles.
    """

    name = "thresholds"
    title = "Loss without the smallest activations"
    source = (
        "Liu et al. 2024, TEAL (abstract and code read); He et al. 2024, CHESS (abstract only: the formula is ours)"
    )
    facts: ClassVar = {
        "thresholds": "rise of the loss when half of a layer's activations, its smallest, are 0: nats",
        **{
            f"thresholds_{way}_{_percent(level)}": f"rise of the loss when {_percent(level)} % are 0, {rule}: nats"
            for way, rule in WAYS.items()
            for level in LEVELS
        },
        **{
            f"thresholds_share_{way}_{_percent(level)}": f"share that is 0 then, {rule}: 0 to 1, the mean over neurons"
            for way, rule in WAYS.items()
            for level in LEVELS
        },
        "thresholds_median": "median of |h| over positions, in units of activation; quantiles over neurons",
    }
    reads = frozenset({HIDDEN})

    def objection(self, subject: Subject) -> str | None:
        return objection_to_changes(subject)

    def found(self, subject: Subject, other: Subject | None = None) -> Found:
        loss, largest = loss_and_largest(subject)
        counts = magnitude_counts(subject, largest)
        edges = {layer: edges_of(top) for layer, top in largest.items()}
        rises, shares = [], []
        for way in WAYS:
            for level in LEVELS:
                silencing = Silencing(_limits(subject, way, level, counts, edges), inclusive=True)
                rise = silencing.mean_loss(subject) - loss
                share = float(np.concatenate(list(silencing.shares().values())).mean())
                rises.append(Fact(f"thresholds_{way}_{_percent(level)}", ALL, rise))
                shares.append(Fact(f"thresholds_share_{way}_{_percent(level)}", ALL, share))
        main = next(fact for fact in rises if fact.name == "thresholds_tensor_50")
        medians, values = _medians(counts, edges)
        return Found((Fact("thresholds", ALL, main.value), *rises, *shares, *medians), values)


def magnitude_counts(subject: Subject, largest: Mapping[str, float]) -> dict[str, np.ndarray]:
    """How many activations of each neuron lie in each bin of `bins_of`: int64 [neurons, BINS] of each layer. One forward pass."""
    import torch

    counts: dict[str, Tensor] = {}

    def see(place: Place, values: Tensor, batch: Batch) -> None:
        bins = bins_of(weighed(values, None), largest[place.layer])
        neurons = bins.shape[1]
        bins += torch.arange(0, neurons * BINS, BINS, dtype=bins.dtype, device=bins.device)
        seen = torch.bincount(bins.view(-1), minlength=neurons * BINS)
        counts[place.layer] = counts[place.layer].add_(seen) if place.layer in counts else seen

    subject.run((HIDDEN,), see)
    return {layer: seen.cpu().numpy().reshape(-1, BINS) for layer, seen in counts.items()}


def quantiles_of(counts: np.ndarray, edges: np.ndarray, level: float) -> np.ndarray:
    """The smallest number that a share of what was counted does not exceed: float64 [n], to the width of a bin.

    counts: [n, BINS]. edges: [BINS], where bins end. level: 0 to 1. 0 where so many are 0.
    """
    below = counts.cumsum(axis=1)
    wanted = level * below[:, -1]
    place = (below < wanted[:, None]).sum(axis=1)  # the first bin up to which there are enough
    rows = np.arange(len(counts))
    before = np.where(place > 0, below[rows, place - 1], 0)
    part = (wanted - before) / np.maximum(counts[rows, place], 1)
    return np.where(place > 0, between(edges[place - 1], edges[place], part), 0.0)


def _limits(
    subject: Subject, way: str, level: float, counts: Mapping[str, np.ndarray], edges: Mapping[str, np.ndarray]
) -> dict[str, Tensor | float]:
    import torch

    limits: dict[str, Tensor | float] = {}
    for layer, seen in counts.items():
        if way == "tensor":
            limits[layer] = float(quantiles_of(seen.sum(axis=0, keepdims=True), edges[layer], level)[0])
        else:
            limits[layer] = torch.from_numpy(quantiles_of(seen, edges[layer], level)).float().to(subject.device)
    return limits


def _medians(
    counts: Mapping[str, np.ndarray], edges: Mapping[str, np.ndarray]
) -> tuple[list[Fact], tuple[NeuronValues, ...]]:
    facts: list[Fact] = []
    values: list[NeuronValues] = []
    for layer, seen in counts.items():
        fact, kept = distribution("thresholds_median", layer, quantiles_of(seen, edges[layer], 0.5))
        facts.append(fact)
        values.extend(kept)
    return facts, tuple(values)
