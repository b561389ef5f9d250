"""Measure 9: neurons of the last layer that change how sure a model is, not what it predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.errors import CheckpointError
from ninscope.neurons.observatory.magnitudes import objection_to_changes
from ninscope.neurons.observatory.measure import (
    ALL,
    HIDDEN,
    NEXT_TOKENS,
    OUTPUT,
    RESIDUAL,
    Batch,
    Fact,
    Found,
    NeuronValues,
    OwnMeasure,
    Place,
    distribution,
)
from ninscope.neurons.observatory.registry import register
from ninscope.seeding import keyed_bits

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.confidence import Shifts
    from ninscope.neurons.observatory.final_norm import FinalNorm
    from ninscope.neurons.observatory.subject import Subject

LARGE = 0.75  # the quantile of norms from which a neuron's is large
SMALL = 0.25  # of the median variance: up to there a neuron's is small
EXAMINED = 8  # candidates, and as many random neurons
WIDTH_PER_NULL = 64  # one of so many directions of the stream counts as one that logits depend on least
SWEEP = {"at_0": 0.0, "at_half": 0.5, "at_most": 1.0}  # of the neuron's largest activation
CHECKED = 64  # positions of the first window on which the formula is compared with the model
OFF_BY, OFF_BY_SHORT = 1e-3, 0.05  # of the logits' spread: how far the formula may be off; for floats of 16 bits


@register
class EntropyNeurons(OwnMeasure):
    """How many neurons of the last layer write much that hardly favours any token, and what they do to entropy and loss.

    Such a neuron makes the residual stream longer; the final norm divides by that, so that all logits shrink and the model is less
    sure. w_i = W_out[:, i] is what neuron i writes, U the unembedding with the norm's gain. Candidates have ||w_i|| of at least
    the layer's 75 % quantile, and a variance over the vocabulary of cos(U_v, w_i) of at most a quarter of the layer's median. Of
    up to 8 of them, those with the largest ||w_i|| / deviation, and of 8 random other neurons the activation is fixed at its mean
    over the text, and the changes of entropy and loss are taken at every position that has a next token. The share of the effect
    that goes through the norm's scale is 1 - mean |change of loss, scale as it was| / mean |change of loss|. A sweep fixes
    candidates at 0, at half and at all of their largest activation.

    Source: Gurnee et al. 2024, "Universal Neurons in GPT2 Language Models", and Stolfo et al. 2024, "Confidence Regulation
    Neurons" (code of the first read, of the second in part): cosines with the unembedding's rows, mean ablation, the frozen
    scale, the share of the norm in the directions of the smallest singular values (12 of 768 in theirs, one of 64 here).
    They choose by eye or by rank; the two bounds here are ours. What a fixed activation does is worked out from the last
    residual stream (`confidence`), and checked against one changed pass.

    It takes two forward passes and one window more, and about 56 times the softmax of all logits.

    Pitfalls. The two bounds are relative: a layer in which all neurons are alike has none. A mean over 8 is none over the layer.
    Values of candidates are NaN where there are none, as near initialisation.
    """

    name = "entropy_neurons"
    title = "Neurons that regulate confidence"
    source = "Gurnee et al. 2024, Universal Neurons (code read); Stolfo et al. 2024, Confidence Regulation Neurons (code in part)"
    facts: ClassVar = {
        "entropy_neurons": "number of candidates in the last layer of hidden neurons, of `count` neurons",
        "entropy_neurons_norm": "norm of what a neuron writes at activation 1; quantiles over neurons",
        "entropy_neurons_variance": "variance over the vocabulary of its cosine with rows of U; quantiles over neurons",
        "entropy_neurons_null": "part of its norm in the directions that logits depend on least, 0 to 1; quantiles over neurons",
        "entropy_neurons_entropy": "candidates fixed at their mean: change of entropy, nats; quantiles over candidates",
        "entropy_neurons_entropy_size": "candidates fixed at their mean: mean size of the change of entropy, nats",
        "entropy_neurons_loss": "candidates fixed at their mean: change of loss, nats",
        "entropy_neurons_scale": "candidates: share of the change of loss through the norm's scale, at most 1",
        "entropy_neurons_random_entropy": "random neurons fixed at their mean: change of entropy, nats",
        "entropy_neurons_random_entropy_size": "random neurons fixed at their mean: mean size of the change of entropy, nats",
        "entropy_neurons_random_loss": "random neurons fixed at their mean: change of loss, nats",
        "entropy_neurons_random_scale": "random neurons: share of the change of loss through the norm's scale, at most 1",
        "entropy_neurons_at_0": "candidates fixed at 0: change of entropy, nats",
        "entropy_neurons_at_half": "candidates fixed at half of their largest activation: change of entropy, nats",
        "entropy_neurons_at_most": "candidates fixed at their largest activation: change of entropy, nats",
    }
    needs = frozenset({NEXT_TOKENS})
    reads = frozenset({HIDDEN, RESIDUAL, OUTPUT})

    def objection(self, subject: Subject) -> str | None:
        from ninscope.neurons.observatory.final_norm import final_norm_of

        head, norm = subject.head(), subject.places.final_norm()
        if head is None:
            return f"{subject.name} has no unembedding that is known"
        if final_norm_of(norm, head.shape[1]) is None:
            return f"the norm before the unembedding, {type(norm).__name__}, does not divide by a root of a mean square"
        return objection_to_changes(subject)

    def found(self, subject: Subject, other: Subject | None = None) -> Found:
        head = _Head.of(subject)
        candidates, chosen, rest = _choice(head, subject.seed)
        facts = [Fact(self.name, name, len(candidates), count=head.neurons) for name in (ALL, head.layer)]
        parts = [distribution(f"{self.name}_{name}", head.layer, column) for name, column in head.columns.items()]
        parts += _effects(subject, head, chosen, rest)
        return Found((*facts, *(fact for fact, _ in parts)), tuple(values for _, kept in parts for values in kept))


@dataclass(frozen=True)
class _Head:
    """The last layer of hidden neurons, and what follows. weights: float32 [width, neurons], as far as the norm lets it through.

    columns: float64 [neurons], what weights alone tell of each neuron, by name.
    """

    layer: str
    weights: Tensor
    unembedding: Tensor
    norm: FinalNorm
    columns: dict[str, np.ndarray]

    @property
    def neurons(self) -> int:
        return self.weights.shape[1]

    @staticmethod
    def of(subject: Subject) -> _Head:
        """Raises CheckpointError (unsupported): the layer does not write to the stream that the unembedding reads."""
        from ninscope.neurons.observatory.confidence import Directions
        from ninscope.neurons.observatory.final_norm import final_norm_of

        layer = subject.hidden_layers[-1]
        weights, matrix = subject.leaving(layer), subject.head()
        assert matrix is not None  # objection() has asked
        norm = final_norm_of(subject.places.final_norm(), matrix.shape[1])
        assert norm is not None
        if len(weights) != matrix.shape[1]:
            raise CheckpointError(
                "unsupported",
                f"{subject.name}: {layer} writes to {len(weights)} neurons, and the unembedding reads {matrix.shape[1]}",
            )
        unembedding = norm.unembedding(matrix)
        weights = norm.centre(weights.T).T.contiguous()
        directions = Directions.of(unembedding)
        # The mean, which a LayerNorm takes away, is one such direction more.
        least = max(len(weights) // WIDTH_PER_NULL, 1) + norm.centred
        columns = {
            "norm": weights.double().norm(dim=0),
            "variance": directions.logit_variances(weights),
            "null": directions.null_shares(weights, least),
        }
        told = {name: column.cpu().numpy() for name, column in columns.items()}
        return _Head(layer, weights, unembedding, norm, told)


def candidates_of(norms: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Numbers of the neurons of large norm and small variance, the clearest first: int64. norms, variances: [neurons]."""
    large = norms >= np.quantile(norms, LARGE)
    with np.errstate(invalid="ignore", divide="ignore"):
        small = variances <= SMALL * np.nanmedian(variances) if np.isfinite(variances).any() else np.zeros_like(large)
        clear = norms / np.sqrt(variances)
    found = np.flatnonzero(large & small)
    return found[np.argsort(-clear[found], kind="stable")]


