"""How alike a model's layers are as representations of the same tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ninscope.errors import CheckpointError
from ninscope.neurons.observatory.measure import OUTPUT, RESIDUAL, Batch, Fact, Found, Place, StreamedMeasure, Tally
from ninscope.neurons.observatory.registry import register
from ninscope.neurons.observatory.similarity import Choice, KernelSums, ShapeSums, kernel_of

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

_TARGETS = "target"
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
    """names: what is compared, in the order of the kernels: layers, then the outputs and the targets."""

    def __init__(self, subject: Subject) -> None:
        self.choice = Choice(subject)
        self.name = subject.name
        self.names: list[str] = []
        self.sums = KernelSums()
        self.shapes: dict[str, ShapeSums] = {}
        self._start()

    def _start(self) -> None:
        self._kernels: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._before: Tensor | None = None

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        if place.kind == OUTPUT:
            self._outputs[OUTPUT] = self.choice.output_kernel(values, batch)
            return
        rows = self.choice.rows(values, batch)
        self._kernels[place.layer] = kernel_of(rows)
        if self._before is not None:
            self.shapes.setdefault(place.layer, ShapeSums()).add(self._before, rows)
        self._before = rows

    def batch_ended(self, batch: Batch) -> None:
        kernels = self._kernels | self._outputs
        targets = self.choice.target_kernel(batch)
        if targets is not None:
            kernels[_TARGETS] = targets
        self._start()
        names = list(kernels)
        if self.names and names != self.names:
            raise CheckpointError(
                "unsupported", f"{self.name}: batches pass through different layers; geometry needs all"
            )
        self.names = names
        if kernels:
            self.sums.add(list(kernels.values()))

    def found(self) -> Found:
        at = {name: number for number, name in enumerate(self.names)}
        layers = [name for name in self.names if name not in (OUTPUT, _TARGETS)]
        facts = []
        for before, layer in zip([None, *layers], layers, strict=False):
            others = {} if before is None else {"geometry": before, "geometry_inputs": layers[0]}
            others |= {f"geometry_{name}s": name for name in (OUTPUT, _TARGETS) if name in at}
            facts += [
                Fact(fact, layer, self.sums.alignment(at[layer], at[other]), None, self.sums.samples)
                for fact, other in others.items()
            ]
            if before is not None:
                shape = self.shapes[layer]
                facts.append(Fact("geometry_procrustes", layer, shape.distance(), None, shape.samples))
        return Found(tuple(facts))
