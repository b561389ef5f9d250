"""Measure 14: heads that attend to the first token, and what goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.errors import CheckpointError
from ninscope.neurons.observatory.measure import (
    ALL,
    ATTENTION,
    CONTEXT,
    RESIDUAL,
    TOKENS,
    VALUES,
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

    from ninscope.neurons.observatory.subject import Subject

NO_PATTERN = 'no attention pattern was shown; load the model with attn_implementation="eager"'
STRONG = 0.3  # of a sample's mean attention to the first token, as Gu et al. have it
SINK_BOUNDS, OUTPUT_BOUNDS = (0.3, 0.6, 0.9), (0.25, 0.5)


def _dormant_name(sink: float, output: float) -> str:
    return f"sinks_dormant_{sink:g}_{output:g}"


_DORMANT = {
    _dormant_name(sink, output): f"share of heads with a sink above {sink:g} and an output below {output:g}, 0 to 1"
    for sink in SINK_BOUNDS
    for output in OUTPUT_BOUNDS
}


@register
class Sinks(StreamedMeasure):
    """Says how much of its attention a head gives to the first token although that says little. Such a head does nothing then: the
    first token's value is small ("value-state drain"), so the head's output is too, and it is dormant on this text. The first
    token's residual stream is large at the same time ("residual-state peak").

    Of a head, sink = mean_{i > 0} a_i0 over samples and rows; value drain = ||v_0|| / median_{j > 0} ||v_j||, and residual peak
    = ||x_0|| / median_{j > 0} ||x_j||, each by sample and then averaged; output = mean ||o_i|| over i > 0, o the head's own slice
    of what enters the output matrix, over the mean of the layer's heads. Dormant: the sink is above one bound and the output
    below another; all pairs of bounds are rows. Heads that share keys and values have one drain.

    Follows: Guo et al., "Active-Dormant Attention Heads: Mechanistically Demystifying Extreme-Token Phenomena in LLMs", 2024: the
    abstract was read, which names the three phenomena; the formulas are ours. The row `sinks_share` is that of the code of Gu et
    al., "When Attention Sink Emerges in Language Models", 2024 (sail-sg/Attention-Sink, read): the share of (sample, head) with
    mean_{i >= 0} a_i0 > 0.3, with the first row, which has 1 there if the head is causal. Output norms beside the layer's mean
    are one of the scores of Sandoval-Segura et al., "Identifying and Evaluating Inactive Heads in Pretrained LLMs", 2025 (abstract
    and a summary read).

    Pitfalls: "dormant" is said of this text; a head may be active on another. A uniform causal head has a sink as well, mean_{i >
    0} 1 / (i + 1), .035 of 128 tokens. Only the first position is looked at, sinks elsewhere are not seen. It needs text: the
    first patch of an image is no sink, and a pattern over windows has no first token. Medians are the lower of the two in the
    middle, as torch's.
    """

    name = "sinks"
    title = "Attention sinks and dormant heads"
    source = 'Guo et al. 2024, "Active-Dormant Attention Heads"; Gu et al. 2024, "When Attention Sink Emerges"'
    facts: ClassVar = {
        "sinks": "mean attention of later positions to the first, 0 to 1; quantiles over heads",
        "sinks_share": "share of samples and heads whose mean attention to the first position is above 0.3, 0 to 1",
        "sinks_value_drain": "norm of the first value over the median one, 0 and up; quantiles over heads",
        "sinks_output": "norm of a head's output over the mean of its layer's heads, 0 and up; quantiles over heads",
        "sinks_residual_peak": "norm of the residual stream at the first position over the median one, 0 and up",
        **_DORMANT,
    }
    needs = frozenset({TOKENS})
    reads = frozenset({ATTENTION, VALUES, CONTEXT, RESIDUAL})

    def objection(self, subject: Subject) -> str | None:
        if subject.examples.positions < 2:
            return "windows of one token have no position that could attend to the first"
        return None

    def tally(self, subject: Subject) -> Tally:
        return _Sinks()


class _Mean:
    """A running mean. sums, counts: float64 [heads], or [1]; what is not finite is left out."""

    def __init__(self) -> None:
        self.sums = self.counts = np.zeros(0)

    def add(self, values: np.ndarray) -> None:
        """values: [samples, heads]."""
        sums, counts = values.sum(0, dtype=np.float64), np.full(values.shape[1], len(values))
        if not np.isfinite(sums).all():
            known = np.isfinite(values)
            sums, counts = np.where(known, values, 0.0).sum(0, dtype=np.float64), known.sum(0)
        self.sums, self.counts = (self.sums + sums, self.counts + counts) if self.sums.size else (sums, counts)

    @property
    def value(self) -> np.ndarray:
        """float64; NaN of what has no number."""
        return np.divide(self.sums, self.counts, out=np.full(len(self.sums), np.nan), where=self.counts > 0)


class _Sinks(Tally):
    def __init__(self) -> None:
        self._sinks: dict[str, _Mean] = {}
        self._strong: dict[str, _Mean] = {}
        self._drains: dict[str, _Mean] = {}
        self._outputs: dict[str, _Mean] = {}
        self._peaks: dict[str, _Mean] = {}

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        from ninscope.neurons.observatory.state_statistics import norms_of, token_norms

        if place.kind == ATTENTION:
            self._see_pattern(place.layer, values, batch)
        elif place.kind == VALUES:
            norms = norms_of(values, place.heads).cpu().numpy()
            self._drains.setdefault(_attention_of(place.layer), _Mean()).add(_first_beside_others(norms))
        elif place.kind == CONTEXT:
            norms = norms_of(values, place.heads).cpu().numpy()
            self._outputs.setdefault(place.layer, _Mean()).add(norms[:, :, 1:].mean(2))
        elif place.kind == RESIDUAL:
            norms = batch.shared.of(values, token_norms)[:, None].cpu().numpy()
            self._peaks.setdefault(place.layer, _Mean()).add(_first_beside_others(norms))

    def _see_pattern(self, layer: str, pattern: Tensor, batch: Batch) -> None:
        expected = tuple(batch.tokens.shape) if batch.tokens is not None else ()
        if (pattern.shape[0], pattern.shape[2]) != expected or pattern.shape[2] != pattern.shape[3]:
            raise CheckpointError(
                "unsupported",
                f"{layer}: its attention of shape {list(pattern.shape)} is not over whole windows of text; it has no first token",
            )
        from ninscope.neurons.observatory.row_statistics import pattern_statistics

        first = batch.shared.of(pattern, pattern_statistics).starts.cpu().numpy()
        self._sinks.setdefault(layer, _Mean()).add(first[:, :, 1:].mean(2))
        self._strong.setdefault(layer, _Mean()).add(first.mean(2) > STRONG)

    def found(self) -> Found:
        if not self._sinks:
            raise CheckpointError("unsupported", NO_PATTERN)
        facts: list[Fact] = []
        kept: list[NeuronValues] = []
        heads: dict[str, list[np.ndarray]] = {}
        for layer in self._sinks:
            found = self._of_heads(layer)
            for name, values in found.items():
                heads.setdefault(name, []).append(values)
                fact, rows = distribution(name, layer, values, "head")
                facts.append(fact)
                kept += rows
            facts += [*_dormant(layer, found), _share(layer, [self._strong[layer]])]
        for name, parts in heads.items():
            facts.append(distribution(name, ALL, np.concatenate(parts), "head", keep=False)[0])
        whole = {name: np.concatenate(parts) for name, parts in heads.items()}
        facts += [*_dormant(ALL, whole), _share(ALL, list(self._strong.values()))]
        facts += [
            Fact("sinks_residual_peak", layer, float(peak.value[0]), None, int(peak.counts[0]))
            for layer, peak in self._peaks.items()
        ]
        return Found(tuple(facts), tuple(kept))

    def _of_heads(self, layer: str) -> dict[str, np.ndarray]:
        sinks = self._sinks[layer].value
        drains, outputs = self._drains[layer].value, self._outputs[layer].value
        if len(sinks) % len(drains) == 0:
            drains = np.repeat(drains, len(sinks) // len(drains))  # heads beside each other share values
        mean = outputs.mean()
        outputs = outputs / mean if mean > 0 else np.full(len(outputs), np.nan)
        return {"sinks": sinks, "sinks_value_drain": drains, "sinks_output": outputs}


def _attention_of(values_layer: str) -> str:
    return f"{values_layer.rpartition('.')[0]}.c"


def _first_beside_others(norms: np.ndarray) -> np.ndarray:
    """[n, heads, t] -> [n, heads]: the first position's over the median of the others', not finite where that is 0."""
    others = np.sort(norms[:, :, 1:], axis=2)  # of so few this is faster than torch's median
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = norms[:, :, 0] / others[:, :, (others.shape[2] - 1) // 2]
    return found


def _share(layer: str, strong: list[_Mean]) -> Fact:
    count = sum(int(mean.counts.sum()) for mean in strong)
    return Fact("sinks_share", layer, float(sum(mean.sums.sum() for mean in strong)) / count, None, count)


def _dormant(layer: str, heads: Mapping[str, np.ndarray]) -> list[Fact]:
    """Shares of heads; NaN where no output has a norm."""
    sinks, outputs = heads["sinks"], heads["sinks_output"]
    known = np.isfinite(outputs)
    facts = []
    for sink in SINK_BOUNDS:
        for output in OUTPUT_BOUNDS:
            dormant = (sinks > sink) & (outputs < output)
            value = float(dormant[known].mean()) if known.any() else float("nan")
            facts.append(Fact(_dormant_name(sink, output), layer, value, None, int(known.sum())))
    return facts
