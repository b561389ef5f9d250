"""Measure 12: the few numbers of the residual stream that are thousands of times larger than the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.neurons.observatory.measure import (
    RESIDUAL,
    Batch,
    Fact,
    Found,
    NeuronValues,
    Place,
    StreamedMeasure,
    Tally,
)
from ninscope.neurons.observatory.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

LARGE, TIMES = 100.0, 1000.0  # the size, and how many times the median


@register
class MassiveActivations(StreamedMeasure):
    """Finds single numbers of the residual stream that are huge beside all others. They sit at few dimensions and positions (often
    the first token), hardly depend on the text, and act as biases that attention sinks need.

    A hidden state is one sample's residual stream at one depth, x [t, width], with the first token. x_id is massive where
    |x_id| > 100 and |x_id| >= 1000 median |x|, the median over all of the state (the lower of the two in the middle).

    Follows: Sun et al., "Massive Activations in Large Language Models", 2024: the rule at second hand, and their public code
    (locuslab/massive-activations), which takes the median over a whole sequence's state, not token by token; so does the code of
    Owen et al., "A Refined Analysis of Massive Activations in LLMs", 2025, which has both bounds as "more than".

    Pitfalls: 100 has no scale, and a small or a young network never gets there: look at the ratio, which has none. A state whose
    median is 0 has no ratio and is left out (`count` of the ratio's row says how many states have one); its numbers are massive
    nowhere. Dimensions and positions are those of any sample, so they grow with the text; the number of massive activations is
    a mean over samples, and does not.
    """

    name = "massive_activations"
    title = "Massive activations"
    source = 'Sun et al. 2024, "Massive Activations in Large Language Models", and its public code'
    facts: ClassVar = {
        "massive_activations": "numbers above 100 and 1000 times their state's median, a sample; count: samples",
        "massive_activations_relative": "numbers above 1000 times the median, whatever their size, a sample; count: samples",
        "massive_activations_ratio": "largest magnitude over the median one, mean over samples; count: samples with a ratio",
        "massive_activations_largest": "largest magnitude of all samples",
        "massive_activations_dimensions": "dimensions with a massive activation in any sample; count: dimensions",
        "massive_activations_positions": "positions with a massive activation in any sample; count: positions",
        "massive_activations_tokens": "share of tokens with a massive activation, 0 to 1; count: tokens",
    }
    reads = frozenset({RESIDUAL})

    def tally(self, subject: Subject) -> Tally:
        return _Massive()


class _State:
    """Of one depth. dimensions, positions: float64, massive activations at each, of all samples."""

    def __init__(self, positions: int, width: int) -> None:
        self.dimensions, self.positions = np.zeros(width), np.zeros(positions)
        self.samples = self.relative = self.tokens = self.with_ratio = 0
        self.ratios = self.largest = 0.0

    def add(self, sizes: np.ndarray, positions: np.ndarray, dimensions: np.ndarray) -> None:
        """Numbers of one sample that are large beside its median: float64 and int64 [numbers]."""
        massive = sizes > LARGE
        self.relative += len(sizes)
        np.add.at(self.positions, positions[massive], 1)
        np.add.at(self.dimensions, dimensions[massive], 1)
        self.tokens += len(np.unique(positions[massive]))

    def facts(self, layer: str) -> tuple[Fact, ...]:
        name, samples = "massive_activations", self.samples
        tokens = samples * len(self.positions)
        ratio = self.ratios / self.with_ratio if self.with_ratio else float("nan")
        rows = (
            (name, self.dimensions.sum() / samples, samples),
            (f"{name}_relative", self.relative / samples, samples),
            (f"{name}_ratio", ratio, self.with_ratio),
            (f"{name}_largest", self.largest, samples),
            (f"{name}_dimensions", np.count_nonzero(self.dimensions), len(self.dimensions)),
            (f"{name}_positions", np.count_nonzero(self.positions), len(self.positions)),
            (f"{name}_tokens", self.tokens / tokens, tokens),
        )
        return tuple(Fact(row, layer, float(value), None, count) for row, value, count in rows)


class _Massive(Tally):
    def __init__(self) -> None:
        self._states: dict[str, _State] = {}

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        from ninscope.neurons.observatory.row_statistics import medians_and_largest

        samples, positions, width = values.shape
        state = self._states.setdefault(place.layer, _State(positions, width))
        medians, largest = (part.double().cpu().numpy() for part in medians_and_largest(values.flatten(1)))
        known = medians > 0
        ratios = largest[known] / medians[known]
        state.samples += samples
        state.with_ratio += int(known.sum())
        state.ratios += float(ratios.sum())
        state.largest = max(state.largest, float(largest.max()))
        # Few states have any, so only these are looked through.
        for sample in np.flatnonzero(known)[ratios >= TIMES]:
            state.add(*_large(values[sample].float().abs(), TIMES * medians[sample]))

    def found(self) -> Found:
        facts = tuple(fact for layer, state in self._states.items() for fact in state.facts(layer))
        values = tuple(
            NeuronValues("massive_activations", layer, state.dimensions / state.samples)
            for layer, state in self._states.items()
        )
        return Found(facts, values)


def _large(magnitudes: Tensor, bound: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sizes, positions, dimensions) of the numbers of a state [t, width] that are at least `bound`; it is compared in float64."""
    near = (magnitudes >= bound * (1 - 1e-6)).nonzero()
    sizes = magnitudes[near[:, 0], near[:, 1]].double().cpu().numpy()
    large = sizes >= bound
    positions, dimensions = near.cpu().numpy()[large].T
    return sizes[large], positions, dimensions
