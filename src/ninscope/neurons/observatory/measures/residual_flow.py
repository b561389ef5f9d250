"""Measure 16: how the residual stream moves from layer to layer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ninscope.neurons.observatory.channel_moments import ChannelCorrelations
from ninscope.neurons.observatory.measure import (
    RESIDUAL,
    Batch,
    Fact,
    Found,
    NeuronValues,
    Place,
    StreamedMeasure,
    Tally,
    distribution,
)
from ninscope.neurons.observatory.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.state_statistics import Moments
    from ninscope.neurons.observatory.subject import Subject

_TOWER = re.compile(r"(.*?)(?:block\d+|output)\.")


@register
class ResidualFlow(StreamedMeasure):
    """Takes the residual stream as something that moves, with layers as its time: how alike a unit is from one layer to the next,
    and how far and in which direction a token's state goes.

    Of neighbouring depths x and y (y is the state after the block): Pearson's correlation over all tokens of x_d and y_d, for
    every unit d; the step ||y - x||, the step over ||x||, and the cosine of x and y, each a mean over tokens. Rows stand under the
    later layer, so the first one has its norm alone.

    Follows: Fernando and Guitchounts, "Transformer Dynamics: A neuroscientific approach to interpretability of large language
    models", 2025: the abstract and the text of its first figure were read. They take the last token of each sample and states
    before attention and before the MLP; we take all tokens, and states between blocks. The rest of the formulas is ours.

    Pitfalls: the first token's state can be so large (see `sinks`) that it alone makes a unit's correlation near 1. Norms grow
    with depth in most networks with pre-normalisation, so steps are beside ||x|| as well. A unit that is constant has no
    correlation. Neighbours of different shape, between the stages of a Swin, have no rows, and neither has the step from an
    encoder to its decoder.
    """

    name = "residual_flow"
    title = "Flow of the residual stream"
    source = 'Fernando and Guitchounts 2025, "Transformer Dynamics"'
    facts: ClassVar = {
        "residual_flow": "correlation of a unit with itself one layer before, -1 to 1; quantiles over units",
        "residual_flow_step": "distance of a token's state from that one layer before, mean over tokens; count: tokens",
        "residual_flow_relative_step": "that distance over the norm one layer before, mean over tokens; count: tokens",
        "residual_flow_cosine": "cosine of a token's state with that one layer before, -1 to 1, mean over tokens; count: tokens",
        "residual_flow_norm": "norm of a token's state, mean over tokens; count: tokens",
    }
    reads = frozenset({RESIDUAL})

    def tally(self, subject: Subject) -> Tally:
        return _Flow()


class _MeanOverTokens:
    """What is not finite, as a cosine with 0, is left out."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, values: Tensor) -> None:
        total = float(values.sum())
        if total - total == 0:  # finite, and so are all
            self.total, self.count = self.total + total, self.count + values.numel()
            return
        known = values[values.isfinite()]
        self.total, self.count = self.total + float(known.double().sum()), self.count + known.numel()

    def fact(self, name: str, layer: str) -> Fact:
        return Fact(name, layer, self.total / self.count if self.count else float("nan"), None, self.count)


class _Step:
    """From one depth to the next."""

    def __init__(self) -> None:
        self.correlations = ChannelCorrelations()
        self.steps, self.relative, self.cosines = (_MeanOverTokens() for _ in range(3))

    def add(self, before: _Seen, after: _Seen) -> None:
        from ninscope.neurons.observatory.state_statistics import products_of, steps_of

        products = products_of(before.states, after.states, before.moments, after.moments)
        self.correlations.add(before.moments, after.moments, products)
        steps, dots = steps_of(before.states, after.states)
        self.steps.add(steps)
        self.relative.add(steps / before.norms)
        self.cosines.add(dots / (before.norms * after.norms))

    def facts(self, layer: str) -> list[Fact]:
        return [
            self.steps.fact("residual_flow_step", layer),
            self.relative.fact("residual_flow_relative_step", layer),
            self.cosines.fact("residual_flow_cosine", layer),
        ]


@dataclass(frozen=True)
class _Seen:
    """A depth of this batch. states: floats [n, t, width]; norms: float32 [n, t]."""

    layer: str
    states: Tensor
    moments: Moments
    norms: Tensor


class _Flow(Tally):
    def __init__(self) -> None:
        self._norms: dict[str, _MeanOverTokens] = {}
        self._steps: dict[str, _Step] = {}
        self._before: _Seen | None = None

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        from ninscope.neurons.observatory.state_statistics import moments_of, token_norms

        layer, shared = place.layer, batch.shared
        seen = _Seen(layer, values, shared.of(values, moments_of), shared.of(values, token_norms))
        self._norms.setdefault(layer, _MeanOverTokens()).add(seen.norms)
        if self._before is not None and _neighbours(self._before, seen):
            self._steps.setdefault(layer, _Step()).add(self._before, seen)
        self._before = seen

    def batch_ended(self, batch: Batch) -> None:
        self._before = None

    def found(self) -> Found:
        facts: list[Fact] = []
        kept: list[NeuronValues] = []
        for layer, norms in self._norms.items():
            if layer in self._steps:
                step = self._steps[layer]
                fact, values = distribution("residual_flow", layer, step.correlations.found())
                facts += [fact, *step.facts(layer)]
                kept += values
            facts.append(norms.fact("residual_flow_norm", layer))
        return Found(tuple(facts), tuple(kept))


def _neighbours(before: _Seen, after: _Seen) -> bool:
    """Of one tower (encoder, decoder, ...) and of the same shape. A Swin's stages end in "output.x" of no stage."""
    return before.states.shape == after.states.shape and (
        _tower(before.layer) == _tower(after.layer) or after.layer == "output.x"
    )


def _tower(layer: str) -> str:
    match = _TOWER.match(layer)
    return match[1] if match else ""
