"""Measure 3: how the loss grows when the smallest activations are set to 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.neurons.observatory.magnitudes import Silencing, loss_and_largest, objection_to_changes
from ninscope.neurons.observatory.measure import ALL, HIDDEN, Fact, Found, NeuronValues, OwnMeasure, distribution
from ninscope.neurons.observatory.order_statistics import Quantiles, size_quantiles
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

    Quantiles are exact (`order_statistics`). It takes 17 forward passes.

    Pitfalls. Thresholds and loss are of the same text. A neuron whose activations lie near a number that is not 0 loses it: GELU
    and SiLU have a smallest value (-.17, -.28), near which many activations lie.
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
        loss, _ = loss_and_largest(subject)
        quantiles = size_quantiles(subject, LEVELS)
        rises, shares = [], []
        for way in WAYS:
            for number, level in enumerate(LEVELS):
                silencing = Silencing(limits_of(subject, way, number, quantiles), inclusive=True)
                rise = silencing.mean_loss(subject) - loss
                share = float(np.concatenate(list(silencing.shares().values())).mean())
                rises.append(Fact(f"thresholds_{way}_{_percent(level)}", ALL, rise))
                shares.append(Fact(f"thresholds_share_{way}_{_percent(level)}", ALL, share))
        main = next(fact for fact in rises if fact.name == "thresholds_tensor_50")
        medians, values = _medians(quantiles)
        return Found((Fact("thresholds", ALL, main.value), *rises, *shares, *medians), values)


def limits_of(subject: Subject, way: str, number: int, quantiles: Mapping[str, Quantiles]) -> dict[str, Tensor | float]:
    """What is 0 at the level of this number, by layer: one limit, or float32 [neurons]. way: of WAYS."""
    import torch

    limits: dict[str, Tensor | float] = {}
    for layer, found in quantiles.items():
        of_neurons = torch.from_numpy(found.neurons[:, number].copy()).to(subject.device)
        limits[layer] = float(found.layer[number]) if way == "tensor" else of_neurons
    return limits


def _medians(quantiles: Mapping[str, Quantiles]) -> tuple[list[Fact], tuple[NeuronValues, ...]]:
    facts: list[Fact] = []
    values: list[NeuronValues] = []
    for layer, found in quantiles.items():
        fact, kept = distribution("thresholds_median", layer, found.neurons[:, LEVELS.index(0.5)])
        facts.append(fact)
        values.extend(kept)
    return facts, tuple(values)
