"""Measure 13: how spread the attention of heads is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.errors import CheckpointError
from ninscope.neurons.observatory.measure import (
    ALL,
    ATTENTION,
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

OVERLOADED, LOW = 0.75, 0.25  # of the maximum
NO_PATTERN = 'no attention pattern was shown; load the model with attn_implementation="eager"'


@register
class AttentionEntropy(StreamedMeasure):
    """Says how evenly a head spreads its attention: 0 where every position attends to one, the logarithm of their number where to
    all alike. Entropy near the maximum is "entropic overload" (a head that does not choose), entropy near 0 goes with "entropy
    collapse" and unstable training.

    H = -mean_i sum_j a_ij ln a_ij, in nats, over rows i of all samples. Normalised: each row's entropy over the largest that it
    can have, then the mean over rows; the first row of a causal pattern has no choice and is left out. A row of a causal pattern
    has ln(i + 1) (i from 0), any other ln of the number of columns. A pattern is causal where no sample has an entry beyond the
    diagonal. Overload: the share of heads whose normalised entropy is above 3/4; low: below 1/4.

    Follows: Jha and Reagen, "ReLU's Revival: On the Entropic Overload in Normalization-Free Large Language Models", 2024 (the
    abstract was read, and the code of their "Entropy-Guided Attention for Private LLMs": the mean over rows, and ln of the
    context's length as the maximum). Normalised row by row by ln(i + 1) as in the code of Guo et al., "Active-Dormant Attention
    Heads", 2024, which counts the first row as 0, where we leave it out. Zhai et al., "Stabilizing Transformer Training by
    Preventing Attention Entropy Collapse", 2023: the abstract was read. The bound of the low share is ours.

    Pitfalls: rows of a causal pattern have different maxima, so H of a uniform causal head is mean_i ln(i + 1), about ln t - 1,
    and grows with the window: compare the normalised one. A head that looks back over a window shorter than the text never
    reaches 1, nor does one whose window is masked in part, as a Swin's shifted ones are. Rows that sum to less than 1, beside a
    learned sink (gpt-oss), are taken as they are. Patterns need eager attention, which costs more than the library's default.
    """

    name = "attention_entropy"
    title = "Attention entropy and entropic overload"
    source = 'Zhai et al. 2023, "entropy collapse"; Jha and Reagen 2024, "ReLU\'s Revival"'
    facts: ClassVar = {
        "attention_entropy": "entropy of a head's attention, nats, 0 to ln of the number of columns; quantiles over heads",
        "attention_entropy_normalised": "entropy over its row's maximum, 0 to 1; quantiles over heads",
        "attention_entropy_overload": "share of heads whose normalised entropy is above 3/4",
        "attention_entropy_low": "share of heads whose normalised entropy is below 1/4",
    }
    reads = frozenset({ATTENTION})

    def tally(self, subject: Subject) -> Tally:
        return _Entropies()


class _Rows:
    """Of one layer. sums: float64 [heads, rows], over samples. ahead: some row attends to a later column."""

    def __init__(self, heads: int, rows: int, columns: int) -> None:
        self.sums, self.columns, self.samples, self.ahead = np.zeros((heads, rows)), columns, 0, False

    def entropies(self) -> tuple[np.ndarray, np.ndarray]:
        """(nats, normalised), float64 [heads] each. Normalised is NaN where no row has a choice."""
        means = self.sums / self.samples
        rows = means.shape[1]
        choices = np.full(rows, self.columns) if self.ahead or rows != self.columns else np.arange(1, rows + 1)
        choosing = choices > 1
        if not choosing.any():
            return means.mean(1), np.full(len(means), np.nan)
        return means.mean(1), (means[:, choosing] / np.log(choices[choosing])).mean(1)


class _Entropies(Tally):
    def __init__(self) -> None:
        self._layers: dict[str, _Rows] = {}

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        from ninscope.neurons.observatory.row_statistics import pattern_statistics

        samples, heads, rows, columns = values.shape
        layer = self._layers.get(place.layer)
        if layer is None:
            _check(place.layer, values)
            layer = self._layers[place.layer] = _Rows(heads, rows, columns)
        if layer.sums.shape != (heads, rows) or layer.columns != columns:
            raise CheckpointError(
                "unsupported",
                f"{place.layer}: its attention changes shape from batch to batch; use full windows of one length",
            )
        found = batch.shared.of(values, pattern_statistics)
        layer.sums += found.entropies
        layer.samples += samples
        layer.ahead |= found.ahead

    def found(self) -> Found:
        if not self._layers:
            raise CheckpointError("unsupported", NO_PATTERN)
        facts: list[Fact] = []
        kept: list[NeuronValues] = []
        everything = []
        for name, layer in self._layers.items():
            nats, normalised = layer.entropies()
            everything.append((nats, normalised))
            more, values = _facts(name, nats, normalised, keep=True)
            facts += more
            kept += values
        nats, normalised = (np.concatenate(part) for part in zip(*everything, strict=True))
        whole, _ = _facts(ALL, nats, normalised, keep=False)
        return Found((*facts, *whole), tuple(kept))


def _check(layer: str, pattern: Tensor) -> None:
    if bool((pattern < 0).any()):
        raise CheckpointError(
            "unsupported",
            f"{layer}: its attention module shows scores with negative entries, not a pattern after softmax",
        )


def _facts(layer: str, nats: np.ndarray, normalised: np.ndarray, keep: bool) -> tuple[list[Fact], list[NeuronValues]]:
    entropy, one = distribution("attention_entropy", layer, nats, "head", keep)
    relative, other = distribution("attention_entropy_normalised", layer, normalised, "head", keep)
    known = normalised[np.isfinite(normalised)]
    shares = [
        Fact(f"attention_entropy_{name}", layer, float(which.mean()) if len(known) else float("nan"), None, len(known))
        for name, which in (("overload", known > OVERLOADED), ("low", known < LOW))
    ]
    return [entropy, relative, *shares], [*one, *other]
