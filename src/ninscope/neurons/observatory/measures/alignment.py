"""Alignment of two seeds up to permutations of their neurons, and the loss on the line that joins their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.observatory.measure import (
    ALL,
    HIDDEN,
    LABELS,
    NEXT_TOKENS,
    SEED,
    Fact,
    Found,
    NeuronValues,
    OwnMeasure,
    Place,
    distribution,
)
from ninscope.neurons.observatory.moments import LayerSums
from ninscope.neurons.observatory.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject
    from ninscope.neurons.observatory.symmetries import Permutations, Symmetries

Tensors = Mapping[str, "Tensor"]
WEIGHTS, ACTIVATIONS = "weights", "activations"
SHARES = (0.25, 0.5, 0.75)  # of the model's own weights, between the ends 0 and 1


@register
class Alignment(OwnMeasure):
    """Whether two seeds found the same solution with their neurons in another order.

    Hidden neurons, attention heads (whole, as blocks) and the basis of the residual stream of the other model B are permuted so
    that its weights come near to those of the model A: P B computes what B does. The barrier is
    max over lambda of L(lambda A + (1 - lambda) P B) - (L(A) + L(B)) / 2 over lambda = 0, 1/4, 1/2, 3/4, 1, where L is the mean
    loss in nats (of next tokens, else of labels). It is 0 or more: half the difference of both losses where the line has no bump.
    Variance collapse is the variance of hidden activations at lambda = 1/2, the mean over a layer's neurons, over that of both
    ends: 1 where merging leaves the scale, towards 0 where units average out.

    Follows Ainsworth et al., "Git Re-Basin: Merging Models modulo Permutation Symmetries" (2022), algorithm 1 and its code (code
    read; written for multilayer perceptrons and ResNets: the blocks of a transformer are ours, and groups take turns in a fixed
    order instead of a drawn one); variance collapse follows Jordan et al., "REPAIR" (2022; abstract only, the formula is ours).

    Coordinate descent ends in an optimum that need not be the best one, so the barrier is an upper bound. Heads have more symmetry
    than permutations (any invertible map between q and k, or v and output), which is not used. What a model has besides (experts,
    positions that belong to certain heads) may forbid permutations: each group is tried out at random first, and one that changes
    the outputs stays as it is and is counted in `alignment_left_out`. Near the start of training the losses are all alike, so that
    a barrier of 0 says nothing there: read it beside the similarity. Models in half precision give outputs, and so a barrier, to
    about three digits.
    """

    name = "alignment"
    title = "Alignment of seeds"
    source = "Ainsworth et al. 2022, Git Re-Basin, code samuela/git-re-basin; Jordan et al. 2022, REPAIR"
    facts: ClassVar[Mapping[str, str]] = {
        "alignment": "loss barrier after alignment, nats, 0 or more",
        "alignment_barrier_unaligned": "loss barrier without alignment, nats, 0 or more",
        "alignment_moved": "share of the units that alignment moves, 0 to 1",
        "alignment_similarity": "of a unit: cosine of its weights and those of its match, -1 to 1",
        "alignment_similarity_unaligned": "of a unit: cosine of its weights and those of the unit of its number, -1 to 1",
        "alignment_variance_collapse": "variance of hidden activations half-way, over that of the ends, after alignment",
        "alignment_variance_collapse_unaligned": "the same without alignment",
        "alignment_left_out": "number of groups of units that are not permuted, since that would change the outputs",
    }
    reads = frozenset({HIDDEN})
    compared_with = (SEED,)

    def __init__(self, matching: str = WEIGHTS) -> None:
        """matching: "weights", or "activations" for correlations over the examples (Git Re-Basin, section 3.1)."""
        if matching not in (WEIGHTS, ACTIVATIONS):
            raise RequestError(f"matching is {matching!r}; {WEIGHTS!r} or {ACTIVATIONS!r} was expected")
        self.matching = matching

    def objection(self, subject: Subject) -> str | None:
        """See `Measure.objection`."""
        if not subject.places.held:
            return "which weights its neurons have is not known, as layers were named"
        if not subject.has & {NEXT_TOKENS, LABELS}:
            return f"{subject.name} predicts neither next tokens nor labels, so that there is no loss; give a model with its head"
        return None

    def found(self, subject: Subject, other: Subject | None = None) -> Found:
        """See `OwnMeasure.found`.

        Raises CheckpointError: unsupported (other shapes, nothing that can be permuted), nonfinite (weights, or outputs on the
        line).
        """
        from ninscope.neurons.observatory.matching import by_activations, by_weights, similarities
        from ninscope.neurons.observatory.symmetries import symmetries_of, tensors_of

        if other is None:
            raise RequestError(f"alignment: {subject.name} has no other seed to be compared with; give two seeds")
        why = self.objection(subject)  # whose passes are over before any is watched
        if why is not None:
            raise RequestError(f"alignment: {why}")
        ours, theirs = tensors_of(subject.model), tensors_of(other.model)
        _check_alike(subject, other, ours, theirs)
        for one in (subject, other):
            _check_finite(one)
        symmetries = symmetries_of(other, next(subject.batches()))
        if not symmetries.groups:
            raise CheckpointError("unsupported", f"{other.name}: no order of its neurons is known to be free")
        weights = self.matching == WEIGHTS
        order = by_weights(symmetries, ours, theirs) if weights else by_activations(symmetries, subject, other)
        before, after = (similarities(symmetries, ours, theirs, one) for one in ({}, order))
        facts, values = _rows_of_groups(symmetries, order, before, after)
        facts += _rows_of_lines(subject, symmetries, theirs, order)
        facts.append(Fact("alignment_left_out", ALL, float(len(symmetries.left_out))))
        names = list(self.facts)
        return Found(tuple(sorted(facts, key=lambda fact: names.index(fact.name))), tuple(values))


def _check_alike(subject: Subject, other: Subject, ours: Tensors, theirs: Tensors) -> None:
    if [(name, tensor.shape) for name, tensor in ours.items()] != [(name, one.shape) for name, one in theirs.items()]:
        raise CheckpointError(
            "unsupported",
            f"{subject.name} and {other.name} have other tensors; only models of one shape can be aligned",
        )


def _check_finite(subject: Subject) -> None:
    for name, parameter in subject.model.named_parameters():
        if not bool(parameter.detach().isfinite().all()):
            raise CheckpointError("nonfinite", f"{subject.name}: weights {name} hold NaN or infinity")


def _rows_of_groups(
    symmetries: Symmetries,
    order: Permutations,
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
) -> tuple[list[Fact], list[NeuronValues]]:
    """What alignment moves, and how similar units are, by group and of all."""
    from ninscope.neurons.observatory.symmetries import HEADS

    facts: list[Fact] = []
    kept: list[NeuronValues] = []
    unmoved = {name: permutation == np.arange(len(permutation)) for name, permutation in order.items()}
    units = {group.name: "head" if group.kind == HEADS else "neuron" for group in symmetries.groups}
    for layer in [*units, ALL]:
        names = list(units) if layer == ALL else [layer]
        stay = np.concatenate([unmoved[name] for name in names])
        facts.append(Fact("alignment_moved", layer, float(1 - stay.mean()), count=len(stay)))
        for name, values in (("alignment_similarity", after), ("alignment_similarity_unaligned", before)):
            joined = np.concatenate([values[one] for one in names])
            keep = layer != ALL and values is after
            fact, of_units = distribution(name, layer, joined, units.get(layer, "neuron"), keep)
            facts.append(fact)
            kept.extend(of_units)
    return facts, kept


# --- on the line between two models -------------------------------------------------------------------------
def _rows_of_lines(subject: Subject, symmetries: Symmetries, theirs: Tensors, order: Permutations) -> list[Fact]:
    """Barrier and variance collapse, with alignment and without."""
    import torch

    def mixed(share: float, permutations: Permutations) -> Callable[[str, Tensor], Tensor]:
        def at(name: str, own: Tensor) -> Tensor:
            end = symmetries.permuted(name, theirs[name], permutations)
            return end if share == 0 else torch.lerp(end.float(), own.float(), share)

        return at

    own = _Point(subject)
    ends = [own, _Point(subject, mixed(0.0, order))]
    facts = []
    for suffix, permutations in (("", order), ("_unaligned", {})):
        points = {share: _Point(subject, mixed(share, permutations)) for share in SHARES}
        losses = [point.loss for point in (*ends, *points.values())]
        barrier = max(losses) - sum(end.loss for end in ends) / 2
        facts.append(Fact("alignment_barrier_unaligned" if suffix else "alignment", ALL, barrier))
        name = f"alignment_variance_collapse{suffix}"
        ratios = _ratios(points[0.5].variances, [end.variances for end in ends])
        facts += [Fact(name, layer, ratio, count=own.neurons[layer]) for layer, ratio in ratios.items()]
        if ratios:  # a model may have experts alone, which see other tokens each time
            facts.append(Fact(name, ALL, float(np.mean(list(ratios.values()))), count=len(ratios)))
    return facts


class _Point:
    """A model of some weights over all examples.

    loss: mean, nats. neurons: how many each hidden layer has. variances: of their activations, the mean over each layer.
    """

    def __init__(self, subject: Subject, tensors: Callable[[str, Tensor], Tensor] | None = None) -> None:
        from ninscope.neurons.observatory.symmetries import holding

        sums: dict[str, LayerSums] = {}

        def see(place: Place, values: Tensor) -> None:
            rows = values.reshape(-1, values.shape[-1])
            if place.routed or not len(rows):
                return
            layer = sums.get(place.layer) or sums.setdefault(place.layer, LayerSums(rows))
            layer.add(layer.shifted(rows, layer.shift.new_empty(rows.shape)))

        with holding(subject.model, tensors or (lambda name, own: own)), subject.places.shown((HIDDEN,), see):
            self.loss = subject.mean_loss()
        self.neurons = {layer: one.size for layer, one in sums.items()}
        self.variances = {
            layer: float(one.deviations.square().mean()) / max(one.count, 1) for layer, one in sums.items()
        }


def _ratios(middle: Mapping[str, float], ends: list[Mapping[str, float]]) -> dict[str, float]:
    """By layer; NaN where nothing varies at the ends."""
    sums = {layer: sum(end[layer] for end in ends) / len(ends) for layer in middle}
    return {layer: middle[layer] / sums[layer] if sums[layer] else float("nan") for layer in middle}
