"""Whether training has changed what the last representation says of tokens (rich), or not (lazy)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from ninscope.neurons.observatory.measure import (
    FEATURES,
    START,
    Batch,
    ComparingTally,
    Fact,
    Found,
    Place,
    StreamedComparison,
)
from ninscope.neurons.observatory.registry import register
from ninscope.neurons.observatory.similarity import Choice, KernelSums, kernel_of

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject


@register
class RichLazy(StreamedComparison):
    """Alignment of the representation kernel with that of step 0: K_ij = h_i . h_j over tokens, h what the head reads. 1:
    the kernel is still that of the start (lazy); the lower, the richer the learning was.

    The authors' measure is rich_lazy_uncentred, tr(K K_0) / (||K|| ||K_0||) over all pairs of tokens, a token with itself
    too. All tokens share a mean, which keeps it near 1 in any network, and finite samples raise it. So the main row takes
    the mean out and estimates without bias, as `geometry` does: debiased CKA. It is computed from mini-batches of tokens,
    the authors' measure from moments [width, width] of the same tokens, since it is of one layer only and has pairs across
    batches.

    Source: Liu, Baratin, Cornford, Mihalas, Shea-Brown and Lajoie, "How connectivity structure shapes rich and lazy
    learning in neural circuits" (2024). Grade: their public code was read, which takes hidden activity at the last time; we
    take every chosen token, and the features that the head reads. ||W - W_0|| / ||W_0|| and effective ranks are in the
    tables of weights; the tangent kernel is not measured.

    Pitfalls: step 0 itself has 1. A representation that only rotates has 1, one that gains a few strong directions a low
    value. Compare with the shuffled control, and with seeds (`geometry_between`): two random starts need not have 0.
    """

    name = "rich_lazy"
    title = "Rich or lazy learning (kernel alignment with step 0)"
    source = "Liu et al. 2024, How connectivity structure shapes rich and lazy learning in neural circuits (code read)"
    facts: ClassVar = {
        "rich_lazy": "debiased, centred alignment of the kernel with step 0's (1: lazy; lower: richer)",
        "rich_lazy_uncentred": "the authors' alignment, neither centred nor debiased (0 to 1; 1: lazy)",
    }
    reads = frozenset({FEATURES})
    compared_with = (START,)

    def tally(self, subject: Subject, other: Subject) -> ComparingTally:
        return _RichLazyTally(subject)


class _RichLazyTally(ComparingTally):
    def __init__(self, subject: Subject) -> None:
        self.choice = Choice(subject)
        self.sums = KernelSums()
        self.layer = ""
        self.samples = 0

    def see(self, place: Place, values: Tensor, other: Tensor, batch: Batch) -> None:
        rows, others = self.choice.rows(values, batch), self.choice.rows(other, batch)
        self.sums.add([kernel_of(rows), kernel_of(others)])
        if self.samples == 0:
            widths = rows.shape[1], others.shape[1]
            self.moments = [rows.new_zeros(a, b) for a, b in ((widths[0],) * 2, (widths[1],) * 2, widths)]
        for moment, (left, right) in zip(self.moments, ((rows, rows), (others, others), (rows, others)), strict=True):
            moment.addmm_(left.T, right)
        self.layer, self.samples = place.layer, self.samples + len(rows)

    def found(self) -> Found:
        own, others, cross = (float(moment.square().sum()) for moment in self.moments)
        uncentred = cross / math.sqrt(own) / math.sqrt(others) if own > 0 and others > 0 else math.nan
        return Found(
            (
                Fact("rich_lazy", self.layer, self.sums.alignment(0, 1), None, self.sums.samples),
                Fact("rich_lazy_uncentred", self.layer, uncentred, None, self.samples),
            )
        )
