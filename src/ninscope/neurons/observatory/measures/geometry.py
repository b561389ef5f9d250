"""How alike a model's layers are as representations of the same tokens."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from ninscope.neurons.observatory.measure import OUTPUT, RESIDUAL, Batch, Fact, Found, Place, StreamedMeasure, Tally
from ninscope.neurons.observatory.registry import register
from ninscope.neurons.observatory.similarity import Choice, KernelSums, ShapeSums, kernel_of

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

_RANGE = "1: the same up to rotation and scale; about 0, or a little below: unrelated"


@register
class Geometry(StreamedMeasure):
    """Debiased kernel alignment (CKA) of the residual stream at each block with what entered the block before, with the
    input embeddings, with the outputs and with the targets; and the Procrustes shape distance to what entered the block
    before.

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K and L the linear kernels of two layers, HSIC by its unbiased estimator
    and summed over batches. Targets: the kernel is 1 where two tokens have the same next token (or two samples the same
    label). Outputs: logits less their mean over the vocabulary. Shape distance: arccos(||X' Y||_* / (||X|| ||Y||)) of
    centred X and Y.

    Sources, and which tokens are compared: `similarity.py`. Grade: CKA and the shape distance after public code that was
    read (google-research, netrep, a mini-batch CKA in torch); which layers are compared is ours.

    Pitfalls: the plain estimator of CKA nears 1 where there are more neurons than tokens, hence the unbiased one.
    Directions of large variance decide: a few large dimensions can hide all others. Neighbours of a residual stream are
    alike even without training, so read it beside step 0. Tokens of a window are no independent samples. The shape distance
    is biased towards 0 for few tokens (count).
    """

    name = "geometry"
    title = "Likeness of layers (CKA)"
    source = "Kornblith et al. 2019; Nguyen, Raghu, Kornblith 2021 (unbiased, mini-batches); Williams et al. 2021 (shape distance)"
    facts: ClassVar = {
        "geometry": f"debiased CKA with the layer before ({_RANGE})",
        "geometry_inputs": f"debiased CKA with the input embeddings ({_RANGE})",
        "geometry_outputs": f"debiased CKA with the logits ({_RANGE})",
        "geometry_targets": f"debiased CKA with the next tokens, or the labels of samples ({_RANGE})",
        "geometry_procrustes": "Procrustes shape distance to the layer before, radians, 0 to pi/2",
    }
    reads = frozenset({RESIDUAL, OUTPUT})

    def tally(self, subject: Subject) -> Tally:
        return _GeometryTally(subject)


class _GeometryTally(Tally):
    def __init__(self, subject: Subject) -> None:
        self.choice = Choice(subject)
        self.layers = [place.layer for place in subject.places_of(RESIDUAL)]
        self.sums = KernelSums()
        self.shapes = {pair: ShapeSums() for pair in pairwise(self.layers)}
        self.has_targets = False
        self._start()

    def _start(self) -> None:
        self._kernels: dict[str, Tensor] = {}
        self._before: tuple[str, Tensor] | None = None

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        if place.kind == OUTPUT:
            self._kernels[OUTPUT] = self.choice.output_kernel(values, batch)
            return
        rows = self.choice.rows(values, batch)
        self._kernels[place.layer] = kernel_of(rows)
        if self._before is not None and (self._before[0], place.layer) in self.shapes:
            self.shapes[self._before[0], place.layer].add(self._before[1], rows)
        self._before = place.layer, rows

    def batch_ended(self, batch: Batch) -> None:
        kernels = [self._kernels[layer] for layer in (*self.layers, OUTPUT)]
        targets = self.choice.target_kernel(batch)
        self.has_targets = targets is not None
        self.sums.add([*kernels, *([] if targets is None else [targets])])
        self._start()

    def found(self) -> Found:
        last = len(self.layers)
        samples = self.sums.samples
        facts = []
        for number, layer in enumerate(self.layers):
            with_others = {"geometry_outputs": last}
            if number > 0:
                with_others = {"geometry": number - 1, "geometry_inputs": 0} | with_others
            if self.has_targets:
                with_others["geometry_targets"] = last + 1
            facts += [
                Fact(name, layer, self.sums.alignment(number, other), None, samples)
                for name, other in with_others.items()
            ]
        for (_, layer), shape in self.shapes.items():
            facts.append(Fact("geometry_procrustes", layer, shape.distance(), None, shape.samples))
        return Found(tuple(facts))
