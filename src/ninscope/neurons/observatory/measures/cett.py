"""Measure 2: how many neurons can be left out before the loss is 1 % of perplexity higher."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.neurons.observatory.magnitudes import (
    BINS,
    Silencing,
    between,
    bins_of,
    edges_of,
    loss_and_largest,
    loss_without,
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

RISE = 0.01  # of perplexity
FIXED = 0.2
TOLERANCE = 0.001  # of CETT, as the source's: ten halvings of [0, 1]


@register
class Cett(OwnMeasure):
    """The share of neurons that can be left out at a position before perplexity rises by 1 %: those that write least.

    n_i = W_out[:, i] h_i is what neuron i writes at a position (h_i holds the product with the gate where there is one), D(e)
    the neurons with ||n_i|| < e, CETT(e) (cumulative errors of tail truncation) the mean over positions of ||sum of n_i in D(e)||
    / ||sum of all n_i||. Every layer gets the threshold e at which its CETT is one shared number. Bisection finds the largest such
    number, between 0 and 1, at which perplexity is at most 1.01 of the whole model's. Sparsity is |D| / neurons while the model
    runs so, the mean over layers. Of a classifier, the loss is that of its labels.

    Source: Luo et al. 2024, "Sparsing Law": the code in thunlp/SparsingLaw, and the text at second hand. Biases count for
    nothing, thresholds come from the whole model's activations, and sparsity from the pass with neurons left out. Theirs
    gives each batch its own thresholds, on a grid of equal steps, and returns the middle of the last interval; here they
    are one for all positions, on a grid of steps of at most 6 % with lines between (`magnitudes`), and the end of the
    interval that was measured to be within 1 % is returned. Where CETT falls with e for a while, the smallest e is taken
    that reaches the number.

    It takes 14 forward passes (one more where nothing can be spared), and a product of W_out with the activations on a CPU core.

    Pitfalls. Near initialisation a model loses nothing when it loses all neurons, and there is no answer: then sparsity and CETT
    are NaN, and `cett_loss_off` says why. Thresholds and loss are of the same text.
    """

    name = "cett"
    title = "Neurons that 1 % of perplexity can spare"
    source = "Luo et al. 2024, Sparsing Law (code read)"
    facts: ClassVar = {
        "cett": "share of neurons that are left out at 1 % more perplexity, 0 to 1; quantiles over neurons; NaN where all can be",
        "cett_value": "CETT at which that is, 0 to 1; NaN where all neurons can be left out",
        "cett_sparsity_0.2": "share of neurons that are left out at CETT 0.2, 0 to 1; quantiles over neurons",
        "cett_loss_0.2": "loss at CETT 0.2 less the model's, nats",
        "cett_loss_off": "loss without any hidden neuron less the model's, nats; at ln 1.01 or less the measure has no answer",
    }
    reads = frozenset({HIDDEN})

    def objection(self, subject: Subject) -> str | None:
        return objection_to_changes(subject)

    def found(self, subject: Subject, other: Subject | None = None) -> Found:
        leaving = {layer: subject.leaving(layer) for layer in subject.hidden_layers}
        weights = {layer: matrix.norm(dim=0) for layer, matrix in leaving.items()}
        loss, largest = loss_and_largest(subject, weights)
        curves = error_curves(subject, leaving, weights, largest)
        sparse = _Sparse(subject, weights, largest, curves)
        loss_off = loss_without(subject, largest) - loss
        fixed, loss_fixed = sparse.at(FIXED)
        value, shares = float("nan"), {layer: np.full_like(part, np.nan) for layer, part in fixed.items()}
        if loss_off > log(1 + RISE):
            value, shares = sparse.within(loss + log(1 + RISE))
        facts, values = _shares("cett", shares)
        more, more_values = _shares("cett_sparsity_0.2", fixed)
        facts += [Fact("cett_value", ALL, value), *more]
        facts += [Fact("cett_loss_0.2", ALL, loss_fixed - loss), Fact("cett_loss_off", ALL, loss_off)]
        return Found(tuple(facts), (*values, *more_values))


class _Sparse:
    """A model without the neurons that write least."""

    def __init__(
        self,
        subject: Subject,
        weights: Mapping[str, Tensor],
        largest: Mapping[str, float],
        curves: Mapping[str, np.ndarray],
    ) -> None:
        self.subject, self.weights, self.curves = subject, weights, curves
        self.edges = {layer: edges_of(top) for layer, top in largest.items()}

    def at(self, cett: float) -> tuple[dict[str, np.ndarray], float]:
        """What share of positions each neuron is left out at, [neurons] of each layer, and the loss. One forward pass."""
        limits = {layer: threshold_at(cett, self.edges[layer], curve) for layer, curve in self.curves.items()}
        silencing = Silencing(limits, self.weights)
        loss = silencing.mean_loss(self.subject)
        return silencing.shares(), loss

    def within(self, limit: float) -> tuple[float, dict[str, np.ndarray]]:
        """The largest CETT, to TOLERANCE, of which the loss is at most the limit, and the shares there."""
        low, high = 0.0, 1.0
        shares = None
        while high - low > TOLERANCE:
            middle = (low + high) / 2
            tried, loss = self.at(middle)
            if loss <= limit:
                low, shares = middle, tried
            else:
                high = middle
        return low, shares if shares is not None else self.at(low)[0]


def error_curves(
    subject: Subject, leaving: Mapping[str, Tensor], weights: Mapping[str, Tensor], largest: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """CETT of each layer at each edge of `edges_of` its largest ||n_i||: float64 [BINS], the last one 1, or 0 where nothing is
    ever written. leaving: W_out, [targets, neurons]. weights: its columns' norms. One forward pass.

    Raises CheckpointError (unsupported): columns are no neurons, as in a convolution.
    """
    from ninscope.neurons.observatory.truncation import add_errors

    columns = {layer: leaving[layer].T.contiguous().cpu().numpy() for layer in largest}
    sums = {layer: np.zeros(BINS) for layer in columns}
    rows = dict.fromkeys(columns, 0)

    def see(place: Place, values: Tensor, batch: Batch) -> None:
        layer = place.layer
        flat = values.reshape(-1, values.shape[-1]).float()
        bins = bins_of(weighed(values, weights[layer]), largest[layer])
        add_errors(flat.contiguous().cpu().numpy(), bins.cpu().numpy(), columns[layer], sums[layer])
        rows[layer] += len(flat)

    subject.run((HIDDEN,), see)
    return {layer: sums[layer] / rows[layer] for layer in sums}


def threshold_at(cett: float, edges: np.ndarray, curve: np.ndarray) -> float:
    """The threshold at which a curve first reaches a number; infinite where it never goes above it.

    edges, curve: [BINS], CETT at each edge.
    """
    highest = np.maximum.accumulate(curve)
    above = int(np.searchsorted(highest, cett, side="right"))  # the first edge whose CETT is too high
    if above == len(edges):
        return float("inf")
    if above <= 1:  # below the smallest edge only what is 0 is left out
        return float(edges[0])
    part = (cett - highest[above - 1]) / (highest[above] - highest[above - 1])
    return float(between(edges[above - 1], edges[above], part))


def _shares(name: str, shares: Mapping[str, np.ndarray]) -> tuple[list[Fact], list[NeuronValues]]:
    """The facts of each layer, and of all: the mean over layers, quantiles over all neurons."""
    facts: list[Fact] = []
    values: list[NeuronValues] = []
    for layer, part in shares.items():
        fact, kept = distribution(name, layer, part)
        facts.append(fact)
        values.extend(kept)
    every, _ = distribution(name, ALL, np.concatenate(list(shares.values())), keep=False)
    mean = float(np.mean([fact.value for fact in facts]))
    return [Fact(name, ALL, mean, every.quantiles, every.count), *facts], values
