"""How far the outputs of two checkpoints are from each other on the same examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ninscope.errors import CheckpointError
from ninscope.neurons.observatory.measure import (
    ALL,
    NEXT_TOKENS,
    OUTPUT,
    PREVIOUS,
    SEED,
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

_VALUES = 1 << 17  # logits that are looked at together: 1 MB in float64


@register
class FunctionDistance(StreamedComparison):
    """Distance in function space: the mean Kullback-Leibler divergence between what two checkpoints predict. It is 0 for
    any change of weights that leaves the function as it is (permuted neurons, rescaled layers), and so a control for what
    is read off weights.

    KL(p || q) = sum_v p_v (ln p_v - ln q_v), p the model's, q the other's, in nats, mean over predicted positions: all
    positions of a window but the last, or each sample of a classifier. Beside it the reverse, and the mean of (ln p_v - ln
    q_v)^2 over positions and vocabulary.

    Source: "Efficient Parametric Approximations of Neural Network Function Space Distance" (Dhawan, Huang, Bae, Grosse
    2023). Grade: abstract only, which says what is estimated; the formula is ours, and computed from the outputs
    themselves, without their approximation. It is that of kl_from_start of the study of controls
    (data/train_controls_study.py).

    Pitfalls: KL is unbounded where one model is sure; the mean of squares is ruled by tokens that neither predicts. Both
    vocabularies must be the same, entry by entry.
    """

    name = "function_distance"
    title = "Distance in function space (KL)"
    source = "Dhawan et al. 2023, Neural Network Function Space Distance (abstract only; the formula is ours)"
    facts: ClassVar = {
        "function_distance": "mean KL(model || other) a predicted position, nats, from 0",
        "function_distance_reverse": "mean KL(other || model) a predicted position, nats, from 0",
        "function_distance_change": "mean squared difference of log-probabilities, nats squared, from 0",
    }
    reads = frozenset({OUTPUT})
    compared_with = (START, PREVIOUS, SEED)

    def tally(self, subject: Subject, other: Subject) -> ComparingTally:
        return _DistanceTally(NEXT_TOKENS in subject.has, other.name)


class _DistanceTally(ComparingTally):
    def __init__(self, next_tokens: bool, other: str) -> None:
        self.next_tokens, self.other = next_tokens, other
        self.positions = 0
        self.totals = [0.0, 0.0, 0.0]

    def see(self, place: Place, values: Tensor, other: Tensor, batch: Batch) -> None:
        if values.shape != other.shape:
            raise CheckpointError(
                "unsupported",
                f"outputs have shape {list(values.shape)}, and {list(other.shape)} in {self.other}; compare models of one "
                "vocabulary",
            )
        windows = zip(values, other, strict=True) if self.next_tokens else [(values.flatten(0, 1), other.flatten(0, 1))]
        for mine, theirs in windows:
            self._add(*(part[: len(part) - self.next_tokens] for part in (mine, theirs)))

    def _add(self, logits: Tensor, others: Tensor) -> None:
        """[positions, vocabulary] of both."""
        height = max(_VALUES // logits.shape[1], 1)
        for first in range(0, len(logits), height):
            part = slice(first, first + height)
            sums = distances(logits[part], others[part])
            self.totals = [total + some for total, some in zip(self.totals, sums, strict=True)]
        self.positions += len(logits)

    def found(self) -> Found:
        values = [total / self.positions for total in self.totals]
        return Found(
            tuple(
                Fact(name, ALL, value, None, self.positions)
                for name, value in zip(FunctionDistance.facts, values, strict=True)
            )
        )


def distances(logits: Tensor, others: Tensor) -> tuple[float, float, float]:
    """Sums over positions of KL(p || q), KL(q || p) and mean squared difference of log-probabilities.

    logits, others: [positions, vocabulary], finite, of any float dtype; computed in float64. With x, y the logits and
    c = logsumexp x - logsumexp y, ln p - ln q is x - y - c, so that each exponential is taken once.
    """
    import torch

    x, y = logits.double(), others.double()
    x = x - x.amax(1, keepdim=True)
    y = y - y.amax(1, keepdim=True)
    difference = x - y
    x.exp_()
    y.exp_()
    sums, other_sums = x.sum(1), y.sum(1)
    shift = sums.log() - other_sums.log()
    difference -= shift[:, None]
    forward = torch.linalg.vecdot(x, difference) / sums
    reverse = torch.linalg.vecdot(y, difference) / other_sums
    change = torch.linalg.vecdot(difference, difference) / difference.shape[1]
    # Rounding may take a divergence of nearly equal outputs below 0, where none can be.
    return float(forward.clamp(min=0).sum()), float((-reverse).clamp(min=0).sum()), float(change.sum())
