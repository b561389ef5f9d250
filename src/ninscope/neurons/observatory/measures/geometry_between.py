"""How alike the same layer of two checkpoints is, as a representation of the same tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ninscope.neurons.observatory.measure import (
    PREVIOUS,
    RESIDUAL,
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
from ninscope.neurons.observatory.similarity import Choice, KernelSums, ShapeSums, kernel_of

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject


@register
class GeometryBetween(StreamedComparison):
    """Debiased kernel alignment (CKA) and Procrustes shape distance of the residual stream at each block of two
    checkpoints.

    As `geometry`, of the same layer of two models: formulas, sources, grade and pitfalls are there. Neither sees in which
    order neurons are, nor how the stream is rotated, so that two seeds can be compared without aligning them. The blocks'
    order is compared as it is.
    """

    name = "geometry_between"
    title = "Likeness of a layer at two checkpoints (CKA)"
    source = "Kornblith et al. 2019; Nguyen, Raghu, Kornblith 2021 (unbiased, mini-batches); Williams et al. 2021 (shape distance)"
    facts: ClassVar = {
        "geometry_between": "debiased CKA with the other's same layer (1: the same up to rotation and scale; about 0: unrelated)",
        "geometry_between_procrustes": "Procrustes shape distance to the same layer of the other, radians, 0 to pi/2",
    }
    reads = frozenset({RESIDUAL})
    compared_with = (START, PREVIOUS, SEED)

    def tally(self, subject: Subject, other: Subject) -> ComparingTally:
        return _BetweenTally(subject)


class _BetweenTally(ComparingTally):
    def __init__(self, subject: Subject) -> None:
        self.choice = Choice(subject)
        self.kernels: dict[str, KernelSums] = {}
        self.shapes: dict[str, ShapeSums] = {}

    def see(self, place: Place, values: Tensor, other: Tensor, batch: Batch) -> None:
        rows, others = self.choice.rows(values, batch), self.choice.rows(other, batch)
        self.kernels.setdefault(place.layer, KernelSums()).add([kernel_of(rows), kernel_of(others)])
        self.shapes.setdefault(place.layer, ShapeSums()).add(rows, others)

    def found(self) -> Found:
        facts = []
        for layer, sums in self.kernels.items():
            shape = self.shapes[layer]
            facts.append(Fact("geometry_between", layer, sums.alignment(0, 1), None, sums.samples))
            facts.append(Fact("geometry_between_procrustes", layer, shape.distance(), None, shape.samples))
        return Found(tuple(facts))