def _choice(head: _Head, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All candidates, those that are looked at, and random other neurons."""
    candidates = candidates_of(head.columns["norm"], head.columns["variance"])
    rest = np.setdiff1d(np.arange(head.neurons), candidates)
    draw = np.random.Generator(keyed_bits(f"neurons: entropy neurons of {head.layer}", seed))
    random = np.sort(draw.choice(rest, min(EXAMINED, len(rest)), replace=False))
    return candidates, candidates[:EXAMINED], random


def _effects(
    subject: Subject, head: _Head, chosen: np.ndarray, rest: np.ndarray
) -> list[tuple[Fact, tuple[NeuronValues, ...]]]:
    """Facts of fixed activations."""
    means, largest = _activations(subject, head.layer)
    shifts = _shifts(subject, head, np.concatenate([chosen, rest]), means, largest)
    effects = (shifts.sums / shifts.count).cpu().numpy()  # [variants, neurons, 4]
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = 1 - effects[1, :, 3] / effects[0, :, 3]
    columns = {"entropy": effects[0, :, 0], "entropy_size": effects[0, :, 2], "loss": effects[0, :, 1], "scale": scale}
    sweep = {name: effects[2 + number, :, 0] for number, name in enumerate(SWEEP)}
    parts = []
    for name, column in {**columns, **sweep}.items():
        whole = np.full(head.neurons, np.nan)
        whole[chosen] = column[: len(chosen)]
        parts.append(distribution(f"entropy_neurons_{name}", head.layer, whole))
    for name, column in columns.items():
        parts.append(distribution(f"entropy_neurons_random_{name}", head.layer, column[len(chosen) :], keep=False))
    return parts


def _check_finite(place: Place, values: Tensor) -> None:
    """Raises CheckpointError (nonfinite), which names the layer."""
    from ninscope.neurons.observatory.passes import nonfinite

    if (wrong := nonfinite(place, values)) is not None:
        raise wrong


def _activations(subject: Subject, layer: str) -> tuple[Tensor, Tensor]:
    """Mean and largest activation of each neuron, float32 [neurons]. One forward pass. Raises CheckpointError (nonfinite)."""
    sums: list[Tensor] = []
    largest: list[Tensor] = []
    rows = 0

    def see(place: Place, values: Tensor, batch: Batch) -> None:
        nonlocal rows
        if place.layer != layer:
            return
        _check_finite(place, values)
        flat = values.reshape(-1, values.shape[-1])
        rows += len(flat)
        sums[:] = [flat.double().sum(0) if not sums else sums[0] + flat.double().sum(0)]
        top = flat.float().amax(0)
        largest[:] = [top if not largest else largest[0].maximum(top)]

    subject.run((HIDDEN,), see)
    return (sums[0] / rows).float(), largest[0]


@dataclass
class _Seen:
    """A batch, all positions: hidden [positions, examined neurons], stream [positions, width], logits [positions, vocabulary]."""

    hidden: Tensor
    stream: Tensor
    logits: Tensor


def _shifts(subject: Subject, head: _Head, neurons: np.ndarray, means: Tensor, largest: Tensor) -> Shifts:
    """One forward pass, and one batch more with the activations fixed.

    Raises CheckpointError: the model computes its logits otherwise (unsupported), or values are not finite (nonfinite).
    """
    import torch

    from ninscope.neurons.observatory.confidence import Shifts

    picked = torch.from_numpy(neurons).to(means.device)
    fixed = torch.stack([means, means, *(largest * part for part in SWEEP.values())])[:, picked]
    frozen = [False, True, *(False for _ in SWEEP)]
    found: list[Shifts] = []
    for batch in subject.batches():
        seen = _seen(subject, head.layer, picked, batch)
        if not found:
            constant = _checked_constant(subject, head, seen, picked, largest[picked], batch)
            found.append(Shifts(head.weights[:, picked], head.unembedding, constant, head.norm, fixed, frozen))
        ids = batch.inputs["input_ids"]
        kept = torch.ones_like(ids, dtype=torch.bool)
        kept[:, -1] = False
        rows = kept.flatten().nonzero()[:, 0]
        found[0].add(rows, seen.stream, seen.hidden, seen.logits, ids[:, 1:].flatten())
    return found[0]


def _seen(subject: Subject, layer: str, picked: Tensor, batch: Batch) -> _Seen:
    stream_layer = subject.places_of(RESIDUAL)[-1].layer
    parts: dict[str, Tensor] = {}

    def see(place: Place, values: Tensor, batch: Batch) -> None:
        if place.kind == OUTPUT or place.layer == (layer if place.kind == HIDDEN else stream_layer):
            _check_finite(place, values)
            flat = values.reshape(-1, values.shape[-1])
            parts[place.kind] = flat[:, picked] if place.kind == HIDDEN else flat

    subject.run((HIDDEN, RESIDUAL, OUTPUT), see, [batch])
    return _Seen(parts[HIDDEN], parts[RESIDUAL], parts[OUTPUT])


def _checked_constant(
    subject: Subject, head: _Head, seen: _Seen, picked: Tensor, values: Tensor, batch: Batch
) -> Tensor:
    """The logits' constant part, after the formula was compared with the model: as it is, and with all these neurons fixed."""
    from ninscope.neurons.observatory.confidence import constant_logits, tail

    checked = min(CHECKED, batch.inputs["input_ids"].shape[1])
    stream, logits = seen.stream[:checked].float(), seen.logits[:checked].float()
    constant, off = constant_logits(stream, logits, head.unembedding, head.norm)

    def fix(hidden: Tensor) -> Tensor:
        new = hidden.clone()
        new[..., picked] = values.to(hidden.dtype)
        return new

    first = Batch(0, 0, {name: given[:1] for name, given in batch.inputs.items()})
    with subject.changed({head.layer: fix}):
        changed = subject.outputs(first).flatten(0, 1)[:checked]
    added = (values - seen.hidden[:checked].float()) @ head.weights[:, picked].T
    told = tail(stream + added, head.unembedding, head.norm) + constant
    allowed = (OFF_BY if seen.logits.element_size() > 2 else OFF_BY_SHORT) * logits.std().item()
    off_changed = (told - changed).abs().max().item()
    if not off <= allowed or not off_changed <= allowed + 0.01 * (changed - logits).abs().max().item():
        raise CheckpointError(
            "unsupported",
            f"{subject.name}: its logits are not the last stream, normalised, times the unembedding, or {head.layer} does not "
            "write straight to that stream; the norm's scale cannot be told apart",
        )
    return constant
